"""Whole networks on fused layers against the plain ones, dense and masked, in float64 and float32."""

import copy
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
import cpp_case

import snn_sparse as ss
from snn_sparse.models.base import SpikingNetwork
from snn_sparse.models.resnet import BasicBlock, ResNet19
from snn_sparse.ops.convolution import LiveConfiguration, SpikeConfiguration
from snn_sparse.ops.spikes import NCHW, NHWC, MemoryFormat
from snn_sparse.tuning import Winner
from snn_sparse.tuning import cpu as tuning

pytestmark = cpp_case.needs_cpp


@pytest.fixture(params=["live", "dense nchw", "dense nhwc", "spikes", "by time"])
def chosen(request, monkeypatch):
    """Force one kind of winner, so that each is tested whatever the machine finds faster."""

    def choose(g, dtype, keep, rate):
        if request.param == "spikes" and rate is not None:
            return Winner((1.0,), (2.0,), NHWC, spikes=SpikeConfiguration(), rate=rate)
        if request.param == "live" and keep is not None:
            live = LiveConfiguration(1 + g.outputs % 3, 8, g.stride == 1, g.stride == 1)
            return Winner((1.0,), (2.0,), MemoryFormat("lanes", live.vectors), live, rate=rate)
        return Winner((1.0,), (1.0,), NHWC if request.param == "dense nhwc" else NCHW, rate=rate)

    if request.param != "by time":
        monkeypatch.setattr(tuning, "choose", choose)
        monkeypatch.setenv("SNN_SPARSE_CACHE", "")
    return request.param


class Narrow(ResNet19):
    """The published network at a fraction of its width: all kinds of blocks, a neuron behind a linear layer."""

    def __init__(self, num_classes, in_channels, timesteps, make_neuron, statistics):
        SpikingNetwork.__init__(self, in_channels, timesteps)
        self.conv1 = ss.nn.Conv2d(in_channels, 6, 3, padding=1, bias=False)
        self.bn1 = ss.nn.BatchNorm2d(6, bn_statistics=statistics)
        self.lif_input = make_neuron()

        def stage(channels, width):
            first = BasicBlock(channels, width, 2, make_neuron, statistics)
            return nn.Sequential(first, BasicBlock(width, width, 1, make_neuron, statistics))

        self.layer1, self.layer2, self.layer3 = stage(6, 12), stage(12, 20), stage(20, 20)
        self.fc1, self.lif_fc, self.fc2 = nn.Linear(20, 16), make_neuron(), nn.Linear(16, num_classes)


def masked(model, density):
    return ss.Mask({n: torch.rand(p.shape) < density for n, p in ss.tickets.prunable(model).items()})


def step(model, x, y):
    model.zero_grad()
    logits = model(x)
    ss.temporal_cross_entropy(logits, y).backward()
    return logits.detach(), {n: p.grad.clone() for n, p in model.named_parameters()}


def compare(plain, fused, x, y, rtol=1e-9):
    """Two steps in training mode, then eval: logits, gradients, running statistics."""
    for _ in range(2):
        expected, actual = step(plain, x, y), step(fused, x, y)
        assert type(actual[0]) is torch.Tensor
        torch.testing.assert_close(actual[0], expected[0], rtol=rtol, atol=rtol)
        scale = max(g.abs().max() for g in expected[1].values())
        for name, gradient in expected[1].items():
            torch.testing.assert_close(actual[1][name], gradient, rtol=rtol, atol=float(rtol * scale), msg=name)
        torch.testing.assert_close(dict(fused.named_buffers()), dict(plain.named_buffers()), rtol=rtol, atol=rtol)
    plain.eval(), fused.eval()
    with torch.no_grad():
        torch.testing.assert_close(fused(x), plain(x), rtol=rtol, atol=rtol)


@pytest.mark.parametrize(
    ("arch", "density"),
    [
        *(("vgg_small", d) for d in (None, 1.0, 0.3, 0.02, 0.0)),
        ("narrow", 0.3),
        ("narrow plif pooled", None),
        ("narrow plif pooled", 0.02),
    ],
)
def test_images(chosen, arch, density):
    if arch == "vgg_small":
        plain = ss.build_model(arch, 4, 3, 3).double()
    else:
        kinds = (ss.nn.ParametricLIF, "pooled") if "plif" in arch else (ss.nn.LIF, "per_step")
        plain = Narrow(4, 3, 3, *kinds).double()
    fused = ss.fuse(copy.deepcopy(plain))
    if density is not None:
        mask = masked(plain, density)
        mask.apply_(plain)
        mask.apply_(fused)
    size = 8 if arch == "vgg_small" else 16
    compare(plain, fused, torch.randn(5, 3, size, size, dtype=torch.float64) * 2, torch.randint(0, 4, (5,)))
    if chosen == "live" and density is not None:
        for layer in fused.modules():
            if isinstance(layer, ss.nn.masked.Masked):
                assert layer.tuner.winners
                assert all(w.live is not None for w in layer.tuner.winners.values())


@pytest.mark.parametrize("neuron", ["lif", "if", "plif"])
def test_sequences_with_odd_sizes(chosen, neuron):
    options = {"v_reset": None, "detach_reset": False, "surrogate": "sigmoid"}
    plain = ss.build_model("vgg_small", 4, 2, 3, neuron=neuron, neuron_options=options).double()
    fused = ss.fuse(copy.deepcopy(plain))
    mask = masked(plain, 0.2)
    mask.apply_(plain)
    mask.apply_(fused)
    x = torch.randn(4, 9, 2, 11, 17, dtype=torch.float64).transpose(3, 4)  # not contiguous
    compare(plain, fused, x, torch.randint(0, 4, (9,)))


