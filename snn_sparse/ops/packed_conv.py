"""Convolution of packed spikes: by torch after unpacking, or by our kernels, as a plan says for each direction.

What is computed is ``torch.nn.functional.conv2d`` of the unpacked spikes, whose bits are all that backward keeps. The
kernels leave out weights that the plan's mask prunes and give them a gradient of exactly zero.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from snn_sparse.kernels.conv_settings import Geometry, Lists, Way, tiles_of
from snn_sparse.ops.channel_groups import group_channels
from snn_sparse.ops.spike_bits import Packed, dense_spikes, empty_dense

Tensor = torch.Tensor


class Ways(NamedTuple):
    """How each direction is computed; None: by torch, on unpacked spikes.

    ``spikes`` is the output with batch norm and neuron, without gradients (``packed_conv_neuron.py``).
    """

    output: Way | None = None
    grad_input: Way | None = None
    grad_weight: Way | None = None
    spikes: Way | None = None


DIRECTIONS = Ways._fields


_ALL_BY_TORCH = Ways()


@dataclass(frozen=True)
class ConvPlan:
    """Ways with the lists that they walk through, on the device of the layer.

    Attributes:
        ways: of the directions.
        alive: bool ``[Cout, Cin, kh, kw]``, or None.
        lists: four int32 tensors a direction (order, pointers, channels, segments), empty where there is none.
    """

    ways: Ways = _ALL_BY_TORCH
    alive: Tensor | None = None
    lists: tuple[Tensor, ...] = ()

    @classmethod
    def make(cls, ways: Ways, mask: Tensor | None, shape: tuple[int, ...], device: torch.device) -> "ConvPlan":
        """The plan of a layer: ``mask`` bool ``[Cout, Cin, kh, kw]`` or None, of a weight of ``shape``."""
        used = torch.ones(shape, dtype=torch.bool) if mask is None else mask
        empty = torch.empty(0, dtype=torch.int32, device=device)
        lists: list[Tensor] = []
        for direction, way in zip(DIRECTIONS, ways, strict=True):
            if way is None:
                lists += [empty] * 4
                continue
            found = group_channels(used, way, transposed=direction == "grad_input").lists(device)
            order = empty if found.order is None else found.order
            lists += [order, found.pointers, found.channels, found.segments]
        return cls(ways, None if mask is None else mask.to(device), tuple(lists))

    def arguments(self) -> tuple[Tensor | None, list[Tensor], list[int]]:
        """As the operators take it."""
        if not any(self.ways):
            return None, [], []
        return self.alive, list(self.lists), [n for w in self.ways for n in (w.encode() if w else [0] * 8)]


def _way(direction: str, lists: list[Tensor], ways: list[int]) -> tuple[Way, Lists] | None:
    i = DIRECTIONS.index(direction)
    way = Way.decode(ways[8 * i : 8 * i + 8]) if ways else None
    if way is None:
        return None
    order, *others = lists[4 * i : 4 * i + 4]
    return way, Lists(order if len(order) else None, *others)


def _geometry(shape: Any, weight: Tensor, stride: list[int], padding: list[int]) -> Geometry:
    t, n, c, h, w = shape
    return Geometry(t, n, c, weight.shape[0], h, w, (weight.shape[2], weight.shape[3]), stride[0], padding[0])


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
    statistics: bool,
) -> tuple[Tensor, Tensor]:
    weight, none = weight.to(dtype), weight.new_empty(0, dtype=torch.float32)
    chosen = _way("output", lists, ways)
    if chosen is None:
        x = dense_spikes(bits, tuple(carrier.shape), dtype).flatten(0, 1)
        bias = None if bias is None else bias.to(dtype)
        return F.conv2d(x, weight, bias, stride, padding).unflatten(0, carrier.shape[:2]), none
    from snn_sparse.kernels.conv import convolve

    geometry = _geometry(carrier.shape, weight, stride, padding)
    y, parts = convolve(bits, weight, bias, geometry, chosen[1], chosen[0], statistics=statistics)
    return y, none if parts is None else parts


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
    statistics: bool,
) -> tuple[Tensor, Tensor]:
    chosen, none = _way("output", lists, ways), weight.new_empty(0, dtype=torch.float32)
    if chosen is None:
        x = empty_dense(tuple(carrier.shape), bits, dtype).flatten(0, 1)
        bias = None if bias is None else bias.to(dtype)
        return F.conv2d(x, weight.to(dtype), bias, stride, padding).unflatten(0, carrier.shape[:2]), none
    g = _geometry(carrier.shape, weight, stride, padding)
    t, n, channels, high, wide = g.output_shape
    y = weight.new_empty((t, n, high, wide, channels), dtype=dtype).movedim(-1, 2)
    return y, weight.new_empty(
        (3, channels, t, tiles_of(n, high * wide, chosen[0])) if statistics else 0, dtype=torch.float32
    )


@torch.library.custom_op("snn_sparse::packed_conv2d_backward", mutates_args=())
def _packed_conv_backward(
    grad: Tensor,
    bits: Tensor,
    weight: Tensor,
    shape: list[int],
    stride: list[int],
    padding: list[int],
    alive: Tensor | None,
    lists: list[Tensor],
    ways: list[int],
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of spikes, weight and bias; empty where not needed."""
    geometry = _geometry(shape, weight, stride, padding)
    by_input, by_weight = _way("grad_input", lists, ways), _way("grad_weight", lists, ways)
    low = weight.to(grad.dtype)
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

        found[0], _ = convolve(grad, low, None, geometry, by_input[1], by_input[0], transposed=True)
    if needs[1] and by_weight is not None:
        from snn_sparse.kernels.conv_weight import weight_gradient

        found[1] = weight_gradient(bits, grad, geometry, by_weight[1], by_weight[0], alive, weight.dtype)
    if needs[2]:
        found[2] = grad.sum((0, 1, 3, 4), dtype=torch.float32)
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
    shape: list[int],
    stride: list[int],
    padding: list[int],
    alive: Tensor | None,
    lists: list[Tensor],
    ways: list[int],
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    by_kernel = [_way(direction, lists, ways) is not None for direction in DIRECTIONS[1:3]]
    x, low = empty_dense(tuple(shape), bits, grad.dtype), weight.to(grad.dtype)
    found = _torch_gradients(grad, x, low, stride, padding, [*needs[:2], False])
    if needs[0] and by_kernel[0]:
        t, n, c, h, w = shape
        found[0] = grad.new_empty((t, n, h, w, c)).movedim(-1, 2)
    if needs[1]:
        innermost = weight.new_empty(weight.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2)
        found[1] = innermost if by_kernel[1] else found[1].to(weight.dtype)
    return found[0], found[1].to(weight.dtype), weight.new_empty(weight.shape[0] if needs[2] else 0)


