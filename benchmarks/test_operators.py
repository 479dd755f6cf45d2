"""Operators on a CPU against plain PyTorch, by pytest-benchmark: ``make bench``, no part of ``make test``."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from benchmarks.refusals import Refused, insist
from snn_sparse.ops import neuron_sequence, plain_neuron
from snn_sparse.ops.convolution import LayerConfiguration, LiveConfiguration, convolution, live_configuration
from snn_sparse.ops.spikes import NCHW, MemoryFormat, convert
from snn_sparse.specs import ConvGeometry, NeuronSpec

MAPS = {"T=4 16x64x16x16": (4, 16, 64, 16, 16), "T=5 16x256x4x4": (5, 16, 256, 4, 4)}
NEURONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "plain": lambda x: plain_neuron(x, NeuronSpec())[0],
    "fused": lambda x: neuron_sequence(x, NeuronSpec(), x.shape[0])[0],  # type: ignore[dict-item, return-value]
}
LIVE = LiveConfiguration(vectors=2)  # sizes below are multiples of two vectors
CONVOLUTIONS = ("plain", "dense", "live 90 %", "live 98 %")


@pytest.fixture(autouse=True)
def _compiled_operators() -> None:
    """Plain PyTorch is not timed under another name."""
    torch.manual_seed(0)
    try:
        insist("neuron", "convolution", device="cpu", dtype=torch.float32, on="cpp")
    except Refused as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("provider", NEURONS)
@pytest.mark.parametrize("size", MAPS)
@pytest.mark.parametrize("way", ["forward", "backward"])
def test_neuron(benchmark: Any, way: str, size: str, provider: str) -> None:
    """One layer of neurons over all timesteps."""
    benchmark.group = f"neuron {way} {size}"
    x = torch.randn(MAPS[size], requires_grad=True)
    run = NEURONS[provider]
    if way == "forward":
        benchmark(run, x)
    else:
        spikes = run(x)
        benchmark(torch.autograd.grad, spikes, x, torch.randn_like(spikes), retain_graph=True)


def _convolution(provider: str, shape: tuple[int, ...]) -> tuple[Callable[[], torch.Tensor], list[torch.Tensor]]:
    """A layer from as many channels to as many, and the tensors that have a gradient."""
    t, n, c, h, w = shape
    x, weight = (torch.rand(t, n, c, h, w) < 0.2).float(), torch.randn(c, c, 3, 3)
    if provider == "plain":
        images = x.flatten(0, 1).requires_grad_()
        weight.requires_grad_()
        return lambda: F.conv2d(images, weight, padding=1), [images, weight]
    how = LayerConfiguration()
    if provider != "dense":
        keep = torch.rand(weight.shape) >= float(provider.split()[1]) / 100
        how, weight = live_configuration(keep, 1, 1, LIVE), weight * keep
        g = ConvGeometry.of(x.shape, weight.shape, 1, 1)
        x = convert(x, g.input_shape, NCHW, MemoryFormat("lanes", LIVE.vectors))
    x.requires_grad_()
    weight.requires_grad_()
    return lambda: convolution(x, weight, None, 1, 1, how, binary=True)[0], [x, weight]


@pytest.mark.parametrize("provider", CONVOLUTIONS)
@pytest.mark.parametrize("size", MAPS)
@pytest.mark.parametrize("way", ["forward", "forward and backward"])
def test_convolution(benchmark: Any, way: str, size: str, provider: str) -> None:
    """A 3x3 convolution of spikes."""
    benchmark.group = f"convolution {way} {size}"
    run, leaves = _convolution(provider, MAPS[size])
    grad = torch.ones_like(run())
    benchmark(run if way == "forward" else lambda: torch.autograd.grad(run(), leaves, grad))
