"""Wrong masks, labels, models and optimizers are refused by name before anything has changed."""

import copy

import pytest
import torch
from torch import nn

import snn_sparse as ss
from snn_sparse.training import TrainStep
from snn_sparse.training import step as step_module
from snn_sparse.training.step import WARMUP


def network():
    return ss.build_model("vgg_small", 4, 1, 2)


def batch(n=6):
    return torch.rand(n, 1, 8, 8), torch.randint(0, 4, (n,))


WRONG_MASKS = {
    "float": lambda m: m.float(),
    "integer": lambda m: m.to(torch.uint8),
    "list": lambda m: m.tolist(),
    "numpy": lambda m: m.numpy(),
    "nothing": lambda m: None,
}


@pytest.mark.parametrize("kind", WRONG_MASKS)
def test_masks_that_are_not_bool(kind):
    model = network()
    keep = {n: torch.rand(p.shape) < 0.3 for n, p in ss.tickets.prunable(model).items()}
    name = list(keep)[int(torch.randint(0, len(keep), ()))]
    keep[name] = WRONG_MASKS[kind](keep[name])
    with pytest.raises(TypeError, match=f"keep: {name!r} must be a bool tensor"):
        ss.live_optimizer(torch.optim.SGD, model, keep, lr=0.1)


def test_live_optimizers_of_other_things():
    model = network()
    keep = ss.Mask.dense(model)
    assert ss.live_optimizer(torch.optim.SGD, model, {}, lr=0.1).param_groups[0]["params"] == list(model.parameters())
    with pytest.raises(ValueError, match=r"'0\.weight' is no parameter"):  # another network's
        ss.live_optimizer(torch.optim.SGD, model, {"0.weight": torch.ones(3, dtype=torch.bool)}, lr=0.1)
    with pytest.raises(TypeError, match=r"^model must"):
        ss.live_optimizer(torch.optim.SGD, model.state_dict(), keep, lr=0.1)
    for wrong in (None, list(keep.values()), model):
        with pytest.raises(TypeError, match=r"^keep must"):
            ss.live_optimizer(torch.optim.SGD, model, wrong, lr=0.1)
    for wrong in ("sgd", None, nn.Module, torch.optim.SGD(model.parameters(), 0.1)):
        with pytest.raises(TypeError, match=r"^kind must"):
            ss.live_optimizer(wrong, model, keep, lr=0.1)


WRONG_LABELS = {
    "too large": (lambda y: y.index_fill(0, torch.tensor(2), 4), ValueError),
    "negative": (lambda y: y.index_fill(0, torch.tensor(2), -1), ValueError),
    "torch's ignored": (lambda y: y.index_fill(0, torch.tensor(2), -100), ValueError),
    "too few": (lambda y: y[:-1], ValueError),
    "one hot": (lambda y: nn.functional.one_hot(y, 4), ValueError),
    "column": (lambda y: y[:, None], ValueError),
    "float": (lambda y: y.float(), TypeError),
    "probabilities": (lambda y: nn.functional.one_hot(y, 4).float(), TypeError),
    "int32": (lambda y: y.int(), TypeError),
    "list": (lambda y: y.tolist(), TypeError),
}


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", WRONG_LABELS)
def test_wrong_labels_change_no_parameter(kind, dtype, fused):
    model = network()
    model = ss.fuse(model) if fused else model
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    step = TrainStep(model, optimizer, dtype=dtype)
    step(*batch())
    kept = {n: p.detach().clone() for n, p in model.named_parameters()}
    momentum = copy.deepcopy(optimizer.state_dict())["state"]
    x, y = batch()
    wrong, error = WRONG_LABELS[kind]
    with pytest.raises(error, match=r"^y must"):
        step(x, wrong(y))
    assert all(torch.equal(p, kept[n]) for n, p in model.named_parameters())
    for n, values in optimizer.state_dict()["state"].items():
        assert torch.equal(values["momentum_buffer"], momentum[n]["momentum_buffer"])
    assert step(x, y).isfinite()


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("kind", ["too few", "one hot", "float", "int32", "list"])
def test_labels_of_another_kind_are_not_fed_to_a_captured_step(kind):
    model = network()
    step = TrainStep(model, torch.optim.SGD(model.parameters(), torch.tensor(0.1)))
    for _ in range(WARMUP + 2):
        step(*batch())
    x, y = batch()
    wrong, error = WRONG_LABELS[kind]
    with pytest.raises(error, match=r"^y must"):
        step(x, wrong(y))
    assert step(x, y).isfinite()


def test_steps_of_other_things():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(TypeError, match=r"^model must"):
        TrainStep(model.forward, optimizer)
    for wrong in (None, "sgd", torch.optim.SGD):
        with pytest.raises(TypeError, match=r"^optimizer must"):
            TrainStep(model, wrong)
    x, y = batch()
    for wrong in (None, x.tolist(), x.numpy()):
        with pytest.raises(TypeError, match=r"^x must"):
            TrainStep(model, optimizer)(wrong, y)
    for dtype in ("fp32", None, torch.int64):
        with pytest.raises(ValueError, match=r"^dtype must"):
            step_module.check_precision(dtype)
