"""snnTorch's neurons: the modules themselves are the oracle."""

import itertools

import pytest
import torch
from neuron_case import assert_same

from snn_sparse.fusion.neurons import is_stateful, looks_like_neuron, recognise

snn = pytest.importorskip("snntorch")
surrogate = pytest.importorskip("snntorch.surrogate")

SHAPE = (6, 3, 4)  # T, N, C


def found_for(module):
    return recognise(module, [torch.Size(SHAPE[1:])] * (1 if module.init_hidden else 2), SHAPE[0], {})


STYLES = [{"init_hidden": True}, {"init_hidden": True, "output": True}, {}]
DTYPES = [torch.float64, torch.float32]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("style", STYLES, ids=["hidden", "output", "explicit"])
@pytest.mark.parametrize("learnt", [False, True])
@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_leaky(reset, learnt, style, dtype):
    for beta, threshold in itertools.product((0.5, 0.9, 1.3), (1.0, 0.4)):
        options = {"beta": beta, "threshold": threshold, "learn_beta": learnt, "spike_grad": surrogate.atan(2.5)}
        module = snn.Leaky(reset_mechanism=reset, **options, **style)
        assert looks_like_neuron(module)
        assert is_stateful(module)
        assert_same(module, found_for(module), SHAPE, dtype=dtype)


@pytest.mark.parametrize("style", STYLES, ids=["hidden", "output", "explicit"])
@pytest.mark.parametrize("make", [surrogate.fast_sigmoid, surrogate.sigmoid])
def test_reset_at_once_and_other_surrogates(make, style):
    module = snn.Leaky(beta=0.8, reset_mechanism="zero", reset_delay=False, spike_grad=make(5), **style)
    found = found_for(module)
    assert found.settle is None  # what it keeps is what we keep
    assert_same(module, found, SHAPE)


@pytest.mark.parametrize(
    "options", [{"beta": 0.8}, {"R": 1, "C": 3.0}, {"R": 2.0, "C": 1.5, "time_step": 0.5}], ids=str
)
@pytest.mark.parametrize("style", STYLES, ids=["hidden", "output", "explicit"])
def test_lapicque(options, style):
    module = snn.Lapicque(**options, **style)
    found = found_for(module)
    assert found.gain != 1.0
    assert_same(module, found, SHAPE, scale=4.0)


def test_numbers_are_read_as_they_stand():
    module = snn.Leaky(beta=0.5, learn_beta=True, init_hidden=True)
    found = found_for(module)
    with torch.no_grad():
        module.beta.fill_(1.5)
    spec, rate = found.read(module)
    assert spec.decay == float(rate.detach()) == 1.0
    assert rate.shape == ()


def test_state_starts_anew_at_another_shape():
    module = snn.Leaky(beta=0.5, init_hidden=True)
    found = found_for(module)
    assert found.start(module, torch.zeros(3, 4)) is None
    module(torch.randn(3, 4))
    assert torch.equal(found.start(module, torch.zeros(3, 4)), module.mem)
    assert found.start(module, torch.zeros(2, 4)) is None
    explicit = snn.Leaky(beta=0.5)
    found = found_for(explicit)
    given = torch.rand(3, 4)
    assert found.start(explicit, torch.zeros(3, 4), given) is given


class Inherited(snn.Leaky):
    pass


class Doubled(snn.Leaky):
    def _base_state_function(self, input_):
        return self.beta * self.mem + 2 * input_


def test_subclasses():
    assert_same(Inherited(0.7, init_hidden=True), found_for(Inherited(0.7, init_hidden=True)), SHAPE)
    for style in STYLES[::2]:
        for reset in ("subtract", "zero"):
            module = Doubled(0.75, reset_mechanism=reset, **style)
            found = found_for(module)  # by what it does
            assert (found.gain, found.read(None)[0].decay, found.explicit) == (2.0, 0.75, not style)
            assert_same(module, found, SHAPE)


REFUSED = {
    "per neuron": ({"beta": torch.rand(4)}, "beta"),
    "learnt threshold": ({"beta": 0.5, "learn_threshold": True}, "threshold"),
    "threshold per neuron": ({"beta": 0.5, "threshold": torch.rand(4)}, "threshold"),
    "inhibition": ({"beta": 0.5, "inhibition": True}, "inhibition"),
    "no reset": ({"beta": 0.5, "reset_mechanism": "none"}, "none"),
    "graded": ({"beta": 0.5, "graded_spikes_factor": 2.0}, "graded"),
    "subtracts at once": ({"beta": 0.5, "reset_delay": False}, "reset_delay"),
    "quantised": ({"beta": 0.5, "state_quant": torch.round}, "quantises"),
    "surrogate": ({"beta": 0.5, "spike_grad": surrogate.triangular()}, "triangular"),
    "no surrogate": ({"beta": 0.5, "surrogate_disable": True}, "surrogate"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore:Inhibition")
def test_refused(name):
    options, word = REFUSED[name]
    reason = found_for(snn.Leaky(**options))
    assert isinstance(reason, str)
    assert word in reason
    assert "\n" not in reason


def test_other_neurons_are_refused():
    for module in (
        snn.Synaptic(0.5, 0.5),
        snn.Alpha(0.8, 0.5),
        snn.RLeaky(0.5, all_to_all=False),
        snn.Lapicque(0.5, reset_mechanism="zero"),
        snn.Lapicque(0.5, learn_beta=True),
    ):
        reason = found_for(module)
        assert isinstance(reason, str)
        assert "\n" not in reason
