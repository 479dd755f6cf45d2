"""Home-made neurons: the module itself is the oracle; what is none of ours is refused in one line."""

import dataclasses
import pickle
import random
import time
from functools import partial

import homemade_case as case
import numpy as np
import pytest
import stranger_case
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from neuron_case import assert_same
from torch import nn

from snn_sparse.fusion.neurons import is_stateful, looks_like_neuron, player, recognise
from snn_sparse.nn import LIF, ParametricLIF
from snn_sparse.specs import NeuronSpec

T, N, C = 4, 3, 5
SEQUENCE = [torch.Size((T, N, C, 2, 2))]
STEP = [torch.Size((N, C, 2, 2))]

# module, shapes of the tensors that it is called with, calls, and what must be found
KNOWN = {
    "mem_update": (partial(case.MemUpdate, T), SEQUENCE, 1, {"decay": 0.25, "strict": True, "surrogate": "rectangle"}),
    "batch first": (case.BatchFirst, [torch.Size((N, T, C, 2))], 1, {"detach_reset": False, "surrogate": "triangle"}),
    "odd numbers": (partial(case.BatchFirst, 0.37, 0.61, 0.7), [torch.Size((N, T, C))], 1, {"v_threshold": 0.61}),
    "late": (case.SoftAfterDecay, SEQUENCE, 1, {"late_reset": True, "decay": 0.9, "v_threshold": 1.2}),
    "soft": (case.SoftBeforeDecay, SEQUENCE, 1, {"late_reset": False, "v_reset": None, "detach_reset": True}),
    "soft, attached": (partial(case.SoftBeforeDecay, False), SEQUENCE, 1, {"v_reset": None, "detach_reset": False}),
    "time last": (case.TimeLast, [torch.Size((N, C, 2, 2, T))], 1, {"kind": "lif", "tau": 2.0, "v_threshold": 1.0}),
    "mixing": (case.Mixing, SEQUENCE, 1, {"decay": 0.7, "strict": True}),
    "long": (case.SoftBeforeDecay, [torch.Size((50, N, C))], 1, {"decay": 0.8}),
    "one channel": (case.SoftBeforeDecay, [torch.Size((T, 1))], 1, {"decay": 0.8}),
    "self.mem": (case.SelfMem, STEP, T, {"decay": 0.6, "v_threshold": 1.0, "strict": False}),
    "self.mem, gain": (partial(case.SelfMem, 0.25), STEP, T, {"decay": 0.6, "v_threshold": 1.0}),
    "self.mem and spike": (case.SelfMemAndSpike, STEP, T, {"decay": 0.5, "detach_reset": False}),
    "from below": (case.FromBelow, STEP, T, {"kind": "lif", "tau": 1.5, "v_threshold": 1.0, "v_reset": -0.3}),
    "keeps a sequence": (case.KeepsSequence, SEQUENCE, 1, {"decay": 0.9, "v_reset": None}),
    "activation": (partial(case.WithActivation, T), SEQUENCE, 1, {"decay": 0.25, "surrogate": "rectangle"}),
    "insists": (partial(case.Insists, 7, C), [torch.Size((7, C))], T, {"decay": 0.75, "v_threshold": 0.9}),
    "explicit": (case.Explicit, STEP * 2, T, {"decay": 0.5, "detach_reset": False}),
    "explicit, first call": (case.Explicit, STEP, T, {"decay": 0.5}),
    "fixed parameter": (case.Frozen, SEQUENCE, 1, {"v_threshold": 1.0}),
}


@pytest.mark.parametrize("name", KNOWN)
def test_recognised(name):
    make, shapes, calls, expected = KNOWN[name]
    module = make()
    began = time.monotonic()
    found = recognise(module, shapes, calls, {})
    assert not isinstance(found, str), found
    assert time.monotonic() - began < player.SECONDS
    assert looks_like_neuron(module)
    spec, rate = found.read(module)
    assert rate is None
    assert {key: getattr(spec, key) for key in expected} == expected
    steps = 50 if name == "long" else T
    for dtype in (torch.float64, torch.float32):
        assert_same(module, found, (steps, 7, C), dtype=dtype)


def test_a_module_that_computes_in_float32():
    found = recognise(case.Single(), SEQUENCE, 1, {})
    spec, _ = found.read(None)
    assert (spec.decay, spec.v_threshold, spec.strict, spec.detach_reset) == (0.9, 0.6, True, False)
    assert (spec.surrogate, spec.alpha, spec.height) == ("rectangle", 10 / 7, 1.0)
    assert_same(case.Single(), found, (T, 20, C), dtype=torch.float32)


