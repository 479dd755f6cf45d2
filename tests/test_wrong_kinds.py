"""Arguments of a wrong kind end in a ValueError or TypeError that names them, not in an error from deep inside."""

import pytest
import torch

import snn_sparse as ss

WRONG = (None, "one", [1], {}, object(), torch.zeros(2))


@pytest.mark.parametrize(
    "name", ["v_threshold", "v_reset", "decay", "decay_input", "detach_reset", "strict", "late_reset"]
)
@pytest.mark.parametrize("wrong", WRONG)
def test_numbers_and_switches_of_a_neuron(name, wrong):
    if name == "v_reset" and wrong is None:
        return  # soft reset
    with pytest.raises(TypeError, match=f"^{name} must be"):
        ss.NeuronSpec(**{name: wrong})


@pytest.mark.parametrize("name", ["v_threshold", "v_reset", "decay"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_of_a_neuron_are_finite(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be finite"):
        ss.NeuronSpec(**{name: value})


@pytest.mark.parametrize("wrong", [[], {}, ["lif"], torch.zeros(2), None])
def test_names(wrong):
    for name, text in (("kind", "neuron"), ("surrogate", "surrogate")):
        with pytest.raises(ValueError, match=f"^unknown {text}"):
            ss.NeuronSpec(**{name: wrong})
    with pytest.raises(ValueError, match=r"^unknown neuron"):
        ss.build_model("vgg_small", neuron=wrong)
    with pytest.raises(ValueError, match=r"^unknown arch"):
        ss.build_model([wrong])


@pytest.mark.parametrize("wrong", [0, "tau", [("tau", 2.0)], torch.zeros(2)])
def test_options(wrong):
    with pytest.raises(TypeError, match=r"^neuron_options must"):
        ss.build_model("vgg_small", neuron_options=wrong)
    with pytest.raises(TypeError, match=r"^neurons must"):
        ss.fuse(ss.build_model("vgg_small"), neurons=wrong)


def test_complex_logits():
    with pytest.raises(TypeError, match=r"^logits must be real"):
        ss.predict(torch.zeros(2, 3, 4, dtype=torch.complex64))
