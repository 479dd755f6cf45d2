"""Packed spikes: int32 words along the innermost memory dimension, each line padded to whole words.

Bit i of word w is element 32 w + i; unused bits are 0. Spikes ``[T, N, C, H, W]`` pack to ``[T, N, C, words of H * W]``
where pixels are innermost (NCHW) and to ``[T, N, H, W, words of C]`` where channels are (NHWC).
"""
# mypy: allow-untyped-defs
# Arguments of kernels have no Python types.

import torch
import triton
import triton.language as tl

from snn_sparse.ops.backend import TRITON_DTYPES
from snn_sparse.ops.spikes.memory_format import NCHW, NHWC, empty, packed_shape
from snn_sparse.ops.spikes.triton_tiles import line_words, offsets
from snn_sparse.ops.triton_launch import launch

_WORDS = 32  # a program


@triton.jit
def store_spikes(
    spikes,
    pointer,
    t,
    place,
    position,
    mask,
    live,
    outputs,
    rows_per_image,
    BITS: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):
    """Store 0/1 spikes [ROWS, 1, LANES] of step t, dense or packed, if ``live``; ``mask`` tells which of them exist."""
    first_row, first_channel, first_image, image, _, _, channel, images, channels, _ = place
    start = (t * images + first_image).to(tl.int64)
    if not BITS:
        at = offsets(image, position, channel, outputs, channels, CHANNELS_LAST)
        tl.store(pointer + start * channels * outputs + at, spikes.to(pointer.dtype.element_ty), mask=mask & live)
    else:
        words, lines = line_words(outputs, channels, CHANNELS_LAST)
        spikes = tl.where(mask, spikes, 0)
        bit = tl.arange(0, 32)[None, None, :]
        if CHANNELS_LAST:
            packed = tl.sum(tl.reshape(spikes, [ROWS, LANES // 32, 32]) << bit, axis=2)[:, None, :]
            word = first_channel // 32 + tl.arange(0, LANES // 32)[None, None, :]
            at = (image * lines + position) * words + word
            exists = (image + first_image < images) & (position < outputs) & (word < words)
        else:  # rows of an image are padded to whole words, so that no word spans two images
            packed = tl.sum(tl.reshape(spikes, [ROWS // 32, 1, 32]) << bit, axis=2, keep_dims=True)
            row = first_row // 32 + tl.arange(0, ROWS // 32)[:, None, None]
            word = row % (rows_per_image // 32)
            image = row // (rows_per_image // 32)
            at = ((image - first_image) * lines + channel) * words + word
            exists = (image < images) & (word < words)
        tl.store(pointer + start * lines * words + at, packed, mask=exists & live)


@triton.jit(do_not_specialize=("lines",))
def _unpack_kernel(bits, spikes, lines, length, words, WORDS: tl.constexpr):
    word = tl.program_id(0).to(tl.int64) * WORDS + tl.arange(0, WORDS)[:, None]
    line = word // words
    element = (word % words) * 32 + tl.arange(0, 32)[None, :]
    value = (tl.load(bits + word, mask=line < lines, other=0) >> tl.arange(0, 32)[None, :]) & 1
    at = line * length + element
    tl.store(spikes + at, value.to(spikes.dtype.element_ty), mask=(line < lines) & (element < length))


def unpack(bits: torch.Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Dense spikes from packed ones.

    Args:
        bits: int32 ``[T, N, C, words]``, or ``[T, N, H, W, words]``: then the result is NHWC in memory.
        shape: ``(T, N, C, H, W)`` of the result.
        dtype: float32, float16 or bfloat16.

    Raises:
        ValueError: ``bits`` is not the packed form of ``shape``. TypeError: a dtype that is not supported.
    """
    if bits.dtype != torch.int32 or dtype not in TRITON_DTYPES:
        raise TypeError(f"packed spikes are int32 and dense ones floating point, got {bits.dtype} and {dtype}")
    channels_last = bits.dim() == 5
    if len(shape) != 5 or bits.shape != packed_shape(shape, channels_last):
        raise ValueError(f"{tuple(bits.shape)} is not the packed form of {tuple(shape)}")
    spikes = empty(tuple(shape), dtype, bits.device, NHWC if channels_last else NCHW)
    words = bits.shape[-1]
    launch(
        _unpack_kernel,
        triton.cdiv(bits.numel(), _WORDS),
        bits.device,
        num_warps=4,
        bits=bits.contiguous(),
        spikes=spikes,
        lines=bits.numel() // max(1, words),
        length=shape[2] if channels_last else shape[3] * shape[4],
        words=words,
        WORDS=_WORDS,
    )
    return spikes
