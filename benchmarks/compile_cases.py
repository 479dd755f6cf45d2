"""Launches for the table of compiled kernels: host functions are called on tensors without memory, and recorded."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from snn_sparse.ops.convolution import TileConfiguration
from snn_sparse.ops.convolution.configuration import IndexLists
from snn_sparse.ops.convolution.triton_conv import convolve
from snn_sparse.ops.convolution.triton_conv_neuron import conv_neuron
from snn_sparse.ops.convolution.triton_weight import weight_gradient
from snn_sparse.ops.neuron.call import Settings, Tensors
from snn_sparse.ops.neuron.triton_backward import backward
from snn_sparse.ops.neuron.triton_forward import forward
from snn_sparse.ops.neuron.triton_inputs import Inputs
from snn_sparse.ops.neuron.triton_statistics import batch_statistics
from snn_sparse.ops.spikes import NCHW, NHWC, empty, packed_shape
from snn_sparse.ops.spikes.triton_bits import unpack
from snn_sparse.ops.triton_launch import Launch, recording
from snn_sparse.specs import ConvGeometry, NeuronSpec, ceil_div
from snn_sparse.tuning.gpu_candidates import candidates

_LIF = NeuronSpec()
_PLIF = NeuronSpec("plif", detach_reset=False, surrogate="sigmoid")
_LEARNT = NeuronSpec("leaky", strict=True, surrogate="erf")
_LATE = NeuronSpec("leaky", v_reset=None, late_reset=True, surrogate="fast_sigmoid")


@dataclass(frozen=True)
class Variant:
    """A way to call the host functions; ``norm`` and ``residual`` name a batch norm or a plain tensor."""

    name: str
    norm: str | None = None
    residual: str | None = None
    neuron: NeuronSpec = _LIF
    channels_last: bool = True
    pool: bool = False
    bits: bool = False
    constant: bool = False
    v: bool = False


VARIANTS = (
    Variant("nhwc lif per_step bits", "per_step", bits=True),
    Variant("nhwc lif per_step pool bits", "per_step", pool=True, bits=True),
    Variant("nchw lif per_step", "per_step", channels_last=False),
    Variant("nchw lif per_step pool bits", "per_step", channels_last=False, pool=True, bits=True),
    Variant("nhwc lif per_step + normed", "per_step", "per_step"),
    Variant("nchw lif per_step + normed pool", "per_step", "per_step", channels_last=False, pool=True),
    Variant("nhwc lif per_step + bits", "per_step", "bits", bits=True),
    Variant("nchw lif pooled + dense", "pooled", "dense", channels_last=False),
    Variant("nhwc lif constant", "per_step", constant=True),
    Variant("nhwc lif frozen", "frozen"),
    Variant("nchw lif v", v=True, channels_last=False),
    Variant("nhwc plif pooled v", "pooled", neuron=_PLIF, v=True),
    Variant("nhwc leaky late pool bits", "per_step", neuron=_LATE, pool=True, bits=True),
    Variant("nchw leaky learnt v", neuron=_LEARNT, channels_last=False, v=True),
    Variant("nchw if soft", neuron=NeuronSpec("if", v_reset=None, surrogate="triangle"), channels_last=False),
)


def _meta(shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool = False) -> torch.Tensor:
    """A tensor without memory, ``[..., C, H, W]`` in the layout."""
    return empty(shape, dtype, torch.device("meta"), NHWC if channels_last else NCHW)


def _norm(kind: str | None, data: torch.Tensor | None, suffix: str) -> dict[str, torch.Tensor]:
    """The tensors of one batch norm, by their names in the operator's call."""
    if data is None or kind not in ("per_step", "pooled", "frozen"):
        return {}
    mean, spread, weight, bias = (_meta((data.shape[2],), torch.float32) for _ in range(4))
    if kind != "frozen":
        factors = (0.1,) * (1 if kind == "pooled" else data.shape[0])
        moved: dict[str, Any] = {"running_mean": mean, "running_var": spread, "factors": factors}
        mean, spread = batch_statistics(data, 1e-5, pooled=kind == "pooled", weight=weight, bias=bias, **moved)
    found = {"mean": mean, "spread": spread, "weight": weight, "bias": bias}
    return {name + suffix: x for name, x in found.items()}


