"""Swapping layers of SpikingJelly's own networks: same results, same parameters, same state_dict."""

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from spikingjelly.activation_based.model import spiking_vgg
from torch import nn

import snn_sparse as ss

NODES = {
    "lif": lambda: neuron.LIFNode(surrogate_function=surrogate.ATan(), detach_reset=True, step_mode="m"),
    "lif soft": lambda: neuron.LIFNode(tau=1.5, v_reset=None, decay_input=False, step_mode="m"),
    "if": lambda: neuron.IFNode(v_threshold=0.7, surrogate_function=surrogate.PiecewiseQuadratic(), step_mode="m"),
    "plif": lambda: neuron.ParametricLIFNode(init_tau=1.7, surrogate_function=surrogate.Sigmoid(2.0), step_mode="m"),
}


def small(node):
    return nn.Sequential(
        layer.Conv2d(2, 6, 3, padding=1, step_mode="m"),
        layer.BatchNorm2d(6, step_mode="m"),
        node,
        layer.MaxPool2d(2, 2, step_mode="m"),
        layer.Flatten(step_mode="m"),
        layer.Linear(6 * 9, 4, step_mode="m"),
    )


def results(model, x, y):
    functional.reset_net(model)
    model.zero_grad()
    logits = model(x)
    ss.temporal_cross_entropy(logits, y).backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters()}
    return logits.detach(), gradients, {n: b.clone() for n, b in model.named_buffers()}


@pytest.mark.parametrize("kind", NODES)
def test_same_results_same_state(kind):
    theirs = small(NODES[kind]()).double()
    state = {k: v.clone() for k, v in theirs.state_dict().items()}
    ours = ss.fuse(theirs)
    assert isinstance(ours[2], ss.nn.Neuron)
    assert isinstance(theirs[2], neuron.BaseNode)  # the original is left alone
    assert list(ours.state_dict()) == list(state)
    assert all(a is b for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert all(a is b for a, b in zip(ours.buffers(), theirs.buffers(), strict=True))
    x, y = torch.randn(4, 5, 2, 6, 6, dtype=torch.float64) * 2, torch.randint(0, 4, (5,))
    expected = results(theirs, x, y)
    theirs.load_state_dict(state)
    torch.testing.assert_close(results(ours, x, y), expected, rtol=1e-9, atol=1e-11)
    ours.eval(), theirs.eval()
    functional.reset_net(theirs)
    torch.testing.assert_close(ours(x), theirs(x))


def test_spikingjelly_vgg():
    theirs = spiking_vgg.spiking_vgg11_bn(
        spiking_neuron=neuron.LIFNode, num_classes=10, surrogate_function=surrogate.ATan(), detach_reset=True
    )
    functional.set_step_mode(theirs, "m")
    ours = ss.fuse(theirs).eval()
    assert sum(isinstance(m, ss.nn.LIF) for m in ours.modules()) >= 8
    assert not any(isinstance(m, (neuron.BaseNode, layer.Conv2d)) for m in ours.modules())
    x = torch.randn(2, 1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs.eval()(x))


def test_what_is_not_known_stays():
    odd = [
        neuron.LIFNode(step_mode="s"),
        neuron.LIFNode(surrogate_function=surrogate.Erf(), step_mode="m"),
        neuron.LIFNode(surrogate_function=surrogate.ATan(spiking=False), step_mode="m"),
        neuron.LIFNode(step_mode="m", store_v_seq=True),
        neuron.QIFNode(step_mode="m"),
        nn.Conv2d(1, 1, 1),
        nn.ReLU(),
    ]
    for module in odd:
        assert type(ss.fuse(nn.Sequential(module))[0]) is type(module)

    class Mine(neuron.LIFNode):
        pass

    assert type(ss.fuse(Mine(step_mode="m"))) is Mine


def test_mode_and_our_own_networks():
    node = neuron.IFNode(step_mode="m").eval()
    assert not ss.fuse(node).training
    model = ss.build_model("vgg_small", 4, 1, 2).eval()
    twin = ss.fuse(model)
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(twin(x), model(x))
    assert twin.features[0].weight is model.features[0].weight
    with pytest.raises(TypeError, match="model must"):
        ss.fuse("vgg16")
