"""Whole networks on the kernels: what fuse() gives on a GPU, here in the interpreter."""

import copy

import pytest
import torch

import snn_sparse as ss
from snn_sparse import nn as snn
from snn_sparse.models.vgg import VGG
from snn_sparse.nn import convolve
from snn_sparse.nn.neuron import make_neuron
from snn_sparse.ops import Packed


@pytest.fixture(autouse=True)
def _by_torch(monkeypatch):
    """Convolutions run by torch: timing configurations in the interpreter takes minutes and says nothing."""
    monkeypatch.setattr("snn_sparse.tuning.gpu.candidates", lambda *_: [])


class Block(torch.nn.Module):
    """A residual block whose shortcut is a batch-normed convolution, and one whose shortcut is the spikes."""

    def __init__(self, neuron):
        super().__init__()
        self.stem = torch.nn.Sequential(snn.Conv2d(2, 4, 3, padding=1), snn.BatchNorm2d(4), make_neuron(neuron))
        self.conv = torch.nn.Sequential(snn.Conv2d(4, 4, 3, padding=1, bias=False), snn.BatchNorm2d(4))
        self.short = torch.nn.Sequential(snn.Conv2d(4, 4, 1, bias=False), snn.BatchNorm2d(4))
        self.first, self.second = make_neuron(neuron), make_neuron(neuron)
        self.again = torch.nn.Sequential(snn.Conv2d(4, 4, 3, padding=1, bias=False), snn.BatchNorm2d(4))

    def forward(self, x):
        x = self.stem(x)
        x = self.first(self.conv(x) + self.short(x))
        return self.second(self.again(x) + x)


def compare(plain, x):
    fused = ss.fuse(copy.deepcopy(plain))
    results = []
    for net in (plain, fused):
        out = net(x)
        loss = (out * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum()
        loss.backward()
        results.append((out.detach(), [p.grad for p in net.parameters()], list(net.buffers())))
    (a, grads, buffers), (b, fused_grads, fused_buffers) = results
    torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)
    for (name, _), p, q in zip(plain.named_parameters(), grads, fused_grads, strict=True):
        torch.testing.assert_close(q, p, rtol=2e-3, atol=2e-4, msg=lambda m, name=name: f"{name}: {m}")
    for p, q in zip(buffers, fused_buffers, strict=True):
        torch.testing.assert_close(q, p, rtol=1e-4, atol=1e-5)
    return fused


@pytest.mark.parametrize("statistics", ["per_step", "pooled"])
def test_vgg(statistics):
    torch.manual_seed(1)
    plain = VGG((4, 0, 6, 0), 3, 2, 3, lambda: make_neuron("lif"), statistics)
    fused = compare(plain, torch.rand(2, 2, 8, 8))
    fused.eval(), plain.eval()
    x = torch.rand(3, 2, 2, 8, 8)  # a sequence
    with torch.no_grad():
        torch.testing.assert_close(fused(x), plain(x))


@pytest.mark.parametrize("neuron", ["lif", "if", "plif"])
def test_residual_blocks(neuron):
    torch.manual_seed(2)
    compare(Block(neuron), torch.rand(2, 2, 2, 5, 4))


def test_channels_last_weights_give_channels_last_spikes():
    torch.manual_seed(3)
    compare(Block("lif").to(memory_format=torch.channels_last), torch.rand(2, 2, 5, 4, 2).movedim(-1, 2))


def test_a_convolution_keeps_bits_only(monkeypatch):
    seen, real = [], convolve.convolution

    def watch(x, *args, **options):
        seen.append(isinstance(x, Packed))
        return real(x, *args, **options)

    fused = ss.fuse(VGG((4, 4, 0), 3, 2, 2, lambda: make_neuron("lif")), torch.rand(2, 2, 4, 4))
    monkeypatch.setattr(convolve, "convolution", watch)
    out = fused(torch.rand(2, 2, 4, 4))
    assert seen == [False, True]  # the image, then spikes
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        out = fused(torch.rand(2, 2, 4, 4))
    spikes = 2 * 2 * 4 * 4 * 4
    floats = [t for t in kept if t.is_floating_point() and t.untyped_storage().nbytes() >= 4 * spikes]
    assert len({t.data_ptr() for t in floats}) <= 2  # of a neuron only the convolution's output
    assert out.requires_grad


def test_training_follows_plain():
    torch.manual_seed(4)
    plain = VGG((4, 0, 4, 0), 3, 1, 2, lambda: make_neuron("lif"))
    fused = ss.fuse(copy.deepcopy(plain))
    x, y = torch.rand(4, 1, 4, 4), torch.tensor([0, 1, 2, 0])
    losses = []
    for net in (plain, fused):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        losses.append([])
        for _ in range(6):
            optimizer.zero_grad()
            loss = ss.temporal_cross_entropy(net(x), y)
            loss.backward()
            optimizer.step()
            losses[-1].append(float(loss.detach()))
    torch.testing.assert_close(torch.tensor(losses[1]), torch.tensor(losses[0]), rtol=1e-3, atol=1e-3)


def test_autocast():
    torch.manual_seed(5)
    plain = VGG((4, 0), 3, 2, 2, lambda: make_neuron("lif"))
    fused = ss.fuse(copy.deepcopy(plain))
    with torch.autocast("cpu", dtype=torch.float16):
        out = fused(torch.rand(2, 2, 4, 4))
        out.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in fused.parameters())
    assert torch.isfinite(out).all()


def test_compiles_into_one_graph():
    torch.manual_seed(6)
    fused = ss.fuse(VGG((4, 4, 0), 3, 2, 2, lambda: make_neuron("lif")))
    x = torch.rand(2, 2, 4, 4)
    compiled = torch.compile(fused, fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(compiled, fused(x))
    compiled.sum().backward()
    assert all(p.grad is not None for p in fused.parameters())
