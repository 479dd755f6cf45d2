"""Packed spikes, one bit each, and the operator that unpacks them.

A line of the innermost memory dimension is padded to whole 32-bit words: ``[T, N, C, ceil(H W / 32)]`` for NCHW,
``[T, N, H, W, ceil(C / 32)]`` for NHWC; bit i of word w is element 32 w + i. Integers carry no gradient, so a
``carrier`` of the spikes' shape, one element expanded, travels beside them and takes it.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from snn_sparse.ops.backend import implementation
from snn_sparse.ops.spikes.memory_format import NCHW, NHWC, empty, is_channels_last

Tensor = torch.Tensor


class Packed(NamedTuple):
    """Spikes: ``carrier`` has their shape, dtype and gradient, ``bits`` their values."""

    carrier: Tensor
    bits: Tensor


def plain_pack(spikes: Tensor) -> Tensor:
    """Pack dense spikes ``[T, N, C, H, W]`` in their memory format, in plain PyTorch: the definition."""
    lines = spikes.permute(0, 1, 3, 4, 2) if is_channels_last(spikes) else spikes.flatten(3)
    length = lines.shape[-1]
    padded = F.pad((lines != 0).to(torch.int64), (0, -length % 32)).unflatten(-1, (-1, 32))
    words = (padded << torch.arange(32, device=spikes.device)).sum(-1)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def plain_unpack(bits: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Unpack to dense spikes of ``shape`` (T, N, C, H, W), in plain PyTorch: the definition."""
    values = ((bits.unsqueeze(-1) >> torch.arange(32, device=bits.device)) & 1).flatten(-2).to(dtype)
    _, _, c, h, w = shape
    if bits.dim() == 5:
        return values[..., :c].contiguous().movedim(-1, 2)
    return values[..., : h * w].unflatten(-1, (h, w)).contiguous()


def dense_spikes(bits: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Unpack to dense spikes of ``shape``, by the kernel where it runs; not differentiable."""
    if implementation("neuron", torch.empty(0, dtype=dtype, device=bits.device)) != "triton":
        return plain_unpack(bits, shape, dtype)
    from snn_sparse.ops.spikes.triton_bits import unpack

    return unpack(bits, shape, dtype)


def empty_dense(shape: tuple[int, ...], bits: Tensor, dtype: torch.dtype) -> Tensor:
    """Allocate dense spikes of ``shape``, uninitialised, in the memory format that the bits stand for."""
    return empty(tuple(shape), dtype, bits.device, NHWC if bits.dim() == 5 else NCHW)


@torch.library.custom_op("snn_sparse::unpack_spikes", mutates_args=())
def _unpack(carrier: Tensor, bits: Tensor) -> Tensor:
    return dense_spikes(bits, tuple(carrier.shape), carrier.dtype)


@_unpack.register_fake
def _fake_unpack(carrier: Tensor, bits: Tensor) -> Tensor:
    return empty_dense(tuple(carrier.shape), bits, carrier.dtype)


_unpack.register_autograd(lambda _ctx, grad: (grad, None))


def unpack_spikes(packed: Packed) -> Tensor:
    """Unpack to dense spikes ``[T, N, C, H, W]`` in the dtype of the carrier; differentiable.

    Raises:
        TypeError: ``packed`` is not :class:`Packed`.
    """
    if not isinstance(packed, Packed):
        raise TypeError(f"packed must be Packed spikes, got {type(packed).__name__}")
    return _unpack(*packed)