def test_large_modules_take_no_long():
    began = time.monotonic()
    for shape in ((4, 32, 8, 196, 64), (128, 4, 3, 224, 224)):
        assert isinstance(recognise(stranger_case.Attention(), [torch.Size(shape)], 1, {}), str)
    found = recognise(case.BatchFirst(), [torch.Size((64, 4, 64, 56, 56))], 1, {})
    assert found.time_axis == 1
    assert time.monotonic() - began < 2 * player.SECONDS


@settings(deadline=None, max_examples=15)
@given(
    options=st.fixed_dictionaries(
        {
            "decay": st.floats(0.05, 1.0) | st.sampled_from([0.2, 0.5, 0.9, 1 - 1 / 3]),
            "threshold": st.floats(0.1, 20) | st.sampled_from([1.0, 0.3, 15.0]),
            "steepness": st.floats(0.5, 10),
            "reset": st.sampled_from(["zero", "subtract"]),
            "detach": st.booleans(),
            "strict": st.booleans(),
            "average": st.booleans(),
        }
    )
)
def test_any_numbers(options):
    if options["decay"] > 0.95:
        options["average"] = False  # it would take in next to nothing
    module = case.Options(**options)
    found = recognise(module, SEQUENCE, 1, {})
    scale = options["threshold"] / (1 - options["decay"] if options["average"] else 1)
    for dtype in (torch.float64, torch.float32):
        assert_same(module, found, (T, 20, C), scale=scale, dtype=dtype)


@pytest.mark.parametrize(("name", "state"), [("self.mem", "mem"), ("keeps a sequence", "v"), ("explicit", None)])
def test_state(name, state):
    make, shapes, calls, _ = KNOWN[name]
    module = make()
    found = recognise(module, shapes, calls, {})
    assert found.state == state
    assert is_stateful(module) == (state is not None)
    v = torch.rand(2, 3)
    assert found.start(module, v) is None
    found.finish(module, v)
    if state is not None:
        assert getattr(module, state) is v
        assert found.start(module, v) is v
        assert found.start(module, torch.zeros(4)) is None


def test_a_state_that_is_left_from_before_is_forgotten():
    module = case.SelfMem()
    module(torch.randn(7, 9, requires_grad=True) * torch.ones(1))  # holds a graph
    found = recognise(module, STEP, T, {})
    assert found.state == "mem"


@pytest.mark.parametrize(
    "change",
    [
        {"decay": 0.6001},
        {"v_threshold": 1.00001},
        {"v_reset": None},
        {"detach_reset": False},
        {"surrogate": "sigmoid"},
        {"alpha": 2.1},
        {"kind": "if"},
    ],
    ids=str,
)
def test_the_oracle_tells_a_wrong_specification(change):
    make, shapes, calls, _ = KNOWN["self.mem"]
    found = recognise(make(), shapes, calls, {})
    spec, _ = found.read(make())
    wrong = dataclasses.replace(found, read=lambda module: (dataclasses.replace(spec, **change), None))
    with pytest.raises(AssertionError):
        assert_same(make(), wrong, (T, 100, 100))


REFUSED = {
    "adaptive": (stranger_case.Adaptive, "reset"),
    "rarely adaptive": (stranger_case.RarelyAdaptive, "fires otherwise"),
    "two states": (stranger_case.TwoStates, ""),
    "not causal": (stranger_case.NotCausal, "later"),
    "quadratic": (stranger_case.Quadratic, "linear"),
    "no memory": (stranger_case.NoMemory, "earlier"),
    "neighbours": (stranger_case.Neighbours, "another"),
    "one place": (stranger_case.OnePlace, "where it is"),
    "noisy": (stranger_case.Noisy, ""),
    "rectifier": (stranger_case.Rectifier, "0 and 1"),
    "raises": (stranger_case.Raises, "RuntimeError"),
    "no gradient": (stranger_case.NoGradient, "gradient"),
    "learnt": (partial(case.Frozen, True), "threshold"),
    "one per channel": (partial(case.Frozen, False, (C, 1, 1)), ""),
    "relu": (nn.ReLU, "PyTorch"),
    "dropout": (nn.Dropout, "PyTorch"),
    "identity": (nn.Identity, "PyTorch"),
    "flatten": (nn.Flatten, "PyTorch"),
}


