import pytest
import torch

import snn_sparse as ss
from snn_sparse.training import NonFiniteLossError, evaluate, make_optimizer, make_scheduler, train_epoch


def test_mean_loss_is_over_images():
    model = ss.build_model("vgg_small", 10, 1, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    batches = [(torch.randn(n, 1, 8, 8), torch.randint(0, 10, (n,))) for n in (6, 2)]
    losses = [ss.temporal_cross_entropy(model(x), y).item() for x, y in batches]
    assert train_epoch(model, batches, optimizer) == pytest.approx((6 * losses[0] + 2 * losses[1]) / 8, rel=1e-5)


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
