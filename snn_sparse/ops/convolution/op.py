"""Convolution of a sequence under a mask: the operator, for any device.

``snn_sparse::convolution`` has one schema and these implementations: dense by torch, at the live weights or from spikes
on a CPU (``cpu.py``, ``csrc/convolution/``), of packed spikes by torch or at the listed channels on a GPU (``gpu.py``,
``triton_*.py``). :func:`convolution` is the function to call.
"""

from typing import Any

import torch
import torch.nn.functional as F

from snn_sparse.ops.backend import implementation, interpreted
from snn_sparse.ops.convolution import cpu, gpu
from snn_sparse.ops.convolution.configuration import (
    LayerConfiguration,
    SpikeConfiguration,
    live_of,
    spikes_of,
    tiles_of,
)
from snn_sparse.ops.library import define, differentiable_once
from snn_sparse.ops.spikes import NCHW, NHWC, Packed, empty, is_channels_last
from snn_sparse.specs import LANES, MAX_VECTORS, ConvGeometry

Tensor = torch.Tensor
_HOW = "int stride, int padding, Tensor? keep, Tensor? lists, int[] numbers, bool adds_bias"
define(
    "convolution",
    f"(Tensor x, Tensor? bits, Tensor weight, Tensor? bias, ScalarType dtype, {_HOW}, bool binary, bool statistics) -> "
    "(Tensor, Tensor, Tensor)",
)
define(
    "convolution_backward",
    f"(Tensor grad, Tensor? x, Tensor? bits, Tensor weight, Tensor saved, SymInt[] shape, bool channels_last, {_HOW}, "
    "int needs) -> (Tensor, Tensor, Tensor)",
)
for _name, _on_cpu, _on_gpu in (
    ("convolution", cpu.forward, gpu.forward),
    ("convolution_backward", cpu.backward, gpu.backward),
):
    torch.library.impl(f"snn_sparse::{_name}", "CUDA")(_on_gpu)
    torch.library.impl(f"snn_sparse::{_name}", "CPU")(_on_gpu if interpreted() else _on_cpu)


def _dense_like(shape: Any, channels_last: bool, like: Tensor, dtype: torch.dtype) -> Tensor:
    return empty(tuple(shape), dtype, like.device, NHWC if channels_last else NCHW)


