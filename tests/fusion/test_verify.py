"""Verification: errors that are planted into the compiler's passes are found, and the network computes as it should."""

import copy
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from fusion.compiling import assert_same, gradients, outputs
from spikingjelly.activation_based import functional, neuron, surrogate
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_flatten
from zoo.network import lively

import snn_sparse as ss
from snn_sparse.fusion import sites, stages, verify
from snn_sparse.fusion.neurons import Dynamics, recognise
from snn_sparse.fusion.roll_up import Roller
from snn_sparse.nn import norm

VICTIM = 1.7  # tau of the neuron that is misread


def lif(tau):
    return neuron.LIFNode(tau=tau, surrogate_function=surrogate.ATan(), detach_reset=True)


class Loop(nn.Module):
    """Two layers in a loop over the steps of its input [T, N, C, H, W], the second with a residual."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1, self.sn1 = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), lif(2.0)
        self.conv2, self.bn2, self.sn2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), lif(VICTIM)
        self.drop, self.fc = nn.Dropout(0.0), nn.Linear(4 * 25, 5)

    def forward(self, x):
        out = []
        for t in range(len(x)):
            y = self.sn1(self.bn1(self.conv1(x[t])))
            y = self.sn2(self.bn2(self.conv2(y)) + y)
            out.append(self.fc(self.drop(y.flatten(1))))
        return torch.stack(out)


class Merged(Loop):
    """The same with one call of each layer on T * N samples."""

    def __init__(self):
        super().__init__()
        functional.set_step_mode(self, "m")

    def forward(self, x):
        outer = x.shape[:2]
        y = self.sn1(self.bn1(self.conv1(x.flatten(0, 1))).unflatten(0, outer))
        y = self.sn2((self.bn2(self.conv2(y.flatten(0, 1))) + y.flatten(0, 1)).unflatten(0, outer))
        return self.fc(self.drop(y.flatten(2)))


@pytest.fixture(params=[Loop, Merged])
def model(request):
    return lively(request.param()).double()


@pytest.fixture
def x():
    return torch.randn(4, 6, 3, 5, 5, dtype=torch.float64)


def results(model, x):
    """Outputs, gradients and buffers of one call in training."""
    x = x.clone().requires_grad_()
    found = outputs(model, (x,))
    grads = gradients(model, (x,), found)
    return found, grads, {n: b.double().clone() for n, b in model.named_buffers()}


def differs(a, b):
    try:
        for i, (actual, expected) in enumerate(zip(a, b, strict=True)):
            assert_same(actual, expected, 1e-7, str(i))
    except AssertionError:
        return True
    return False


def found_out(model, x):
    """What :func:`ss.explain` says, once it is sure that the error matters unverified, and does not verified."""
    expected = results(copy.deepcopy(model), x)
    assert differs(results(ss.fuse(copy.deepcopy(model), verify=False), x), expected)
    fused = ss.fuse(copy.deepcopy(model))
    assert not differs(results(fused, x), expected)
    return ss.explain(fused)


def test_nothing_planted(model, x):
    expected = results(copy.deepcopy(model), x)
    fused = ss.fuse(model)
    assert not differs(results(fused, x), expected)
    assert {"sn1", "sn2"} <= set(ss.explain(fused).fused)
    assert not ss.explain(fused).left


# ---- what the neurons are taken for


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"tau": 1.5}, "its spikes differ"),
        ({"decay_input": False}, "its spikes differ"),
        ({"v_threshold": 1.1}, "its spikes differ"),
        ({"v_reset": None}, "its spikes differ"),
        ({"surrogate": "sigmoid", "alpha": 4.0}, "its gradient differs"),
        ({"alpha": 2.5}, "its gradient differs"),
        ({"detach_reset": False}, "its gradient differs"),
    ],
)
def test_a_neuron_taken_for_another_is_put_back(model, x, wrong, reason, monkeypatch):
    def answer(module, *args):
        found = recognise(module, *args)
        if not isinstance(found, Dynamics) or getattr(module, "tau", None) != VICTIM:
            return found
        return replace(found, read=lambda m: (replace(found.read(m)[0], **wrong), found.read(m)[1]))

    monkeypatch.setattr(sites, "recognise", answer)
    explained = found_out(model, x)
    assert reason in explained.left["sn2"]
    assert list(explained.left) == ["sn2"]
    assert {"sn1", "conv1", "bn1", "conv2", "bn2", "fc"} <= set(explained.fused)


# ---- what the passes may get wrong


def falls_back(model, x, what=""):
    explained = found_out(model, x)
    assert not explained.fused
    assert f"it differs from the original: {what}" in explained.left[""]


def test_statistics_taken_for_the_other_kind(model, x, monkeypatch):
    right = stages.Builder._norm_settings

    def wrong(*args):
        found = right(*args)
        return replace(found, statistics="pooled" if found.statistics == "per_step" else "per_step")

    monkeypatch.setattr(stages.Builder, "_norm_settings", wrong)
    falls_back(model, x, "output 0")


@pytest.mark.parametrize("wrong", [lambda x: x.flip(0), lambda x: x.roll(1, 0)], ids=["reversed", "off by one"])
def test_steps_out_of_order(x, wrong, monkeypatch):
    model, right = lively(Loop()).double(), Roller._roll

    def roll(self, pack):
        steps = right(self, pack)
        if pack.slices is None:
            return steps
        return replace(steps, node=self.emit(wrong, (steps.node,)))

    monkeypatch.setattr(Roller, "_roll", roll)
    falls_back(model, x, "output 0")


def test_running_statistics_that_move_too_far(model, x, monkeypatch):
    right = norm.update_factors
    monkeypatch.setattr(norm, "update_factors", lambda *args: [2 * f for f in right(*args)])
    falls_back(model, x, "bn1.running_")


def test_too_few_updates_counted(model, x, monkeypatch):
    right = norm.update_factors

    def wrong(module, updates):
        factors = right(module, updates)
        module.num_batches_tracked.sub_(1)
        return factors

    monkeypatch.setattr(norm, "update_factors", wrong)
    falls_back(model, x, "bn1.num_batches_tracked")


def test_a_residual_that_is_lost(model, x, monkeypatch):
    right = stages.Builder._close

    def wrong(self, stage):
        stage.residual = stage.norm_residual = None
        return right(self, stage)

    monkeypatch.setattr(stages.Builder, "_close", wrong)
    falls_back(model, x, "output 0")


def test_potentials_that_are_not_kept(model, x, monkeypatch):
    monkeypatch.setattr(sites.Adapter, "finish", lambda *_: None)
    expected = copy.deepcopy(model)
    for _ in range(2):
        wanted = outputs(expected, (x,))
    fused = ss.fuse(copy.deepcopy(model), x)
    assert "the state of sn1" in ss.explain(fused).left[""]
    for _ in range(2):
        found = outputs(fused, (x,))
    assert_same(found, wanted, 1e-9)


# ---- what verification costs and leaves


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
        monkeypatch.setattr(stages.Builder, "_norm_settings", lambda *_: norm.NormSettings("pooled", 3))
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
