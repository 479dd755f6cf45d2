"""A finished batch in one kernel: uint8 images of a set are gathered, flipped, cropped, cut out and normalised."""
# mypy: allow-untyped-defs
# Arguments of kernels have no Python types.

import torch
import triton
import triton.language as tl

from snn_sparse.kernels.launch import launch
from snn_sparse.kernels.tiles import empty

_ELEMENTS = 1024  # of one image, a program


@triton.jit
def _draw(draws, draws_stride, row, sample):
    """The number in a row of the draws for one image."""
    return tl.load(draws + row * draws_stride.to(tl.int64) + sample)


@triton.jit(do_not_specialize=("draws_stride", "image_stride", "blocks"))
def _image_batch_kernel(
    images, index, draws, statistics, batch, draws_stride, channels, height, width,
    image_stride, channel_stride, row_stride, column_stride, blocks,
    FLIP: tl.constexpr, PADDING: tl.constexpr, SIDE: tl.constexpr, CHANNELS_LAST: tl.constexpr, ELEMENTS: tl.constexpr,
):  # fmt: skip
    """From an element of the batch back to the pixel that it shows: out of the square, of the window, of the mirror."""
    sample = (tl.program_id(0) // blocks).to(tl.int64)
    element = tl.program_id(0) % blocks * ELEMENTS + tl.arange(0, ELEMENTS)
    area = height * width
    exists = element < channels * area
    channel = element % channels if CHANNELS_LAST else element // area
    position = element // channels if CHANNELS_LAST else element % area
    row, column = position // width, position % width
    shown = exists
    if SIDE:
        below = _draw(draws, draws_stride, 3, sample) - row
        right = _draw(draws, draws_stride, 4, sample) - column
        half: tl.constexpr = SIDE // 2
        shown = shown & ~((below <= half) & (below > -half) & (right <= half) & (right > -half))
    if PADDING:
        row += _draw(draws, draws_stride, 1, sample) - PADDING
        column += _draw(draws, draws_stride, 2, sample) - PADDING
        shown = shown & (row >= 0) & (row < height) & (column >= 0) & (column < width)
    if FLIP:
        column = tl.where(_draw(draws, draws_stride, 0, sample) != 0, width - 1 - column, column)
    image = images + tl.load(index + sample).to(tl.int64) * image_stride
    at = channel * channel_stride + row * row_stride + column * column_stride
    pixel = tl.load(image + at, mask=shown, other=0).to(tl.float32)
    mean = tl.load(statistics + channel, mask=exists, other=0.0)
    std = tl.load(statistics + channels + channel, mask=exists, other=1.0)
    value = tl.div_rn(tl.div_rn(pixel, 255.0) - mean, std)
    tl.store(batch + sample * (channels * area) + element, value.to(batch.dtype.element_ty), mask=exists)


def image_batch(
    images: torch.Tensor,
    index: torch.Tensor,
    statistics: torch.Tensor,
    draws: torch.Tensor | None = None,
    *,
    flip: bool = False,
    crop_padding: int = 0,
    cutout: int = 0,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
) -> torch.Tensor:
    """What :func:`snn_sparse.ops.image_batch.reference` computes, of arguments that are checked there.

    Args:
        images: ``[M, C, H, W]`` uint8, of any strides.
        index: ``[N]``, int64 or int32, each in ``[0, M)``, which is not checked.
        statistics: float32 ``[2, C]``: mean and standard deviation of each channel, of pixels from 0 to 1.
        draws: int32 ``[5, N]``, the values of :class:`snn_sparse.ops.image_batch.Draws`; None: neither ``flip`` nor
            ``crop_padding`` nor ``cutout``.
        flip, crop_padding, cutout: as there.
        dtype: of the batch; float32, float16 or bfloat16.
        channels_last: whether the batch is NHWC in memory.

    Returns:
        ``[N, C, H, W]``.

    Raises:
        ValueError: images too large for 32-bit offsets.
    """
    _, channels, height, width = images.shape
    size = channels * height * width
    strides = images.stride()
    reach = sum((n - 1) * stride for n, stride in zip(images.shape[1:], strides[1:], strict=True))
    if max(size + _ELEMENTS, reach) >= 2**31:
        raise ValueError(f"images of {channels}x{height}x{width} are too large")
    batch = empty((len(index), channels, height, width), dtype, images.device, channels_last)
    if draws is not None and draws.stride(1) != 1:
        draws = draws.contiguous()
    elements = min(_ELEMENTS, triton.next_power_of_2(max(1, size)))
    blocks = triton.cdiv(size, elements)
    launch(
        _image_batch_kernel,
        len(index) * blocks,
        images.device,
        num_warps=4,
        images=images,
        index=index.contiguous(),
        draws=draws,
        statistics=statistics,
        batch=batch,
        draws_stride=0 if draws is None else draws.stride(0),
        channels=channels,
        height=height,
        width=width,
        image_stride=strides[0],
        channel_stride=strides[1],
        row_stride=strides[2],
        column_stride=strides[3],
        blocks=blocks,
        FLIP=flip,
        PADDING=crop_padding,
        SIDE=cutout,
        CHANNELS_LAST=channels_last,
        ELEMENTS=elements,
    )
    return batch