@torch.library.register_fake("snn_sparse::convolution")
def _fake(
    x: Tensor, bits: Tensor | None, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, stride: int, padding: int,
    keep: Tensor | None, lists: Tensor | None, numbers: list[int], adds_bias: bool, binary: bool, statistics: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    none, saved = weight.new_empty(0, dtype=torch.float32), weight.new_empty(0)
    if live_of(lists, numbers) is not None:
        g = ConvGeometry.of((x.shape[0], LANES, *x.shape[1:4]), weight.shape, stride, padding)
        packs = (*x.shape[:-1], x.shape[-1] // LANES) if binary else (0,)
        y = x.new_empty((x.shape[0], g.outputs, *g.out_size, x.shape[4]))
        return y, none, x.new_empty(packs, dtype=torch.uint8)
    g, chosen = ConvGeometry.of(x.shape, weight.shape, stride, padding), tiles_of("output", lists, numbers)
    if binary:
        saved = x.new_empty(x.numel() // LANES, dtype=torch.uint8)
    elif dtype != weight.dtype:
        saved = torch.empty_like(weight, dtype=dtype)
    spikes = spikes_of(numbers)
    if spikes is not None and spikes.output:
        return empty(g.output_shape, dtype, x.device, NHWC), none, saved
    if chosen is None:
        channels_last = bits.dim() == 5 if bits is not None else spikes is not None or is_channels_last(x)
        images = _dense_like(x.shape, channels_last, x, dtype).flatten(0, 1)
        y = F.conv2d(images, weight.to(dtype), None, stride, padding)
        return y.unflatten(0, x.shape[:2]), none, saved
    y = empty(g.output_shape, dtype, x.device, NHWC)
    if statistics:
        tiles = chosen[0].tiles(g.images, g.out_size[0] * g.out_size[1])
        none = weight.new_empty((3, g.outputs, g.steps, tiles), dtype=torch.float32)
    return y, none, saved


@torch.library.register_fake("snn_sparse::convolution_backward")
def _fake_backward(
    grad: Tensor, x: Tensor | None, bits: Tensor | None, weight: Tensor, saved: Tensor, shape: list[int],
    channels_last: bool, stride: int, padding: int, keep: Tensor | None, lists: Tensor | None, numbers: list[int],
    adds_bias: bool, needs: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    none = weight.new_empty(0)
    grad_bias = weight.new_empty(weight.shape[0]) if needs & 4 else none
    if live_of(lists, numbers) is not None:
        grad_x = grad.new_empty(shape) if needs & 1 else none
        return grad_x, torch.empty_like(weight) if needs & 2 else none, grad_bias
    dense = _dense_like(shape, channels_last, grad, grad.dtype)
    found = gpu.torch_gradients(grad, dense, weight.to(grad.dtype), stride, padding, needs & 3)
    spikes = spikes_of(numbers)
    if needs & 2 and spikes is not None and spikes.grad_weight and x is None:
        found[1] = weight.new_empty(weight.shape)
    if needs & 1 and tiles_of("grad_input", lists, numbers) is not None:
        found[0] = empty(tuple(shape), grad.dtype, grad.device, NHWC)
    if needs & 2 and tiles_of("grad_weight", lists, numbers) is not None:
        found[1] = empty(tuple(weight.shape), weight.dtype, weight.device, NHWC)
    return found[0], found[1].to(weight.dtype), grad_bias


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, bits, weight, _, _, ctx.stride, ctx.padding, keep, lists, ctx.numbers, ctx.adds_bias, binary, _ = inputs
    from_spikes = spikes_of(ctx.numbers) is not None
    ctx.shape = list(x.shape)
    ctx.channels_last = bits.dim() == 5 if bits is not None else from_spikes or is_channels_last(x)
    ctx.carrier_dtype, ctx.out_dtype = x.dtype, output[0].dtype
    ctx.save_for_backward(None if binary or bits is not None else x, bits, weight, keep, lists, output[2])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad: Tensor | None, _parts: Any, _saved: Any) -> tuple[Any, ...]:
    x, bits, weight, keep, lists, saved = ctx.saved_tensors
    needs = [ctx.needs_input_grad[i] for i in (0, 2, 3)]
    if grad is None or not any(needs):
        return (None,) * 13
    mask = sum(1 << i for i, need in enumerate(needs) if need)
    how = (ctx.stride, ctx.padding, keep, lists, ctx.numbers, ctx.adds_bias, mask)
    found = torch.ops.snn_sparse.convolution_backward(
        grad.to(ctx.out_dtype), x, bits, weight, saved, ctx.shape, ctx.channels_last, *how
    )
    grad_x, grad_weight, grad_bias = (g if need else None for g, need in zip(found, needs, strict=True))
    grad_x = grad_x.to(ctx.carrier_dtype) if grad_x is not None else None
    return grad_x, None, grad_weight, grad_bias, *(None,) * 9


differentiable_once("convolution", "convolution_backward", _differentiate, _setup)
_DENSE = LayerConfiguration()


def convolution(
    x: Tensor | Packed,
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    padding: int,
    configuration: LayerConfiguration = _DENSE,
    *,
    binary: bool = False,
    adds_bias: bool = True,
    statistics: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Convolve every timestep of a sequence by the same weights, under a mask.

    It computes ``torch.nn.functional.conv2d`` of ``weight * keep``; the gradient of the weight is exactly zero where
    ``keep`` is false. It can be differentiated once.

    Args:
        x: ``[T, N, Cin, H, W]``; ``lanes`` ``[G, Cin, H, W, 8 V]`` for a live configuration; or packed spikes.
        weight: ``[Cout, Cin, kh, kw]``; the result has its dtype, or, unless computed live, autocast's.
            Where the configuration is dense, pruned weights must be zero.
        bias: ``[Cout]`` or None.
        stride: of both axes.
        padding: of both axes, with zeros.
        configuration: how each direction is computed, and the mask.
        binary: ``x`` holds zeros and ones only: backward keeps one bit of each, and what the configuration leaves to
            spikes is computed from them; without it, densely.
        adds_bias: whether the bias is added. If not it gets a gradient of zero: for a batch norm whose statistics are
            those of the batch, which would subtract it again.
        statistics: whether the parts of the output's batch statistics are wanted, if a kernel gives them.

    Returns:
        ``[T, N, Cout, Ho, Wo]``, or lanes; float32 ``[3, Cout, T, tiles]`` (see :class:`snn_sparse.ops.Norm`) or None.

    Raises:
        TypeError: an argument of another type, dtype or device. ValueError: sizes that do not fit; named.
        RuntimeError: a second derivative.
    """
    packed = isinstance(x, Packed)
    data, bits = (x.carrier, x.bits) if isinstance(x, Packed) else (x, None)
    _check(data, weight, bias, configuration)
    _check_window(data, weight, stride, padding, configuration)
    device = weight.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    c, binary = configuration, binary and not packed
    from_spikes = binary and _takes_spikes(c.spikes, data, weight, bias, dtype, stride, padding)
    numbers = c.numbers if c.spikes is None or from_spikes else ()
    binary = binary and torch.is_grad_enabled() and weight.requires_grad and (from_spikes or cpu.packs(data))
    y, parts, _ = torch.ops.snn_sparse.convolution(
        data, bits, weight, bias, dtype, stride, padding, c.keep, c.lists, numbers, adds_bias, binary, statistics
    )
    return y, parts if parts.numel() else None


def _takes_spikes(
    spikes: SpikeConfiguration | None, x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, stride: int,
    padding: int,
) -> bool:  # fmt: skip
    """Whether the kernels for an input of spikes run on these tensors."""
    if spikes is None:
        return False
    same = x.dtype == weight.dtype == dtype and (bias is None or bias.dtype == dtype)
    g = ConvGeometry.of(x.shape, weight.shape, stride, padding)
    fits = cpu.takes_spikes(g) and (cpu.takes_winograd(g) or not spikes.grad_input)
    return same and fits and implementation("convolution", x, weight, bias) == "cpp"


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, configuration: LayerConfiguration) -> None:
    given = {"weight": weight, "x": x} if bias is None else {"weight": weight, "x": x, "bias": bias}
    for name, t in given.items():
        if not isinstance(t, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(t).__name__}")
        if t.device != weight.device or not t.is_floating_point():
            raise TypeError(f"{name} must be floating point on {weight.device}, got {t.dtype} on {t.device}")
        if configuration.live is not None and t.dtype != weight.dtype:
            raise TypeError(f"{name} must have the dtype of weight, {weight.dtype}, got {t.dtype}")
    _check_sizes(x, weight, bias, configuration)


def _check_sizes(x: Tensor, weight: Tensor, bias: Tensor | None, configuration: LayerConfiguration) -> None:
    if x.dim() != 5 or x.numel() == 0:
        raise ValueError(f"x must be [T, N, Cin, H, W] or lanes, and not empty, got {list(x.shape)}")
    if configuration.live is not None and (x.shape[-1] % LANES or not 1 <= x.shape[-1] // LANES <= MAX_VECTORS):
        raise ValueError(f"x must be lanes [G, Cin, H, W, 8 V], V at most {MAX_VECTORS}, got {list(x.shape)}")
    if weight.dim() != 4 or weight.shape[1] != x.shape[1 if configuration.live else 2]:
        raise ValueError(f"weight must be [Cout, Cin, kh, kw] with the channels of x, got {list(weight.shape)}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must be [{weight.shape[0]}], one value a filter, got {list(bias.shape)}")
    if configuration.keep is not None and configuration.keep.shape != weight.shape:
        raise ValueError(
            f"weight must have the mask's shape {list(configuration.keep.shape)}, got {list(weight.shape)}"
        )


def _check_window(x: Tensor, weight: Tensor, stride: int, padding: int, configuration: LayerConfiguration) -> None:
    for name, value, low in (("stride", stride, 1), ("padding", padding, 0)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must be an int, got {type(value).__name__}")
        if value < low:
            raise ValueError(f"{name} must be at least {low}, got {value}")
    shape = (1, LANES, *x.shape[1:4]) if configuration.live is not None else x.shape
    ConvGeometry.of(shape, weight.shape, stride, padding)
