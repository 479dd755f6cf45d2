"""Packed spikes, one bit each, and operators that read them.

A line of the innermost memory dimension is padded to whole 32-bit words: ``[T, N, C, ceil(H W / 32)]`` for NCHW,
``[T, N, H, W, ceil(C / 32)]`` for NHWC; bit i of word w is element 32 w + i. Integers carry no gradient, so a
``carrier`` of the spikes' shape, one element expanded, travels beside them and takes it.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from snn_sparse.ops.device import kernels_run

Tensor = torch.Tensor


class Packed(NamedTuple):
    """Spikes: ``carrier`` has their shape, dtype and gradient, ``bits`` their values."""

    carrier: Tensor
    bits: Tensor


def packed_shape(shape: tuple[int, ...] | torch.Size, channels_last: bool) -> tuple[int, ...]:
    """Of the bits of spikes ``[T, N, C, H, W]``."""
    t, n, c, h, w = shape
    return (t, n, h, w, (c + 31) // 32) if channels_last else (t, n, c, (h * w + 31) // 32)


def plain_pack(spikes: Tensor) -> Tensor:
    """The bits of dense spikes ``[T, N, C, H, W]`` in the layout of their memory; the definition."""
    nhwc = not spikes.is_contiguous() and spikes.permute(0, 1, 3, 4, 2).is_contiguous()
    lines = spikes.permute(0, 1, 3, 4, 2) if nhwc else spikes.flatten(3)
    length = lines.shape[-1]
    padded = F.pad((lines != 0).to(torch.int64), (0, -length % 32)).unflatten(-1, (-1, 32))
    words = (padded << torch.arange(32, device=spikes.device)).sum(-1)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def plain_unpack(bits: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Dense spikes of ``shape`` ``[T, N, C, H, W]`` from their bits; the definition."""
    values = ((bits.unsqueeze(-1) >> torch.arange(32, device=bits.device)) & 1).flatten(-2).to(dtype)
    _, _, c, h, w = shape
    if bits.dim() == 5:
        return values[..., :c].movedim(-1, 2)
    return values[..., : h * w].unflatten(-1, (h, w)).contiguous()


