"""Optimizers of live weights against torch's own on masked dense tensors."""

import copy

import pytest
import torch
from torch import nn

import snn_sparse as ss

OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2}),
    "plain sgd": (torch.optim.SGD, {"lr": 0.1}),
    "nesterov": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "adam": (torch.optim.Adam, {"lr": 0.05, "weight_decay": 1e-2}),
    "amsgrad": (torch.optim.Adam, {"lr": 0.05, "amsgrad": True}),
    "adamw": (torch.optim.AdamW, {"lr": 0.05, "weight_decay": 1e-2}),
}


def network():
    model = nn.Sequential(nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(20, 7)).double()
    alive = {n: torch.rand(p.shape) < 0.3 for n, p in model.named_parameters() if p.dim() > 1}
    with torch.no_grad():
        for n, m in alive.items():
            model.get_parameter(n).mul_(m)
    return model, alive


def step(model, optimizer, alive, x):
    optimizer.zero_grad()
    model(x).square().sum().backward()
    for n, m in alive.items():
        model.get_parameter(n).grad.mul_(m)
    optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_same_numbers_as_torch(name):
    kind, options = OPTIMIZERS[name]
    model, alive = network()
    dense = copy.deepcopy(model)
    live = ss.live_optimizer(kind, model, alive, **options)
    reference = kind(dense.parameters(), **options)
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(o, 6) for o in (live, reference)]
    for _ in range(6):
        x = torch.randn(3, 2, 4, 4, dtype=torch.float64)
        step(model, live, alive, x)
        step(dense, reference, alive, x)
        for schedule in schedules:
            schedule.step()
        for (n, p), q in zip(model.named_parameters(), dense.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-13, atol=1e-15, msg=n)
    for n, m in alive.items():
        assert torch.count_nonzero(model.get_parameter(n)[~m]) == 0
    sizes = {v.numel() for s in live.state.values() for v in s.values() if v.dim() > 0}
    assert sizes <= {int(m.sum()) for m in alive.values()} | {5, 7}


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_state_is_saved_and_loaded(name):
    kind, options = OPTIMIZERS[name]
    model, alive = network()
    live = ss.live_optimizer(kind, model, alive, **options)
    x = torch.randn(4, 3, 2, 4, 4, dtype=torch.float64)
    step(model, live, alive, x[0])
    twin = copy.deepcopy(model)
    other = ss.live_optimizer(kind, twin, alive, **options)
    other.load_state_dict(copy.deepcopy(live.state_dict()))
    for batch in x[1:]:
        step(model, live, alive, batch)
        step(twin, other, alive, batch)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q)


def test_weights_changed_from_outside_count():
    model, alive = network()
    live = ss.live_optimizer(torch.optim.SGD, model, alive, lr=0.0)
    with torch.no_grad():
        for n, m in alive.items():
            model.get_parameter(n).copy_(2.0 * m)
    step(model, live, alive, torch.randn(3, 2, 4, 4, dtype=torch.float64))
    assert all(torch.equal(model.get_parameter(n), 2.0 * m) for n, m in alive.items())


def test_parameters_without_gradient_stay():
    model, alive = network()
    live = ss.live_optimizer(torch.optim.SGD, model, alive, lr=0.1, weight_decay=0.5)
    before = {n: p.clone() for n, p in model.named_parameters()}
    live.step()
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_zero_grad():
    model, alive = network()
    live = ss.live_optimizer(torch.optim.SGD, model, alive, lr=0.1)
    model(torch.randn(3, 2, 4, 4, dtype=torch.float64)).sum().backward()
    live.zero_grad(set_to_none=False)
    assert all(torch.count_nonzero(p.grad) == 0 for p in model.parameters())
    live.zero_grad()
    assert all(p.grad is None for p in model.parameters())


def test_empty_and_full_masks():
    model, alive = network()
    for m in alive.values():
        m.zero_()
    alive["3.weight"].fill_(True)
    with torch.no_grad():
        model[0].weight.zero_()
    live = ss.live_optimizer(torch.optim.Adam, model, alive, lr=0.1)
    step(model, live, alive, torch.randn(3, 2, 4, 4, dtype=torch.float64))
    assert torch.count_nonzero(model[0].weight) == 0


def test_wrong_arguments():
    model, alive = network()
    with pytest.raises(ValueError, match=r"'9\.weight' is no parameter"):
        ss.live_optimizer(torch.optim.SGD, model, {"9.weight": alive["0.weight"]}, lr=0.1)
    with pytest.raises(ValueError, match=r"'0\.weight'"):
        ss.live_optimizer(torch.optim.SGD, model, {"0.weight": alive["3.weight"]}, lr=0.1)
    with pytest.raises(ValueError, match="closure"):
        ss.live_optimizer(torch.optim.SGD, model, alive, lr=0.1).step(lambda: 0)
