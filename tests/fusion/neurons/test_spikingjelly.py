"""SpikingJelly's neurons, new and old: the modules themselves are the oracle."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from neuron_case import assert_same
from spikingjelly.activation_based import layer, surrogate
from spikingjelly.activation_based import neuron as sj

from snn_sparse.fusion.neurons import is_stateful, looks_like_neuron, recognise

SHAPE = (5, 2, 3, 4)  # T, N, C, H
SURROGATES = [surrogate.ATan(), surrogate.Sigmoid(2.5), surrogate.PiecewiseQuadratic(1.3), surrogate.SoftSign()]

common = {
    "v_threshold": st.sampled_from([1.0, 0.5, 1.3]),
    "v_reset": st.sampled_from([0.0, None, -0.25, 0.1]),
    "detach_reset": st.booleans(),
    "surrogate_function": st.sampled_from(SURROGATES),
}
numbers = st.fixed_dictionaries({**common, "step_mode": st.sampled_from("sm")})
decaying = st.fixed_dictionaries({"tau": st.sampled_from([2.0, 4 / 3, 1.7]), "decay_input": st.booleans()})
dtypes = st.sampled_from([torch.float64, torch.float32])


def found_for(module, shape=SHAPE):
    many = getattr(module, "step_mode", "s") == "m" or type(module).__name__.startswith("MultiStep")
    shapes = [torch.Size(shape if many else shape[1:])]
    return recognise(module, shapes, 1 if many else len(shape), {})


def check(module, dtype):
    found = found_for(module)
    assert looks_like_neuron(module)
    assert is_stateful(module)
    assert_same(module, found, SHAPE, dtype=dtype)


@settings(deadline=None, max_examples=40)
@given(numbers=numbers, decaying=decaying, dtype=dtypes)
def test_lif(numbers, decaying, dtype):
    check(sj.LIFNode(**decaying, **numbers), dtype)


@settings(deadline=None, max_examples=20)
@given(numbers=numbers, dtype=dtypes)
def test_if(numbers, dtype):
    check(sj.IFNode(**numbers), dtype)


@settings(deadline=None, max_examples=20)
@given(numbers=numbers, decaying=decaying, dtype=dtypes)
def test_parametric_lif(numbers, decaying, dtype):
    check(sj.ParametricLIFNode(decaying["tau"], decaying["decay_input"], **numbers), dtype)


@settings(deadline=None, max_examples=20)
@given(numbers=numbers, decaying=decaying, dtype=dtypes)
def test_simple_nodes(numbers, decaying, dtype):
    check(sj.SimpleIFNode(**numbers), dtype)
    if numbers["v_reset"] is not None:
        check(sj.SimpleLIFNode(**decaying, **numbers), dtype)


def test_numbers_are_read_as_they_stand():
    node = sj.LIFNode(step_mode="m")
    found = found_for(node)
    node.tau, node.v_threshold, node.surrogate_function = 3.0, 0.7, surrogate.Erf(1.5)
    spec, rate = found.read(node)
    assert (spec.tau, spec.v_threshold, spec.surrogate, spec.alpha, rate) == (3.0, 0.7, "erf", 1.5, None)


def test_dynamics_can_be_pickled():
    node = sj.ParametricLIFNode(step_mode="m")
    assert_same(node, pickle.loads(pickle.dumps(found_for(node))), SHAPE)


def test_a_state_of_another_shape_is_left():
    node = sj.LIFNode(step_mode="m", v_reset=-0.5)
    found = found_for(node)
    like = torch.zeros(3, 4)
    assert found.start(node, like) is None
    node(torch.randn(4, 2, 4))
    assert found.start(node, like) is None
    assert found.start(node, torch.zeros(2, 4)) is node.v
    node.v = 0.25
    assert torch.equal(found.start(node, like), torch.full((3, 4), 0.25))


class Inherited(sj.LIFNode):
    def __init__(self):
        super().__init__(tau=1.5, v_threshold=0.8)
        self.more = 1

    def extra_repr(self):
        return "inherited"


class FiresTwice(sj.LIFNode):
    def neuronal_fire(self):
        return self.surrogate_function(self.v - 2 * self.v_threshold)


class LeaksMore(sj.LIFNode):
    def single_step_functional_forward(self, inputs, states, **kwargs):
        h = 0.5 * states[0] + inputs[0]
        spike = self.surrogate_function(h - self.v_threshold)
        return (spike,), (h * (1 - spike),)


def test_subclasses():
    check(Inherited(), torch.float64)
    assert found_for(Inherited()).read(Inherited())[0].tau == 1.5
    found = found_for(LeaksMore())  # by what it does
    assert found.read(LeaksMore())[0].kind == "leaky"
    assert_same(LeaksMore(), found, SHAPE)


def test_a_subclass_that_fires_otherwise_is_not_taken_for_its_parent():
    found = found_for(FiresTwice())
    if not isinstance(found, str):
        assert_same(FiresTwice(), found, SHAPE)


REFUSED = {
    "QIFNode": (sj.QIFNode(), "QIFNode"),
    "EIFNode": (sj.EIFNode(), "EIFNode"),
    "KLIFNode": (sj.KLIFNode(), "KLIFNode"),
    "LIAFNode": (sj.LIAFNode(act=torch.relu, threshold_related=True), "LIAFNode"),
    "v_seq": (sj.LIFNode(store_v_seq=True, step_mode="m"), "store_v_seq"),
    "not spiking": (sj.LIFNode(surrogate_function=surrogate.ATan(spiking=False)), "spiking"),
    "surrogate": (sj.LIFNode(surrogate_function=surrogate.PiecewiseExp()), "PiecewiseExp"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    module, word = REFUSED[name]
    reason = found_for(module)
    assert isinstance(reason, str)
    assert word in reason
    assert "\n" not in reason


def test_learnt_threshold_and_replaced_methods_are_refused():
    node = sj.LIFNode()
    node.v_threshold = torch.nn.Parameter(torch.tensor(1.0))
    assert "v_threshold" in found_for(node)
    node = sj.LIFNode()
    node.forward = torch.relu
    assert "forward" in found_for(node)
    node = sj.LIFNode()
    assert "more than one tensor" in recognise(node, [torch.Size((2, 3))] * 2, 4, {})


def test_layers_do_not_look_like_neurons():
    for module in (layer.Conv2d(1, 2, 3), layer.BatchNorm2d(2), surrogate.ATan(), layer.Dropout(), layer.Flatten()):
        assert not looks_like_neuron(module)
        assert isinstance(recognise(module, [torch.Size(SHAPE)], 1, {}), str)


OLD = r"""
import sys
sys.path[:0] = sys.argv[1:]
import itertools, torch
from neuron_case import assert_same
from spikingjelly.clock_driven import neuron, surrogate
from snn_sparse.fusion.neurons import recognise
torch.manual_seed(0)
kinds = {"LIFNode": "tau", "ParametricLIFNode": "init_tau", "IFNode": None}
for (name, tau), many, reset, detach, decay in itertools.product(
    kinds.items(), ("", "MultiStep"), (0.0, None, -0.25), (True, False), (True, False)
):
    more = {tau: 4 / 3, "decay_input": decay} if tau else {}
    make = getattr(neuron, many + name)
    module = make(v_reset=reset, detach_reset=detach, surrogate_function=surrogate.ATan(), **more)
    found = recognise(module, [torch.Size((5, 2, 3) if many else (2, 3))], 1 if many else 5, {})
    for dtype in (torch.float64, torch.float32):
        assert_same(module, found, (5, 2, 3), dtype=dtype)
assert "QIFNode" in recognise(neuron.QIFNode(), [torch.Size((2, 3))], 5, {})
print("all the same")
"""


def test_old_names():
    """In a process of its own: two SpikingJellies do not fit in one."""
    place = os.environ.get("SNN_SPARSE_OLD_SPIKINGJELLY")
    if place is None:
        pytest.skip("SNN_SPARSE_OLD_SPIKINGJELLY names no folder with SpikingJelly 0.0.0.0.12")
    tests = str(Path(__file__).parents[2])
    run = subprocess.run([sys.executable, "-c", OLD, place, tests], capture_output=True, text=True)
    assert run.stdout.strip() == "all the same", run.stderr