def _setup_conv(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    carrier, bits, weight, _, _, ctx.stride, ctx.padding, alive, ctx.lists, ctx.ways, _ = inputs
    ctx.shape, ctx.carrier_dtype, ctx.out_dtype = list(carrier.shape), carrier.dtype, output[0].dtype
    ctx.save_for_backward(bits, weight, alive)


def _differentiate_conv(ctx: Any, grad: Tensor, _parts: Any) -> tuple[Any, ...]:
    bits, weight, alive = ctx.saved_tensors
    needs = [ctx.needs_input_grad[i] for i in (0, 2, 3)]
    how = (ctx.shape, ctx.stride, ctx.padding, alive, ctx.lists, ctx.ways, needs)
    found = _packed_conv_backward(grad.to(ctx.out_dtype), bits, weight, *how)
    grad_x, grad_weight, grad_bias = (g if need else None for g, need in zip(found, needs, strict=True))
    grad_x = grad_x.to(ctx.carrier_dtype) if grad_x is not None else None
    lists, ways = [None] * len(ctx.lists), None if ctx.ways else []  # torch takes an empty list for one of tensors
    return grad_x, None, grad_weight, grad_bias, None, None, None, None, lists, ways, None


_packed_conv.register_autograd(_differentiate_conv, setup_context=_setup_conv)


def packed_conv2d(
    packed: Packed,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    plan: ConvPlan | None = None,
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
    y, parts = _packed_conv(*packed, weight, bias, dtype, stride, padding, *how, statistics)
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
        return _packed_conv(*packed, weight, None, weight.dtype, *how, False)[0]
    needs = [direction == "grad_input", direction == "grad_weight", False]
    return _packed_conv_backward(grad, packed.bits, weight, list(packed.carrier.shape), *how, needs)[needs.index(True)]