def record_neuron(variant: Variant, timesteps: int, dtype: torch.dtype) -> list[Launch]:
    """The launches of one forward and backward pass of a typical layer."""
    shape, last = (timesteps, 128, 256, 16, 16), variant.channels_last
    with recording() as launches:
        y = _meta((1, *shape[1:]) if variant.constant else shape, dtype, last)
        residual = _meta(shape, dtype, last) if variant.residual else None
        t = Tensors(
            y,
            **_norm(variant.norm, y, ""),
            residual=residual,
            **_norm(variant.residual, residual, "_r"),
            bits_r=_meta(packed_shape(shape, last), torch.int32) if variant.residual == "bits" else None,
            rate=_meta((1,), torch.float32) if variant.neuron in (_PLIF, _LEARNT) else None,
            v=_meta(shape[1:], torch.float32, last) if variant.v else None,
        )
        s = Settings.of(variant.neuron, timesteps, shape[1], variant.constant, pool=variant.pool)
        s = s._replace(frozen=variant.norm == "frozen", frozen_r=variant.residual == "frozen")
        inputs = Inputs(t, s)
        spikes, v = forward(t, s, bits=variant.bits, final_v=variant.v)
        if variant.bits:
            spikes = unpack(spikes, inputs.output_shape, dtype)
        backward(t, s, spikes, v, inputs.differentiable)
    return launches


# Layers of the published networks whose kernels differ: channels in and out, pixels a side, kernel, stride.
LAYERS = ((64, 64, 32, 3, 1), (64, 128, 16, 3, 1), (256, 256, 8, 3, 1), (512, 512, 4, 3, 1), (256, 512, 8, 1, 2))
DENSITIES = (1.0, 0.02)


def _lists(configuration: TileConfiguration, outputs: int, taps: int) -> IndexLists:
    """Index lists without memory; of their lengths only the number of groups matters."""
    groups = ceil_div(outputs, configuration.width)

    def integers(n: int) -> torch.Tensor:
        return _meta((n,), torch.int32)

    order = integers(groups * configuration.width) if configuration.reorder else None
    return IndexLists(order, integers(groups * taps + 1), integers(64 * configuration.step), integers(64))


def record_convolution(
    layer: tuple[int, ...], density: float, direction: str, _timesteps: int, dtype: torch.dtype
) -> list[Launch]:
    """The launches of one direction of a convolution, for every configuration that is worth timing."""
    inputs, outputs, side, kernel, stride = layer
    g = ConvGeometry(5, 128, inputs, outputs, side, side, (kernel, kernel), stride, kernel // 2)
    bits, weight = _meta(packed_shape(g.input_shape, True), torch.int32), _meta(g.weight_shape, dtype, True)
    bias, grad = _meta((outputs,), torch.float32), _meta(g.output_shape, dtype, True)
    with recording() as launches:
        for c in candidates(direction, g, density, dtype == torch.float32):
            lists = _lists(c, inputs if direction == "grad_input" else outputs, g.taps)
            if direction == "output":
                convolve(bits, weight, bias, g, lists, c, statistics=True)
            elif direction == "grad_input":
                convolve(grad, weight, None, g, lists, c, transposed=True)
            elif direction == "grad_weight":
                keep = _meta(g.weight_shape, torch.bool, True)
                weight_gradient(bits, grad, g, lists, c, keep if density < 1 else None)
            else:
                s = Settings.of(_LIF, g.steps, g.images, pool=side > 4 and not c.pixel_major)
                conv_neuron(bits, weight, bias, g, lists, c, (bias, bias), (bias, bias), s)
    return launches


Record = Callable[[int, torch.dtype], list[Launch]]
_CONVOLUTIONS: dict[str, Record] = {
    f"{direction} {'x'.join(map(str, layer))} {'dense' if density == 1 else 'sparse'}": partial(
        record_convolution, layer, density, direction
    )
    for layer in LAYERS
    for density in DENSITIES
    for direction in ("output", "grad_input", "grad_weight", "spikes")
}
CASES: dict[str, Record] = {
    **{variant.name: partial(record_neuron, variant) for variant in VARIANTS},
    **_CONVOLUTIONS,
}
QUICK = (
    "nhwc leaky late pool bits",
    "nhwc lif per_step pool bits",
    "nchw lif per_step + normed pool",
    "nhwc plif pooled v",
    "output 512x512x4x3x1 dense",
    "grad_input 64x64x32x3x1 sparse",
    "grad_weight 512x512x4x3x1 dense",
    "spikes 64x64x32x3x1 dense",
)
