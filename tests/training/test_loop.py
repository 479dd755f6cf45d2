import copy

import pytest
import torch

import snn_sparse as ss
from snn_sparse.training import (
    ImageSet,
    NonFiniteLossError,
    TrainStep,
    evaluate,
    make_optimizer,
    make_scheduler,
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


def test_prediction_is_by_the_sum_over_all_steps():
    """Not by the last step, the first, the largest single answer, or the most votes."""
    logits = torch.tensor(
        [
            [[5.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 1.0]],
            [[0.0, 1.0, 0.0], [4.0, 0.0, 0.0], [0.0, 2.0, 0.0]],
            [[0.0, 1.0, 0.0], [0.0, 3.0, 0.0], [3.0, 0.0, 2.5]],
        ]
    )
    assert ss.predict(logits).tolist() == [0, 1, 2]

    class Answers(torch.nn.Module):
        def forward(self, x):
            return logits[:, : len(x)]

    images = torch.zeros(3, 1, 2, 2, dtype=torch.uint8)
    for labels, accuracy in (([0, 1, 2], 100), ([0, 1, 0], 200 / 3), ([1, 1, 0], 100 / 3)):
        data = ImageSet(images, torch.tensor(labels), (0.0,), (1.0,))
        assert evaluate(Answers(), data) == pytest.approx(accuracy)


@pytest.mark.parametrize("training", [True, False])
def test_modes(tiny, training):
    """Evaluation keeps the mode and moves no statistics; an epoch trains whatever the mode was."""
    model = ss.build_model("vgg_small", 10, 1, 2).train(training)
    before = copy.deepcopy(model.state_dict())
    evaluate(model, tiny.test)
    assert all(m.training == training for m in model.modules())
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    train_epoch(model, tiny.train.batches(100), torch.optim.SGD(model.parameters(), 0.1))
    assert model.training
    assert int(model.features[1].num_batches_tracked) == 2
    assert not any(torch.equal(p, before[n]) for n, p in model.named_parameters() if "classifier" in n)


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
def test_optimizers_of_a_masked_network_keep_state_of_live_weights_only(name):
    model = ss.build_model("vgg_small", 10, 1, 2)
    mask = ss.magnitude_mask(model, 95.0)
    mask.apply_(model)
    optimizer = make_optimizer(model, name, 0.3, momentum=0.8, weight_decay=0.1, keep=mask)
    expected = {"lr": 0.3, "weight_decay": 0.1} | ({"momentum": 0.8} if name == "sgd" else {})
    assert optimizer.defaults.items() >= expected.items()
    ss.temporal_cross_entropy(model(torch.randn(4, 1, 8, 8)), torch.arange(4)).backward()
    optimizer.step()
    kept = sum(v.numel() for s in optimizer.state.values() for v in s.values() if v.dim() > 0)
    others = sum(p.numel() for n, p in model.named_parameters() if n not in mask)
    dense = sum(m.numel() for m in mask.values() if 2 * int(m.sum()) > m.numel())
    live = sum(int(m.sum()) for m in mask.values() if 2 * int(m.sum()) <= m.numel())
    assert kept == (others + dense + live) * (1 if name == "sgd" else 2)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_fused_optimizers_with_a_rate_in_a_tensor_keep_pruned_entries_at_zero(name, fused):
    model = ss.build_model("vgg_small", 10, 1, 2)
    model = ss.fuse(model) if fused else model
    mask = ss.prune_magnitude(model, ss.Mask.dense(model), 80.0, "local")
    mask.apply_(model)
    options = {"momentum": 0.9} if name == "SGD" else {}
    optimizer = getattr(torch.optim, name)(
        model.parameters(), lr=torch.tensor(0.1), weight_decay=0.01, fused=True, **options
    )
    step = TrainStep(model, optimizer)
    for _ in range(3):
        step(torch.rand(4, 1, 8, 8), torch.randint(0, 10, (4,)))
    for n, keep in mask.items():
        state = optimizer.state[model.get_parameter(n)]
        for x in (model.get_parameter(n), *(v for v in state.values() if v.shape == keep.shape)):
            assert torch.count_nonzero(x[~keep]) == 0
            assert torch.count_nonzero(x[keep]) > 0


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
    assert rates("step", 11) == pytest.approx([1] * 5 + [0.1] * 3 + [0.01] * 3)  # 5.5 and 8.25, rounded down
    assert rates("cosine", 4) == pytest.approx([1, 0.853553, 0.5, 0.146447], abs=1e-5)
    with pytest.raises(ValueError, match="scheduler"):
        make_scheduler(make_optimizer(model, "sgd", 1.0), "linear", 3)
