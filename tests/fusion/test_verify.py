"""Verification: errors that are planted into the compiler's passes are found, and the network computes as it should."""

import copy
from dataclasses import replace

import pytest
import torch
from fusion.compiling import assert_same, outputs
from fusion.planted import VICTIM, Loop, Merged, differs, results
from zoo.network import lively

import snn_sparse as ss
from snn_sparse.fusion import join_layers, sites
from snn_sparse.fusion.neurons import Dynamics, recognise
from snn_sparse.fusion.roll_up import Roller
from snn_sparse.fusion.walk import Walk
from snn_sparse.nn import norm


@pytest.fixture(params=[Loop, Merged])
def model(request):
    return lively(request.param()).double()


@pytest.fixture
def x():
    return torch.randn(4, 6, 3, 5, 5, dtype=torch.float64)


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
    right = join_layers._settings

    def wrong(*args):
        found = right(*args)
        return replace(found, statistics="pooled" if found.statistics == "per_step" else "per_step")

    monkeypatch.setattr(join_layers, "_settings", wrong)
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
    right = Walk._write

    def wrong(self, stage):
        stage.residual = stage.norm_residual = None
        return right(self, stage)

    monkeypatch.setattr(Walk, "_write", wrong)
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
