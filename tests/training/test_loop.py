import copy

import pytest
import torch

import snn_sparse as ss
from snn_sparse.training import (
    NonFiniteLossError,
    TrainStep,
    evaluate,
    make_optimizer,
    make_scheduler,
    optim,
    train_epoch,
)


def test_mean_loss_is_over_images():
    model = ss.build_model("vgg_small", 10, 1, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    batches = [(torch.randn(n, 1, 8, 8), torch.randint(0, 10, (n,))) for n in (6, 2)]
    losses = [ss.temporal_cross_entropy(model(x), y).item() for x, y in batches]
    assert train_epoch(model, batches, optimizer) == pytest.approx((6 * losses[0] + 2 * losses[1]) / 8, rel=1e-5)


def test_a_step_that_overwrites_its_loss():
    """As captured ones do: the mean is of what it held after each batch."""
    model = ss.build_model("vgg_small", 10, 1, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    batches = [(torch.randn(n, 1, 8, 8), torch.randint(0, 10, (n,))) for n in (6, 6, 2)]
    twin = copy.deepcopy(model)
    expected = train_epoch(twin, batches, torch.optim.SGD(twin.parameters(), 0.1))
    kept = torch.zeros(())

    class Overwriting(TrainStep):
        def __call__(self, x, y):
            return kept.copy_(super().__call__(x, y))

    assert train_epoch(model, batches, optimizer, Overwriting(model, optimizer)) == expected
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q)


def test_a_step_of_another_model_or_optimizer():
    model, other = (ss.build_model("vgg_small", 10, 1, 2) for _ in range(2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(ValueError, match="step belongs to another model"):
        train_epoch(other, [], optimizer, TrainStep(model, optimizer))
    with pytest.raises(ValueError, match="or optimizer"):
        train_epoch(model, [], torch.optim.SGD(model.parameters(), 0.1), TrainStep(model, optimizer))


def test_precision_of_training_and_evaluation(tiny):
    model = ss.build_model("vgg_small", 10, 1, 2)
    seen = []
    model.features[0].register_forward_hook(lambda module, given, out: seen.append(out.dtype))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    train_epoch(model, tiny.train.batches(100), optimizer, TrainStep(model, optimizer, dtype=torch.bfloat16))
    evaluate(model, tiny.test, dtype=torch.bfloat16)
    assert seen == [torch.bfloat16] * 3
    train_epoch(model, tiny.train.batches(100), optimizer)
    evaluate(model, tiny.test)
    assert seen[3:] == [torch.float32] * 3
    with pytest.raises(ValueError, match="use bfloat16"):
        evaluate(model, tiny.test, dtype=torch.float16)


def test_accuracy_counts_every_image_and_keeps_the_mode(tiny):
    model = ss.build_model("vgg_small", 10, 1, 2).train()
    with torch.no_grad():
        expected = (ss.predict(model.eval()(tiny.test.normalise(tiny.test.images))) == tiny.test.labels).float().mean()
    model.train()
    assert evaluate(model, tiny.test, batch_size=7) == pytest.approx(100 * expected.item())
    assert model.training


@pytest.mark.parametrize("bad", ["input", "weight"])
def test_a_loss_that_is_not_finite_stops(bad):
    model = ss.build_model("vgg_small", 10, 1, 2)
    if bad == "weight":
        torch.nn.init.constant_(model.classifier.weight, float("nan"))
    x = torch.full((4, 1, 8, 8), float("nan" if bad == "input" else 1))
    with pytest.raises(NonFiniteLossError):
        train_epoch(model, [(x, torch.zeros(4).long())], torch.optim.SGD(model.parameters(), 0.1))


def test_published_optimizers():
    model = ss.build_model("vgg_small", 10, 1, 2)
    sgd = make_optimizer(model, "sgd", 0.3).defaults
    assert (sgd["lr"], sgd["momentum"], sgd["weight_decay"], sgd["dampening"]) == (0.3, 0.9, 5e-4, 0)
    assert make_optimizer(model, "adam", 0.3).defaults["weight_decay"] == 0
    assert make_optimizer(model, "adam", 0.3, weight_decay=0.1).defaults["weight_decay"] == 0.1
    with pytest.raises(ValueError, match="optimizer"):
        make_optimizer(model, "lion", 0.3)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_kernels_take_the_mask_and_the_options(name, monkeypatch):
    """Where they run, which is not on a CPU."""
    model = ss.build_model("vgg_small", 10, 1, 2)
    assert type(make_optimizer(model, name, 0.3)) in (torch.optim.SGD, torch.optim.Adam)
    given = {}

    def fused(kind):
        return lambda model, alive, **options: given.update(kind=kind, model=model, alive=alive, options=options)

    for kind in ("SGD", "Adam"):
        monkeypatch.setattr(optim, f"Fused{kind}", fused(kind.lower()))
    monkeypatch.setattr(optim, "_kernels_take", lambda model: True)
    mask = ss.Mask.dense(model)
    make_optimizer(model, name, 0.3, momentum=0.8, weight_decay=0.1, alive=mask)
    expected = {"lr": 0.3, "weight_decay": 0.1} | ({"momentum": 0.8} if name == "sgd" else {})
    assert given == {"kind": name, "model": model, "alive": mask, "options": expected}


def test_schedules():
    model = ss.build_model("vgg_small", 10, 1, 2)

    def rates(name, epochs):
        optimizer = make_optimizer(model, "sgd", 1.0)
        scheduler = make_scheduler(optimizer, name, epochs)
        found = []
        for _ in range(epochs):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return found

    assert rates("step", 8) == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    assert rates("cosine", 4) == pytest.approx([1, 0.853553, 0.5, 0.146447], abs=1e-5)
    with pytest.raises(ValueError, match="scheduler"):
        make_scheduler(make_optimizer(model, "sgd", 1.0), "linear", 3)
