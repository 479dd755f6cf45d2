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
from snn_sparse.ops.spikes.triton_tiles import of_step, words_of
from snn_sparse.ops.triton_launch import launch

_WORDS = 32  # a program


# fmt: off
@triton.jit
def store_spikes(
    fired, pointer, t, live, output, tile, block, images, channels, rows_per_image,
    BITS: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr, CHANNELS_LAST: tl.constexpr, WHOLE: tl.constexpr,
):
    """Store which neurons fired [ROWS, LANES] at step t, dense or packed (in bytes), if ``live`` [1, 1]."""
    # fmt: on
    first_line, line, at, exists, length, lines, rows_exist = output
    if not BITS:
        spikes = fired.to(pointer.dtype.element_ty)
        tl.store(of_step(pointer, t, output) + line * length + at, spikes, mask=exists & live)
    else:  # in bytes: the eight bits of one are in one thread
        size = 4 * words_of(length)
        bit = tl.full([1, 1], 1, tl.int32) << (at % 8 if CHANNELS_LAST else tl.arange(0, ROWS)[:, None] % 8)
        bits = tl.where(fired & exists, bit, 0)
        pointer += (lines * t + first_line) * size
        if CHANNELS_LAST:
            packed = tl.sum(tl.reshape(bits, [ROWS, LANES // 8, 8]), axis=2)
            byte = block * (LANES // 8) + tl.arange(0, LANES // 8)[None, :]
            there = rows_exist & (byte < size)
            if WHOLE:
                there = rows_exist & tl.full([1, LANES // 8], True, tl.int1)
        else:  # rows of an image are padded to whole words, so that no byte spans two images
            packed = tl.sum(tl.reshape(bits, [ROWS // 8, 8]), axis=1, keep_dims=True)
            row = tile * (ROWS // 8) + tl.arange(0, ROWS // 8)[:, None]
            byte = row % (rows_per_image // 8)
            image = row // (rows_per_image // 8)
            there = (image < images) & (byte < size)
            line = (image - tile * ROWS // rows_per_image) * channels + block
        tl.store(pointer + line * size + byte, packed.to(tl.uint8), mask=there & live)


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
