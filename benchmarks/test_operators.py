"""Operators on a CPU, each direction, beside what computes the same."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from benchmarks.conftest import Layer, Measure
from benchmarks.neuron import PROVIDERS as NEURONS
from benchmarks.refusals import insist
from benchmarks.spikes import DENSE, DIRECTIONS, SPIKES, directions, live_name
from snn_sparse.nn import BatchNorm2d
from snn_sparse.ops import temporal_cross_entropy
from snn_sparse.ops.live import gather_live, live_index, scatter_live
from snn_sparse.ops.spikes import NCHW, NHWC, MemoryFormat, convert, plain_pack, plain_unpack

RATE = 10.0  # percent of the input that spikes
LANES = MemoryFormat("lanes", 2)
Action = Callable[[], object]


@pytest.mark.parametrize("provider", NEURONS)
@pytest.mark.parametrize("operator", ["lif", "bn_lif"])
@pytest.mark.parametrize("way", ["forward", "backward"])
def test_neuron(measure: Measure, layer: Layer, way: str, operator: str, provider: str) -> None:
    """A layer of neurons over all timesteps, alone and behind its batch norm."""

    def make() -> Action:
        x = torch.randn(layer.shape, requires_grad=True)
        norm = BatchNorm2d(layer.channels, bn_statistics="pooled") if operator == "bn_lif" else None
        forward = NEURONS[provider](norm, x)
        if way == "forward":
            return partial(forward, x)
        spikes = forward(x)
        return partial(torch.autograd.grad, spikes, x, torch.randn_like(spikes), retain_graph=True)

    measure(f"{operator} {way} {layer}", provider, make)


@pytest.mark.parametrize("provider", [*DENSE, SPIKES, *map(live_name, (90, 98))])
@pytest.mark.parametrize("way", DIRECTIONS)
def test_convolution(measure: Measure, layer: Layer, way: str, provider: str) -> None:
    """Each direction of a 3x3 convolution of spikes: dense, from spikes (or by Winograd), at live weights."""
    case = f"convolution, {way} {layer}, {RATE:g} % spikes"
    measure(case, provider, lambda: directions(provider, layer.geometry, RATE)[way])


@pytest.mark.parametrize("provider", ["plain", "cpp"])
@pytest.mark.parametrize("way", ["pack", "unpack"])
def test_spikes_as_bits(measure: Measure, layer: Layer, way: str, provider: str) -> None:
    """Spikes to one bit each, and back."""

    def make() -> Action:
        spikes = (torch.rand(layer.shape) < RATE / 100).float()
        if provider == "plain":
            bits = plain_pack(spikes)
            return (
                partial(plain_pack, spikes) if way == "pack" else lambda: plain_unpack(bits, layer.shape, spikes.dtype)
            )
        insist("convolution", device="cpu", dtype=spikes.dtype, on="cpp")
        flat, ours = spikes.flatten(), torch.ops.snn_sparse
        return partial(ours.pack_bits, flat) if way == "pack" else partial(ours.unpack_bits, ours.pack_bits(flat), flat)

    measure(f"{way} spikes {layer}", provider, make)


@pytest.mark.parametrize("provider", ["copy", "cpp"])
@pytest.mark.parametrize(("old", "new"), [(NCHW, LANES), (LANES, NCHW), (NHWC, LANES)], ids=lambda f: f.kind)
def test_memory_format(measure: Measure, layer: Layer, old: MemoryFormat, new: MemoryFormat, provider: str) -> None:
    """A sequence from one memory format to another, beside a plain copy of as much."""

    def make() -> Action:
        x = torch.randn(layer.shape)
        if provider == "copy":
            return x.clone
        insist("convolution", device="cpu", dtype=x.dtype, on="cpp")
        return partial(convert, convert(x, layer.shape, NCHW, old), layer.shape, old, new)

    measure(f"{old.kind} to {new.kind} {layer}", provider, make)


@pytest.mark.parametrize("provider", ["plain", "cpp"])
@pytest.mark.parametrize("way", ["gather", "scatter"])
def test_live_weights(measure: Measure, layer: Layer, way: str, provider: str) -> None:
    """A tenth of a convolution's weights out of the dense tensor and back, as the optimizer does."""
    shape = layer.geometry.weight_shape

    def make() -> Action:
        dense, index = torch.randn(shape).flatten(), live_index(torch.rand(shape) < 0.1)
        if provider == "cpp":
            insist("live", device="cpu", dtype=dense.dtype, on="cpp")
            values = gather_live(dense, index)
            return (
                partial(gather_live, dense, index) if way == "gather" else partial(scatter_live, dense, index, values)
            )
        index = index.long()
        values = dense.index_select(0, index)
        return partial(dense.index_select, 0, index) if way == "gather" else partial(dense.scatter_, 0, index, values)

    measure(f"{way} 10 % of {'x'.join(map(str, shape))} weights", provider, make)


@pytest.mark.parametrize("provider", ["a timestep at a time", "all at once"])
def test_loss(measure: Measure, layer: Layer, provider: str) -> None:
    """Mean over time of the cross entropy of 100 classes, forward and backward."""

    def make() -> Action:
        logits = torch.randn(layer.timesteps, layer.images, 100, requires_grad=True)
        y = torch.randint(0, 100, (layer.images,))
        if provider == "all at once":
            return lambda: torch.autograd.grad(temporal_cross_entropy(logits, y), logits)
        return lambda: torch.autograd.grad(
            torch.stack([F.cross_entropy(step, y) for step in logits]).sum() / layer.timesteps, logits
        )

    measure(f"loss T={layer.timesteps} batch {layer.images}", provider, make)
