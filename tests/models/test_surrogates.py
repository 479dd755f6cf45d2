"""The steepness of a surrogate reaches the gradient, however the surrogate is given."""

import json

import pytest
import torch

import snn_sparse as ss

# ds/dh at h - v_threshold = u, by kind
GRADIENTS = {
    "atan": lambda u, a: a / 2 / (1 + (torch.pi / 2 * a * u) ** 2),
    "sigmoid": lambda u, a: a * torch.sigmoid(a * u) * (1 - torch.sigmoid(a * u)),
    "piecewise_quadratic": lambda u, a: (a - a**2 * u.abs()).clamp_min(0),
    "triangle": lambda u, a: a * (1 - u.abs()).clamp_min(0),
    "rectangle": lambda u, a: a * (u.abs() < 0.5 / a).to(u),
    "fast_sigmoid": lambda u, a: (1 + a * u.abs()) ** -2,
    "erf": lambda u, a: a / torch.pi**0.5 * torch.exp(-((a * u) ** 2)),
}
DEFAULTS = {"atan": 2.0, "sigmoid": 4.0, "piecewise_quadratic": 1.0, "triangle": 1.0}
DEFAULTS |= {"rectangle": 1.0, "fast_sigmoid": 25.0, "erf": 2.0}


def gradient(neuron):
    """Of one step from rest: the surrogate alone."""
    x = torch.linspace(-2, 4, 61, dtype=torch.float64).view(1, 1, -1).requires_grad_()
    neuron(x).sum().backward()
    return x.detach() - 1, x.grad


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kind", GRADIENTS)
@pytest.mark.parametrize("alpha", [None, 0.6, 3.0])
def test_records_names_and_steepness(kind, alpha, fused):
    given = kind if alpha is None else {"kind": kind, "alpha": alpha}
    model = ss.build_model("vgg_small", 4, 1, 1, neuron="if", neuron_options={"surrogate": given})
    again = ss.build_model(**json.loads(json.dumps(model.config)))
    for network in (model, again):
        u, found = gradient((ss.fuse(network) if fused else network).features[2])
        torch.testing.assert_close(found, GRADIENTS[kind](u, alpha or DEFAULTS[kind]))
    assert model.config["neuron_options"]["surrogate"] == {"kind": kind, "alpha": alpha or DEFAULTS[kind]}


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kind", GRADIENTS)
def test_a_height_of_its_own(kind, fused):
    options = {"surrogate": {"kind": kind, "height": 0.4}}
    model = ss.build_model("vgg_small", 4, 1, 1, neuron="if", neuron_options=options)
    u, found = gradient((ss.fuse(model) if fused else model).features[2])
    a = DEFAULTS[kind]
    torch.testing.assert_close(found, GRADIENTS[kind](u, a) * 0.4 / GRADIENTS[kind](torch.zeros(()).double(), a))


@pytest.mark.parametrize("kind", GRADIENTS)
def test_a_ticket_trains_with_the_steepness_it_was_found_with(tmp_path, kind):
    options = {"surrogate": {"kind": kind, "alpha": 0.6}, "v_threshold": 0.8}
    model = ss.build_model("vgg_small", 4, 1, 3, neuron_options=options)
    state = {n: v.clone() for n, v in model.state_dict().items()}
    ss.Ticket(model.config, ss.Mask.dense(model), state, state).save(tmp_path / "a.safetensors")
    loaded = ss.Ticket.load(tmp_path / "a.safetensors").build()
    default = ss.build_model("vgg_small", 4, 1, 3, neuron_options={**options, "surrogate": kind})
    default.load_state_dict(state)
    x, y = torch.randn(4, 1, 8, 8), torch.arange(4)
    for network in (model, loaded, default):
        ss.temporal_cross_entropy(network(x), y).backward()
    first, second, third = (network.features[0].weight.grad for network in (model, loaded, default))
    assert torch.equal(first, second)
    assert not torch.allclose(first, third)
