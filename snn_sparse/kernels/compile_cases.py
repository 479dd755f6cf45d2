"""What the table of compiled kernels is made of: host functions called on tensors without memory, launches recorded."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from snn_sparse.kernels.augment import image_batch
from snn_sparse.kernels.conv import convolve
from snn_sparse.kernels.conv_candidates import candidates
from snn_sparse.kernels.conv_neuron import conv_neuron
from snn_sparse.kernels.conv_settings import Geometry, Lists, Way, ceil_div
from snn_sparse.kernels.conv_weight import weight_gradient
from snn_sparse.kernels.inputs import Inputs
from snn_sparse.kernels.launch import Launch, recording
from snn_sparse.kernels.neuron import backward, forward
from snn_sparse.kernels.optimizer import AdamRule, SgdRule, StepLauncher, table_row
from snn_sparse.kernels.settings import Neuron, Normalisation
from snn_sparse.kernels.spike_bits import pack, unpack
from snn_sparse.kernels.statistics import batch_statistics

_LIF = Neuron()


@dataclass(frozen=True)
class Variant:
    """A way to call the host functions; ``norm`` and ``residual`` name a batch norm or a plain tensor."""

    name: str
    norm: str | None = None
    residual: str | None = None
    neuron: Neuron = _LIF
    channels_last: bool = True
    pool: bool = False
    bits: bool = False
    static: bool = False
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
    Variant("nhwc lif static", "per_step", static=True),
    Variant("nhwc lif running", "running"),
    Variant("nchw lif v", v=True, channels_last=False),
    Variant("nhwc plif pooled v", "pooled", neuron=Neuron("plif", detach_reset=False, surrogate="sigmoid"), v=True),
    Variant("nchw if soft", neuron=Neuron("if", v_reset=None, surrogate="triangle"), channels_last=False),
)


def _meta(shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool = False) -> torch.Tensor:
    """A tensor without memory, ``[..., C, H, W]`` in the layout."""
    if not channels_last:
        return torch.empty(shape, dtype=dtype, device="meta")
    *outer, c, h, w = shape
    return torch.empty((*outer, h, w, c), dtype=dtype, device="meta").movedim(-1, -3)


def _norm(kind: str | None, data: torch.Tensor | None) -> Normalisation | None:
    if data is None or kind not in ("per_step", "pooled", "running"):
        return None
    values = [_meta((data.shape[2],), torch.float32) for _ in range(4)]
    if kind == "running":
        return Normalisation(values[0], running_var=values[1], weight=values[2], bias=values[3])
    mean, invstd = batch_statistics(
        data, 1e-5, pooled=kind == "pooled", running_mean=values[0], running_var=values[1],
        factors=_meta((1 if kind == "pooled" else data.shape[0],), torch.float32),
    )  # fmt: skip
    return Normalisation(mean, invstd, weight=values[2], bias=values[3])


def record_neuron(variant: Variant, timesteps: int, dtype: torch.dtype) -> list[Launch]:
    """The launches of one forward and backward pass of a typical layer."""
    shape, last = (timesteps, 128, 256, 16, 16), variant.channels_last
    with recording() as launches:
        y = _meta((1, *shape[1:]) if variant.static else shape, dtype, last)
        residual = _meta(shape, dtype, last) if variant.residual else None
        norm_residual = _norm(variant.residual, residual)
        inputs = Inputs(
            y,
            variant.neuron,
            timesteps,
            norm=_norm(variant.norm, y),
            residual=pack(residual) if residual is not None and variant.residual == "bits" else residual,
            norm_residual=norm_residual,
            rate=_meta((1,), torch.float32) if variant.neuron.kind == "plif" else None,
            v=_meta(shape[1:], torch.float32, last) if variant.v else None,
            pool=variant.pool,
        )
        spikes, v = forward(inputs, bits=variant.bits, final_v=variant.v)
        if variant.bits:
            spikes = unpack(spikes, inputs.output_shape, dtype)
        backward(inputs, spikes, v, inputs.differentiable)
    return launches


# Layers of the published networks whose kernels differ: channels in and out, pixels a side, kernel, stride.
LAYERS = ((64, 64, 32, 3, 1), (64, 128, 16, 3, 1), (256, 256, 8, 3, 1), (512, 512, 4, 3, 1), (256, 512, 8, 1, 2))
DENSITIES = (1.0, 0.02)


def _lists(way: Way, outputs: int, taps: int) -> Lists:
    """Lists without memory; of their lengths only the number of groups matters."""
    groups = ceil_div(outputs, way.width)

    def integers(n: int) -> torch.Tensor:
        return _meta((n,), torch.int32)

    order = integers(groups * way.width) if way.reorder else None
    return Lists(order, integers(groups * taps + 1), integers(64 * way.step), integers(64))


def record_convolution(
    layer: tuple[int, ...], density: float, direction: str, _timesteps: int, dtype: torch.dtype
) -> list[Launch]:
    """The launches of one direction of a convolution, for every way that is worth timing."""
    inputs, outputs, side, kernel, stride = layer
    g = Geometry(5, 128, inputs, outputs, side, side, (kernel, kernel), stride, kernel // 2)
    bits, weight = _meta(g.input_shape(True), torch.int32), _meta((outputs, inputs, kernel, kernel), dtype, True)
    bias, grad = _meta((outputs,), torch.float32), _meta(g.output_shape, dtype, True)
    with recording() as launches:
        for way in candidates(direction, g, density, dtype == torch.float32):
            lists = _lists(way, inputs if direction == "grad_input" else outputs, g.taps)
            if direction == "output":
                convolve(bits, weight, bias, g, lists, way, statistics=True)
            elif direction == "grad_input":
                convolve(grad, weight, None, g, lists, way, transposed=True)
            elif direction == "grad_weight":
                alive = _meta(tuple(weight.shape), torch.bool, True)
                weight_gradient(bits, grad, g, lists, way, alive if density < 1 else None)
            else:
                norm = Normalisation(bias, running_var=bias, weight=bias, bias=bias)
                conv_neuron(bits, weight, bias, g, lists, way, norm, _LIF, pool=side > 4 and not way.pixel_major)
    return launches


def record_step(_timesteps: int, _dtype: torch.dtype) -> list[Launch]:
    """The launches of both optimizers."""
    weight = torch.empty(4096, 512, device="meta")
    with recording() as launches:
        launcher = StepLauncher([weight.numel()], weight.device)
        for rule in (SgdRule(0.9, 5e-4), AdamRule()):
            launcher.step([table_row(weight, weight, (weight, weight))], rule)
    return launches


def record_batch(_timesteps: int, dtype: torch.dtype) -> list[Launch]:
    """The launch that makes a batch of augmented images."""
    images, index = _meta((50000, 3, 32, 32), torch.uint8), _meta((128,), torch.int64)
    statistics, draws = _meta((2, 3), torch.float32), _meta((5, 128), torch.int32)
    with recording() as launches:
        for last in (False, True):
            image_batch(
                images, index, statistics, draws, flip=True, crop_padding=4, cutout=16, dtype=dtype, channels_last=last
            )
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
    "optimizer": record_step,
    "batch": record_batch,
}
QUICK = (
    "nhwc lif per_step pool bits",
    "nchw lif per_step + normed pool",
    "nhwc plif pooled v",
    "output 512x512x4x3x1 dense",
    "grad_input 64x64x32x3x1 sparse",
    "grad_weight 512x512x4x3x1 dense",
    "spikes 64x64x32x3x1 dense",
    "optimizer",
    "batch",
)