@pytest.mark.parametrize("calls", [1, T])
@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, calls, capsys):
    make, word = REFUSED[name]
    module = make()
    if name == "one per channel":
        with torch.no_grad():
            module.threshold[1] += 0.5
    capsys.readouterr()
    states = random.getstate(), np.random.get_state()[1].copy(), torch.random.get_rng_state()  # noqa: NPY002
    reason = recognise(module, SEQUENCE, calls, {})
    assert isinstance(reason, str)
    assert word in reason
    assert "\n" not in reason
    assert capsys.readouterr().out == ""
    assert random.getstate() == states[0]
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert torch.equal(torch.random.get_rng_state(), states[2])


def test_shapes_that_are_no_neurons():
    for shapes in ([], [torch.Size(())], [torch.Size((3,))], [torch.Size((3, 4)), torch.Size((3, 5))], STEP * 3):
        assert isinstance(recognise(case.SoftBeforeDecay(), shapes, 1, {}), str)


def test_the_module_is_left_alone():
    module = case.SelfMem()
    calls = []
    module.register_forward_hook(lambda *_: calls.append(1))
    assert not isinstance(recognise(module, STEP, T, {}), str)
    assert module.mem is None
    assert calls == []
    frozen = case.Frozen()
    recognise(frozen, SEQUENCE, 1, {})
    assert frozen.threshold.dtype == torch.float32
    assert frozen.threshold.grad is None


@pytest.mark.parametrize("name", ["self.mem", "self.mem and spike", "explicit", "late"])
def test_dynamics_can_be_pickled(name):
    make, shapes, calls, _ = KNOWN[name]
    module = make()
    found = pickle.loads(pickle.dumps(recognise(module, shapes, calls, {})))
    assert_same(module, found, (T, 7, C))


def test_under_no_grad_and_inference_mode():
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            module = type("Own", (case.BatchFirst,), {})()
            assert not isinstance(recognise(module, [torch.Size((N, T, C))], 1, {}), str)


def test_equal_modules_are_probed_once():
    counted = []

    class Counted(case.BatchFirst):
        def forward(self, x):
            counted.append(1)
            return super().forward(x)

    shapes = [torch.Size((N, T, C))]
    first = recognise(Counted(), shapes, 1, {})
    probed = len(counted)
    assert recognise(Counted(), shapes, 1, {}) is first
    assert len(counted) == probed > 0
    assert recognise(Counted(0.25), shapes, 1, {}).read(None)[0].decay == 0.25
    assert len(counted) > probed


def test_named_classes_are_taken_as_told():
    spec = NeuronSpec("leaky", decay=0.9, v_threshold=3.0)
    found = recognise(stranger_case.TwoStates(), SEQUENCE, 1, {stranger_case.TwoStates: spec})
    assert found.read(None) == (spec, None)
    assert found.time_axis == 0
    true = NeuronSpec("leaky", decay=0.6, alpha=2.0)
    found = recognise(case.SelfMem(), STEP, T, {case.SelfMem: true})
    assert (found.time_axis, found.state) == (None, "mem")
    assert_same(case.SelfMem(), found, (T, N, C))
    assert "rate" in recognise(case.SelfMem(), STEP, T, {case.SelfMem: NeuronSpec("plif")})


@pytest.mark.parametrize("make", [LIF, ParametricLIF])
def test_our_own(make):
    module = make()
    found = recognise(module, SEQUENCE, 1, {})
    assert looks_like_neuron(module)
    assert not is_stateful(module)
    assert_same(module, found, (T, N, C))
    assert isinstance(recognise(module, SEQUENCE * 2, 1, {}), str)

    class Other(make):
        def forward(self, x, v=None):
            return x

    assert isinstance(recognise(Other(), SEQUENCE, 1, {}), str)


class Network(nn.Module):
    def __init__(self, inside):
        super().__init__()
        self.inside = inside


@pytest.mark.parametrize(
    "module",
    [
        nn.ReLU(),
        nn.Conv2d(1, 1, 1),
        Network(nn.Linear(2, 2)),
        Network(nn.BatchNorm1d(2, affine=False)),
        Network(nn.AvgPool2d(2)),
    ],
)
def test_layers_do_not_look_like_neurons(module):
    assert not looks_like_neuron(module)
    assert isinstance(recognise(module, SEQUENCE, 1, {}), str)
