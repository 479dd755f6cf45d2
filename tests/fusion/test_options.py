"""Every option of a layer counts when it is swapped: outputs, gradients and statistics are those of the original."""

import copy

import pytest
import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn

import snn_sparse as ss
from snn_sparse.ops.convolution import LiveConfiguration
from snn_sparse.ops.spikes import NCHW, MemoryFormat
from snn_sparse.tuning import Winner
from snn_sparse.tuning import cpu as tuning

CONVOLUTIONS = {
    "stride": {"stride": 2},
    "stride of each side": {"stride": (1, 2)},
    "dilation": {"dilation": 2},
    "padding": {"padding": 2},
    "padding of each side": {"padding": (0, 1)},
    "padding by name": {"padding": "same"},
    "padding mode": {"padding": 1, "padding_mode": "circular"},
    "groups": {"groups": 2},
    "no bias": {"bias": False},
    "kernel": {"kernel_size": (1, 2)},
}
NORMS = {
    "eps": {"eps": 0.1},
    "momentum": {"momentum": 0.4},
    "average": {"momentum": None},
    "not affine": {"affine": False},
    "no running statistics": {"track_running_stats": False},
}
POOLS = {
    "pool padding": {"padding": 1},
    "pool stride": {"stride": 1},
    "pool stride left out": {"stride": None},
    "pool dilation": {"dilation": 2},
    "pool ceil_mode": {"ceil_mode": True},
    "pool kernel": {"kernel_size": 3},
}
CASES = {
    name: {kind: options}
    for kind, some in (("conv", CONVOLUTIONS), ("norm", NORMS), ("pool", POOLS))
    for name, options in some.items()
}


def stage(conv=None, norm=None, pool=None):
    return (
        {"kernel_size": 3, **(conv or {})},
        norm or {},
        {"kernel_size": 2, "stride": 2, **(pool or {})},
    )


def theirs(conv, norm, pool):
    """Two stages: images in the first, spikes in the second."""
    layers = []
    for channels in (2, 4):
        node = neuron.LIFNode(1.5, surrogate_function=surrogate.ATan(1.5), detach_reset=True, step_mode="m")
        layers += [
            layer.Conv2d(channels, 4, **conv, step_mode="m"),
            layer.BatchNorm2d(4, **norm, step_mode="m"),
            node,
            layer.MaxPool2d(**pool, step_mode="m"),
        ]
    return nn.Sequential(*layers).double()


def ours(conv, norm, pool):
    layers = []
    for channels in (2, 4):
        layers += [
            ss.nn.Conv2d(channels, 4, **conv),
            ss.nn.BatchNorm2d(4, **norm),
            ss.nn.LIF(),
            ss.nn.MaxPool2d(**pool),
        ]
    return nn.Sequential(*layers).double()


def draw_norms(model):
    """Scales, shifts and statistics under which neurons fire, and no option is without effect."""
    for norm in model[1::4]:
        for tensor, low in ((norm.weight, 1.0), (norm.bias, 0.3), (norm.running_mean, -0.1), (norm.running_var, 0.2)):
            if tensor is not None:
                tensor.data.uniform_(low, low + 0.5)
    return model


def results(model, x):
    """Output and gradients of two training steps, then the output in eval mode, then what the model holds."""
    functional.reset_net(model)
    model.zero_grad()
    x = x.clone().requires_grad_()
    found = []
    for _ in range(2):
        out = model(x)
        weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
        (out * weights).mean().backward()
        found.append(out.detach())
        functional.reset_net(model)
    gradients = {n: p.grad for n, p in model.named_parameters()}
    found.append(model.eval()(x).detach())
    assert 0.02 < found[0].mean() < 0.98  # some fire, some do not
    return found, x.grad, gradients, dict(model.named_buffers())


def images(*sizes):
    return torch.randn(3, 2, 2, *sizes, dtype=torch.float64) * 2


def masks(*models, density=0.3):
    """The same random mask for all."""
    mask = ss.Mask({n: torch.rand(p.shape) < density for n, p in ss.tickets.prunable(models[0]).items()})
    for model in models:
        mask.apply_(model)


@pytest.fixture(params=["dense", "masked", "live"])
def density(request, monkeypatch):
    """Without a mask, under one, and computed at its live weights wherever the kernels take the layer."""

    def choose(g, dtype, keep, rate):
        live = None if keep is None else LiveConfiguration(2)
        return Winner((1.0,), (1.0,), NCHW if live is None else MemoryFormat("lanes", 2), live, rate=rate)

    if request.param == "live":
        monkeypatch.setattr(tuning, "choose", choose)
        monkeypatch.setenv("SNN_SPARSE_CACHE", "")
    return None if request.param == "dense" else 0.3


@pytest.mark.parametrize("make", [theirs, ours])
@pytest.mark.parametrize("case", CASES)
def test_options(make, case, density):
    model = draw_norms(make(*stage(**CASES[case])))
    fused = ss.fuse(copy.deepcopy(model))
    if density is not None:
        masks(model, fused, density=density)
    x = images(41, 43)
    torch.testing.assert_close(results(fused, x), results(model, x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("make", [theirs, ours])
@pytest.mark.parametrize("case", CASES)
def test_no_option_keeps_a_layer_out_of_its_stage(make, case):
    fused = ss.fuse(draw_norms(make(*stage(**CASES[case]))), images(41, 43))
    assert set(ss.explain(fused).fused) >= {"0", "1", "2", "4", "5", "6"}
