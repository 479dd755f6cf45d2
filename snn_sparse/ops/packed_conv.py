"""Convolution of packed spikes: by torch after unpacking, or by our kernels, as a plan says for each direction.

What is computed is ``torch.nn.functional.conv2d`` of the unpacked spikes, whose bits are all that backward keeps. The
kernels leave out weights that the plan's mask prunes and give them a gradient of exactly zero.
"""

from typing import Any

import torch
import torch.nn.functional as F

from snn_sparse.kernels.conv_settings import Geometry, tiles_of
from snn_sparse.ops.conv_plan import DIRECTIONS, ConvPlan, geometry_of_conv, way_of
from snn_sparse.ops.spike_bits import Packed, dense_spikes, empty_dense

Tensor = torch.Tensor


@torch.library.custom_op("snn_sparse::packed_conv2d", mutates_args=())
def _packed_conv(
    carrier: Tensor,
    bits: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
    stride: list[int],
    padding: list[int],
    alive: Tensor | None,
    lists: list[Tensor],
    ways: list[int],
    adds_bias: bool,
    statistics: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Output, parts of its statistics, and the weight in the output's dtype; the last two empty where there is none."""
    low, none = weight.to(dtype), weight.new_empty(0, dtype=torch.float32)
    kept = weight.new_empty(0) if low is weight else low  # outputs may not be inputs
    chosen, bias = way_of("output", lists, ways), bias if adds_bias else None
    if chosen is None:
        x = dense_spikes(bits, tuple(carrier.shape), dtype).flatten(0, 1)
        bias = None if bias is None else bias.to(dtype)
        return F.conv2d(x, low, bias, stride, padding).unflatten(0, carrier.shape[:2]), none, kept
    from snn_sparse.kernels.conv import convolve

    geometry = geometry_of_conv(carrier.shape, weight, stride, padding)
    y, parts = convolve(bits, low, bias, geometry, chosen[1], chosen[0], statistics=statistics)
    return y, none if parts is None else parts, kept


@_packed_conv.register_fake
def _fake_packed_conv(
    carrier: Tensor,
    bits: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
    stride: list[int],
    padding: list[int],
    alive: Tensor | None,
    lists: list[Tensor],
    ways: list[int],
    adds_bias: bool,
    statistics: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    chosen, none = way_of("output", lists, ways), weight.new_empty(0, dtype=torch.float32)
    kept = weight.new_empty(0) if dtype == weight.dtype else torch.empty_like(weight, dtype=dtype)
    if chosen is None:
        x = empty_dense(tuple(carrier.shape), bits, dtype).flatten(0, 1)
        return F.conv2d(x, weight.to(dtype), None, stride, padding).unflatten(0, carrier.shape[:2]), none, kept
    g = geometry_of_conv(carrier.shape, weight, stride, padding)
    t, n, channels, high, wide = g.output_shape
    y = weight.new_empty((t, n, high, wide, channels), dtype=dtype).movedim(-1, 2)
    shape = (3, channels, t, tiles_of(n, high * wide, chosen[0])) if statistics else (0,)
    return y, weight.new_empty(shape, dtype=torch.float32), kept


@torch.library.custom_op("snn_sparse::packed_conv2d_backward", mutates_args=())
def _packed_conv_backward(
    grad: Tensor,
    bits: Tensor,
    weight: Tensor,
    low: Tensor,
    shape: list[int],
    stride: list[int],
    padding: list[int],
    alive: Tensor | None,
    lists: list[Tensor],
    ways: list[int],
    adds_bias: bool,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of spikes, weight and bias; empty where not needed. ``low`` is the weight in the dtype of ``grad``."""
    by_input, by_weight = way_of("grad_input", lists, ways), way_of("grad_weight", lists, ways)
    torch_needs = [needs[0] and by_input is None, needs[1] and by_weight is None, False]
    found = [grad.new_empty(0) for _ in needs]
    if any(torch_needs):
        dense = (
            dense_spikes(bits, tuple(shape), grad.dtype)
            if torch_needs[1]
            else empty_dense(tuple(shape), bits, grad.dtype)
        )
        found = _torch_gradients(grad, dense, low, stride, padding, torch_needs)
    if needs[0] and by_input is not None:
        from snn_sparse.kernels.conv import convolve

        geometry = geometry_of_conv(shape, weight, stride, padding)
        found[0], _ = convolve(grad, low, None, geometry, by_input[1], by_input[0], transposed=True)
    if needs[1] and by_weight is not None:
        from snn_sparse.kernels.conv_weight import weight_gradient

        geometry = geometry_of_conv(shape, weight, stride, padding)
        found[1] = weight_gradient(bits, grad, geometry, by_weight[1], by_weight[0], alive, weight.dtype)
    if needs[2]:
        exact = torch.float32
        found[2] = grad.sum((0, 1, 3, 4), dtype=exact) if adds_bias else weight.new_zeros(len(weight), dtype=exact)
    return found[0], found[1].to(weight.dtype), found[2].to(weight.dtype)


def _torch_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, stride: list[int], padding: list[int], needs: list[bool]
) -> list[Tensor]:
    grads = torch.ops.aten.convolution_backward(
        grad.flatten(0, 1), x.flatten(0, 1), weight, [weight.shape[0]], stride, padding, [1, 1], False, [0, 0], 1, needs
    )
    found = [g if need else grad.new_empty(0) for g, need in zip(grads, needs, strict=True)]
    return [found[0].unflatten(0, x.shape[:2]) if needs[0] else found[0], *found[1:]]


@_packed_conv_backward.register_fake
def _fake_packed_conv_backward(
    grad: Tensor,
    bits: Tensor,
    weight: Tensor,
    low: Tensor,
    shape: list[int],
    stride: list[int],
    padding: list[int],
    alive: Tensor | None,
    lists: list[Tensor],
    ways: list[int],
    adds_bias: bool,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    by_kernel = [way_of(direction, lists, ways) is not None for direction in DIRECTIONS[1:3]]
    x = empty_dense(tuple(shape), bits, grad.dtype)
    found = _torch_gradients(grad, x, low, stride, padding, [*needs[:2], False])
    if needs[0] and by_kernel[0]:
        t, n, c, h, w = shape
        found[0] = grad.new_empty((t, n, h, w, c)).movedim(-1, 2)
    if needs[1]:
        innermost = weight.new_empty(weight.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2)
        found[1] = innermost if by_kernel[1] else found[1].to(weight.dtype)
    return found[0], found[1].to(weight.dtype), weight.new_empty(weight.shape[0] if needs[2] else 0)


def _setup_conv(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    carrier, bits, weight, _, _, ctx.stride, ctx.padding, alive, ctx.lists, ctx.ways, ctx.adds_bias, _ = inputs
    ctx.shape, ctx.carrier_dtype, ctx.out_dtype = list(carrier.shape), carrier.dtype, output[0].dtype
    ctx.save_for_backward(bits, weight, alive, output[2])
    ctx.set_materialize_grads(False)


def _differentiate_conv(ctx: Any, grad: Tensor | None, _parts: Any, _low: Any) -> tuple[Any, ...]:
    bits, weight, alive, low = ctx.saved_tensors
    lists = [None] * len(ctx.lists)
    ways: list[None] | None = None if ctx.ways else []  # torch takes an empty list for one of tensors
    if grad is None:
        return (None,) * 8 + (lists, ways, None, None)
    needs = [ctx.needs_input_grad[i] for i in (0, 2, 3)]
    how = (ctx.shape, ctx.stride, ctx.padding, alive, ctx.lists, ctx.ways, ctx.adds_bias, needs)
    low = low if low.numel() else weight
    found = _packed_conv_backward(grad.to(ctx.out_dtype), bits, weight, low, *how)
    grad_x, grad_weight, grad_bias = (g if need else None for g, need in zip(found, needs, strict=True))
    grad_x = grad_x.to(ctx.carrier_dtype) if grad_x is not None else None
    return grad_x, None, grad_weight, grad_bias, None, None, None, None, lists, ways, None, None


_packed_conv.register_autograd(_differentiate_conv, setup_context=_setup_conv)


def packed_conv2d(
    packed: Packed,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    plan: ConvPlan | None = None,
    *,
    adds_bias: bool = True,
    statistics: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Convolution of packed spikes; bits are all that backward keeps of them.

    Args:
        packed: spikes ``[T, N, Cin, H, W]``.
        weight: ``[Cout, Cin, kh, kw]``; the result has its dtype, or under autocast the lower precision.
        bias: ``[Cout]`` or None.
        stride: of the convolution.
        padding: of the convolution.
        plan: how each direction is computed; kernels need channels-last bits, one stride and one padding.
        adds_bias: whether the bias is added. If not it gets a gradient of zero: for a batch norm whose statistics are
            those of the batch, which would subtract it again.
        statistics: whether the parts of the output's batch statistics are wanted, for each timestep, if a kernel runs.

    Returns:
        ``[T, N, Cout, Ho, Wo]``; float32 ``[3, Cout, T, tiles]`` (see ``kernels/statistics.py``) or None.

    Raises:
        TypeError: ``packed`` is not :class:`Packed`.
    """
    if not isinstance(packed, Packed):
        raise TypeError(f"packed must be Packed spikes, got {type(packed).__name__}")
    device = weight.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    how = (plan or ConvPlan()).arguments()
    y, parts, _ = _packed_conv(*packed, weight, bias, dtype, stride, padding, *how, adds_bias, statistics)
    return y, parts if parts.numel() else None


def run_direction(
    direction: str, packed: Packed, weight: Tensor, grad: Tensor, geometry: Geometry, plan: ConvPlan
) -> Tensor:
    """One direction of a convolution alone, for timing and checking ways.

    Args:
        direction: ``output``, ``grad_input`` or ``grad_weight``.
        packed: spikes ``[T, N, Cin, H, W]``.
        weight: ``[Cout, Cin, kh, kw]`` in the dtype of the products.
        grad: of the output ``[T, N, Cout, Ho, Wo]``.
        geometry: of the convolution.
        plan: with a way for the direction, or without: then by torch.
    """
    how = ([geometry.stride] * 2, [geometry.padding] * 2, *plan.arguments())
    if direction == "output":
        return _packed_conv(*packed, weight, None, weight.dtype, *how, False, False)[0]
    needs = [direction == "grad_input", direction == "grad_weight", False]
    shape = list(packed.carrier.shape)
    return _packed_conv_backward(grad, packed.bits, weight, weight, shape, *how, False, needs)[needs.index(True)]
