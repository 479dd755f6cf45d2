"""Verification: what it costs, that it changes nothing, and that it stands in nobody's way."""

import copy
import random

import numpy as np
import pytest
import torch
from fusion.compiling import assert_same
from fusion.planted import Loop, Merged, differs, results
from spikingjelly.activation_based import functional
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_flatten
from zoo.network import lively

import snn_sparse as ss
from snn_sparse.fusion import join_layers, verify
from snn_sparse.fusion.walk import Walk
from snn_sparse.nn import norm


@pytest.fixture(params=[Loop, Merged])
def model(request):
    return lively(request.param()).double()


@pytest.fixture
def x():
    return torch.randn(4, 6, 3, 5, 5, dtype=torch.float64)


def test_a_mistake_in_a_pass_stops_no_network(model, x, monkeypatch):
    def fails(*_):
        raise KeyError("a pass of ours")

    monkeypatch.setattr(Walk, "_write", fails)
    expected = results(copy.deepcopy(model), x)
    fused = ss.fuse(model)
    assert not differs(results(fused, x), expected)
    assert ss.explain(fused).left == {"": "it cannot be compiled: KeyError: 'a pass of ours'"}


def test_mistakes_of_the_user_stay_theirs():
    fused = ss.fuse(lively(Loop()))
    with pytest.raises(RuntimeError, match="channels"):
        fused(torch.randn(4, 5, 7, 5, 5))


def real_batches(monkeypatch):
    """Shapes of the batches of numbers, not of fakes, that the original's own forward pass computes."""
    seen, right = [], Loop.forward

    def forward(self, x):
        if not isinstance(x, FakeTensor):
            seen.append((tuple(x.shape), x.dtype))
        return right(self, x)

    monkeypatch.setattr(Loop, "forward", forward)
    return seen


def test_a_few_samples_are_enough(monkeypatch):
    seen = real_batches(monkeypatch)
    fused = ss.fuse(lively(Loop()))
    x = torch.randn(4, 50, 3, 5, 5)
    fused(x)
    assert seen == [((4, 4, 3, 5, 5), torch.float64)]
    fused(x)
    fused(torch.randn(3, 50, 3, 5, 5))
    assert len(seen) == 1  # another shape is compiled, and not checked again
    fused.eval()
    functional.reset_net(fused)
    fused(x)
    assert seen[1:] == [((4, 4, 3, 5, 5), torch.float64)]


def test_left_out_when_asked(monkeypatch):
    seen = real_batches(monkeypatch)
    ss.fuse(lively(Loop()), verify=False)(torch.randn(4, 5, 3, 5, 5))
    assert not seen


def world(model):
    """All that verification must leave alone."""
    found = {n: t.detach().clone() for n, t in (*model.named_parameters(), *model.named_buffers())}
    found |= {f"{n}.grad": p.grad.clone() for n, p in model.named_parameters()}
    found |= {f"{n}.v": torch.as_tensor(m.v).clone() for n, m in model.named_modules() if hasattr(m, "v")}
    flags = [(n, p.requires_grad) for n, p in model.named_parameters()], [m.training for m in model.modules()]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    return found, (*flags, hooks, torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002


@pytest.mark.parametrize("planted", [False, True], ids=["agrees", "differs"])
def test_nothing_changes(model, x, planted, monkeypatch):
    model.drop.p = 0.5
    with torch.no_grad():
        model(x)  # a state to keep
    fused = ss.fuse(model, verify=True)
    ss.magnitude_mask(fused, percent=50.0).apply_(fused)
    for p in fused.parameters():
        p.grad = torch.randn_like(p)
    if planted:
        monkeypatch.setattr(join_layers, "_settings", lambda *_: norm.NormSettings("pooled", 3))
    before = world(fused)
    compiler = fused.__dict__["_fused_compiler"]
    inputs, spec = tree_flatten(((x,), {}))
    problem = verify.disagreement(compiler, fused, inputs, spec)
    assert bool(problem) == planted
    after = world(fused)
    assert_same(after[0], before[0], 0.0)
    assert after[1] == before[1]


def test_a_network_that_holds_a_state_is_checked_from_there(model, x):
    with torch.no_grad():
        model(x), model(x)
    expected = results(copy.deepcopy(model), x)
    fused = ss.fuse(model)
    assert not differs(results(fused, x), expected)
    assert {"sn1", "sn2"} <= set(ss.explain(fused).fused)