def test_one_image_one_timestep(chosen):
    plain = ss.build_model("vgg_small", 4, 1, 1).double()
    fused = ss.fuse(copy.deepcopy(plain))
    mask = masked(plain, 0.2)
    mask.apply_(plain)
    mask.apply_(fused)
    compare(plain, fused, torch.randn(1, 1, 16, 16, dtype=torch.float64), torch.randint(0, 4, (1,)))


def test_float32_within_rounding():
    plain = ss.build_model("vgg_small", 4, 3, 4)
    fused = ss.fuse(copy.deepcopy(plain))
    mask = masked(plain, 0.1)
    mask.apply_(plain)
    mask.apply_(fused)
    x = torch.randn(16, 3, 8, 8)
    # one flipped spike changes some logits; nearly all must agree
    close = torch.isclose(fused(x), plain(x), rtol=1e-4, atol=1e-4)
    assert close.float().mean() > 0.9


def test_a_searched_ticket_learns_alike_in_both(tiny):
    """Some epochs under a mask: the losses of fused and plain stay together."""
    losses = {}
    for kind in ("plain", "fused"):
        torch.manual_seed(0)
        model = ss.build_model("vgg_small", 10, 1, 4)
        model = ss.fuse(model) if kind == "fused" else model
        mask = masked(model, 0.3)
        mask.apply_(model)
        optimizer = ss.live_optimizer(torch.optim.Adam, model, mask, lr=0.02)
        generator = torch.Generator().manual_seed(0)
        losses[kind] = [
            ss.training.train_epoch(model, tiny.train.batches(50, generator=generator), optimizer) for _ in range(8)
        ]
    assert losses["fused"][0] == pytest.approx(losses["plain"][0], rel=0.05)
    assert losses["fused"][-1] < 0.8 * losses["fused"][0]
    assert losses["fused"][-1] == pytest.approx(losses["plain"][-1], rel=0.25)


class Odd(nn.Module):
    """Forward code that does more with the values between layers than calling the next one."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1, self.lif1 = ss.nn.Conv2d(2, 4, 3, padding=1), ss.nn.BatchNorm2d(4), ss.nn.LIF()
        self.conv2, self.bn2, self.lif2 = ss.nn.Conv2d(4, 4, 3, padding=1), ss.nn.BatchNorm2d(4), ss.nn.IF()
        self.pool = ss.nn.MaxPool2d(2, 2)

    def forward(self, x):
        y = self.bn1(self.conv1(x))
        s = self.lif1(y)
        pooled = self.pool(s)  # pooled and not pooled are both used
        z = self.lif2(self.bn2(self.conv2(s)) + y)  # a batch norm with two consumers
        z = torch.cat([z, s * 0.5], dim=2)[:, :, 1:]
        assert z.shape[2] == 7
        assert s.dim() == 5
        assert s.size(1) == x.size(1)
        return z.mean((-2, -1)) + 2 * pooled.mean() - y.sum() / y.numel(), (s, y)


def test_values_between_layers_act_like_tensors():
    plain = Odd().double()
    fused = ss.fuse(copy.deepcopy(plain))
    x = torch.randn(3, 2, 2, 6, 6, dtype=torch.float64)
    for _ in range(2):
        (a, (s, y)), (b, (t, z)) = plain(x), fused(x)
        assert all(type(v) is torch.Tensor for v in (b, t, z))
        torch.testing.assert_close((b, t, z), (a, s, y))
        plain.zero_grad(), fused.zero_grad()
        a.square().sum().backward()
        b.square().sum().backward()
        for (name, p), q in zip(plain.named_parameters(), fused.parameters(), strict=True):
            torch.testing.assert_close(q.grad, p.grad, msg=name)
        torch.testing.assert_close(dict(fused.named_buffers()), dict(plain.named_buffers()))


def test_what_the_operators_do_not_take_runs_plain():
    model = ss.build_model("vgg_small", 4, 1, 2)
    fused = ss.fuse(copy.deepcopy(model))
    x = torch.randn(3, 1, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert fused(x).shape == (2, 3, 4)
    half = ss.fuse(copy.deepcopy(model).to(torch.bfloat16))
    assert half(x.to(torch.bfloat16)).dtype == torch.bfloat16
    odd = nn.Sequential(ss.nn.Conv2d(2, 4, (3, 1), stride=(1, 2), groups=2, dilation=2), ss.nn.LIF())
    z = torch.randn(2, 3, 2, 9, 9)
    torch.testing.assert_close(ss.fuse(odd)(z), odd(z))
    torch.testing.assert_close(ss.fuse(ss.nn.LIF())(z), ss.nn.LIF()(z))


def test_fusing_again_changes_nothing():
    model = ss.fuse(ss.build_model("vgg_small", 4, 1, 2))
    mask = masked(model, 0.2)
    mask.apply_(model)
    again = ss.fuse(model)
    assert type(again) is type(model)
    assert torch.equal(again.features[4].keep_mask, mask["features.4.weight"])
    assert again.features[4].weight is model.features[4].weight
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(again.eval()(x), model.eval()(x))
    ss.Mask.remove_(again)
    assert again.features[4].keep_mask is None
    assert model.features[4].keep_mask is not None
