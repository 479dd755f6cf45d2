"""The least time of a training step on a GPU: matrix rate and memory bandwidth against what a network must do."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import snn_sparse as ss
from snn_sparse.fusion.network import FusedNetwork

FLOOR = "floor us "  # in front of the names of its parts in rows


@dataclass(frozen=True)
class Chip:
    """Rates that a GPU reaches in practice.

    Attributes:
        name: as it appears in the device's name.
        flops: bf16 matrix products, a second.
        bandwidth: bytes a second, read or written.
    """

    name: str
    flops: float
    bandwidth: float


# H100: what large matrix products and copies reach, 71 and 90 % of the data sheet; the others at the same shares.
H100 = Chip("H100", 700e12, 3.0e12)
CHIPS = (H100, Chip("H200", 700e12, 4.3e12), Chip("A100", 220e12, 1.8e12))

# Bytes for each element that a convolution puts out, spikes packed to bits, everything else in bf16.
_FORWARD = 2 + 2  # the convolution writes y, with its statistics; the neuron reads y
_BITS = 3 / 8  # the neuron writes spikes, the next convolution reads them, forward and for its weight gradient
_SPIKE_GRADIENT = 2 + 2  # read for the sums of batch norm, and again for y's gradient
_BACKWARD = 2 + 2 + 2 + 2  # y read in both passes, y's gradient written, and read for the weight gradient
_INPUT_GRADIENT = 2  # y's gradient read once more
_INPUT_GRADIENT_OUT = 2  # the gradient of the convolution's input written
# Bytes for each live weight in float32: gradient written and read, weight and momentum read and written.
_OPTIMIZER = 24


@dataclass(frozen=True)
class _Layer:
    name: str
    elements: int  # that the layer puts out; once for a static image
    shown: int  # how often a static image's are shown to the neuron
    weights: int
    products: int  # for each element
    is_map: bool


def chip_of(device_name: str) -> Chip:
    """The figures for a device; those of the H100 for a device that is not listed."""
    return next((chip for chip in CHIPS if chip.name in device_name), H100)


def _layers(model: nn.Module, shape: tuple[int, ...], timesteps: int) -> list[_Layer]:
    """Convolutions and linear layers in the order in which they run, without computing anything."""
    plain = ss.unfuse(model) if isinstance(model, FusedNetwork) else model
    twin: Any = copy.deepcopy(plain).to("meta")
    twin.timesteps = timesteps
    found: list[_Layer] = []

    def note(name: str, layer: nn.Module, out: torch.Tensor) -> None:
        weight = layer.weight
        assert isinstance(weight, torch.Tensor)
        is_map = isinstance(layer, nn.Conv2d)
        shown = timesteps if is_map and out.dim() == 4 else 1
        products = weight.numel() // weight.shape[0]
        found.append(_Layer(name, out.numel(), shown, weight.numel(), products, is_map))

    for name, layer in twin.named_modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(lambda layer, _, out, name=name: note(name, layer, out))
    twin(torch.empty(shape, device="meta"))
    return found


def _traffic(layer: _Layer, first: bool) -> float:
    """Bytes of a layer and the neuron behind it. A pooled gradient counts as a whole one."""
    if not layer.is_map:
        return 0.0
    moved = layer.elements * (_FORWARD + _BACKWARD) + layer.shown * layer.elements * (_BITS + _SPIKE_GRADIENT)
    return moved if first else moved + layer.elements * (_INPUT_GRADIENT + _INPUT_GRADIENT_OUT)


def floor(
    model: nn.Module,
    shape: tuple[int, ...],
    timesteps: int,
    density: Mapping[str, float] | None = None,
    chip: Chip = H100,
) -> dict[str, float]:
    """Seconds that a training step takes at least.

    Counted are the products of convolutions and linear layers, forward, for the weights' gradient and, but for the
    first layer, for the input's; the memory traffic of convolution, batch norm and neuron with spikes at one bit and
    all else in bf16; SGD with momentum. A static image's first convolution runs once. What is small is not: loss,
    statistics, biases, weights read by convolutions.

    Args:
        model: plain or fused; not changed.
        shape: of the input.
        timesteps: T of a static image.
        density: share of live weights by parameter name, for an unstructured convolution that wastes nothing; None: 1.
        chip: what the GPU reaches.

    Returns:
        ``convolution``, ``neuron`` and ``optimizer`` by themselves, ``overlapped``: each layer takes the longer of
        its products and its traffic, ``one after the other``: the sum of the first three.
    """
    products = traffic = weights = overlapped = 0.0
    for number, layer in enumerate(_layers(model, shape, timesteps)):
        live = (density or {}).get(f"{layer.name}.weight", 1.0)
        passes = 2 if number == 0 else 3
        computing = 2 * passes * layer.elements * layer.products * live / chip.flops
        moving = _traffic(layer, number == 0) / chip.bandwidth
        products, traffic, weights = products + computing, traffic + moving, weights + live * layer.weights
        overlapped += max(computing, moving)
    optimizer = weights * _OPTIMIZER / chip.bandwidth
    found = {"convolution": products, "neuron": traffic, "optimizer": optimizer}
    return {**found, "overlapped": overlapped + optimizer, "one after the other": sum(found.values())}