def dense_spikes(bits: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Dense spikes, by the kernel where it runs; not differentiable."""
    if not kernels_run(bits.new_empty(0, dtype=dtype)):
        return plain_unpack(bits, shape, dtype)
    from snn_sparse.kernels.spike_bits import unpack

    return unpack(bits, shape, dtype)


def _as_bits(shape: tuple[int, ...], bits: Tensor, dtype: torch.dtype) -> Tensor:
    """An uninitialised dense tensor in the layout that the bits stand for."""
    if bits.dim() == 5:
        t, n, c, h, w = shape
        return bits.new_empty((t, n, h, w, c), dtype=dtype).movedim(-1, 2)
    return bits.new_empty(shape, dtype=dtype)


@torch.library.custom_op("snn_sparse::unpack_spikes", mutates_args=())
def _unpack(carrier: Tensor, bits: Tensor) -> Tensor:
    return dense_spikes(bits, tuple(carrier.shape), carrier.dtype)


@_unpack.register_fake
def _fake_unpack(carrier: Tensor, bits: Tensor) -> Tensor:
    return _as_bits(tuple(carrier.shape), bits, carrier.dtype)


_unpack.register_autograd(lambda _ctx, grad: (grad, None))


def unpack_spikes(packed: Packed) -> Tensor:
    """Dense spikes ``[T, N, C, H, W]`` in the dtype of the carrier; differentiable.

    Raises:
        TypeError: ``packed`` is not :class:`Packed`.
    """
    if not isinstance(packed, Packed):
        raise TypeError(f"packed must be Packed spikes, got {type(packed).__name__}")
    return _unpack(*packed)


@torch.library.custom_op("snn_sparse::packed_conv2d", mutates_args=())
def _packed_conv(
    carrier: Tensor, bits: Tensor, weight: Tensor, bias: Tensor | None, stride: list[int], padding: list[int]
) -> Tensor:
    x = dense_spikes(bits, tuple(carrier.shape), weight.dtype).flatten(0, 1)
    return F.conv2d(x, weight, bias, stride, padding).unflatten(0, carrier.shape[:2])


@_packed_conv.register_fake
def _fake_packed_conv(
    carrier: Tensor, bits: Tensor, weight: Tensor, bias: Tensor | None, stride: list[int], padding: list[int]
) -> Tensor:
    x = _as_bits(tuple(carrier.shape), bits, weight.dtype).flatten(0, 1)
    return F.conv2d(x, weight, bias, stride, padding).unflatten(0, carrier.shape[:2])


def _conv_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, stride: list[int], padding: list[int], needs: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Of ``x``, weight and bias; empty where not needed."""
    grads = torch.ops.aten.convolution_backward(
        grad.flatten(0, 1), x.flatten(0, 1), weight, [weight.shape[0]], stride, padding, [1, 1], False, [0, 0], 1, needs
    )
    found = [g if need else grad.new_empty(0) for g, need in zip(grads, needs, strict=True)]
    return found[0].unflatten(0, x.shape[:2]) if needs[0] else found[0], found[1], found[2]


@torch.library.custom_op("snn_sparse::packed_conv2d_backward", mutates_args=())
def _packed_conv_backward(
    grad: Tensor,
    bits: Tensor,
    weight: Tensor,
    shape: list[int],
    stride: list[int],
    padding: list[int],
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    return _conv_gradients(grad, dense_spikes(bits, tuple(shape), weight.dtype), weight, stride, padding, needs)


@_packed_conv_backward.register_fake
def _fake_packed_conv_backward(
    grad: Tensor,
    bits: Tensor,
    weight: Tensor,
    shape: list[int],
    stride: list[int],
    padding: list[int],
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    return _conv_gradients(grad, _as_bits(tuple(shape), bits, weight.dtype), weight, stride, padding, needs)


def _setup_conv(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    carrier, bits, weight, _, ctx.stride, ctx.padding = inputs
    ctx.shape, ctx.carrier_dtype = list(carrier.shape), carrier.dtype
    ctx.save_for_backward(bits, weight)


def _differentiate_conv(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    bits, weight = ctx.saved_tensors
    needs = [ctx.needs_input_grad[i] for i in (0, 2, 3)]
    found = _packed_conv_backward(grad, bits, weight, ctx.shape, ctx.stride, ctx.padding, needs)
    grad_x, grad_weight, grad_bias = (g if need else None for g, need in zip(found, needs, strict=True))
    return grad_x.to(ctx.carrier_dtype) if grad_x is not None else None, None, grad_weight, grad_bias, None, None


_packed_conv.register_autograd(_differentiate_conv, setup_context=_setup_conv)


def packed_conv2d(packed: Packed, weight: Tensor, bias: Tensor | None, stride: list[int], padding: list[int]) -> Tensor:
    """Convolution of packed spikes, ``[T, N, Cout, Ho, Wo]``; bits are all that backward keeps of them.

    Args:
        packed: spikes ``[T, N, Cin, H, W]``.
        weight: ``[Cout, Cin, kh, kw]``; the result has its dtype, or under autocast the lower precision.
        bias: ``[Cout]`` or None.
        stride: of the convolution.
        padding: of the convolution.

    Raises:
        TypeError: ``packed`` is not :class:`Packed`.
    """
    if not isinstance(packed, Packed):
        raise TypeError(f"packed must be Packed spikes, got {type(packed).__name__}")
    device = weight.device.type
    if torch.is_autocast_enabled(device):
        low = torch.get_autocast_dtype(device)
        weight, bias = weight.to(low), None if bias is None else bias.to(low)
    return _packed_conv(*packed, weight, bias, stride, padding)
