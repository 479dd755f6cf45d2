"""Weight gradient of a convolution at the listed channels only, reading packed spikes.

Each program sums the products of one chunk of input channels and one group of outputs over its share of the pixels; a
second kernel adds the shares in a fixed order (no atomics: equal inputs give equal bits) and leaves zero at pruned
weights. ``triton_conv.py`` has the forward pass and the input gradient.
"""
# mypy: allow-untyped-defs
# Arguments of kernels have no Python types.

from typing import Any

import torch
import triton
import triton.language as tl

from snn_sparse.ops.backend import TRITON_DTYPES
from snn_sparse.ops.convolution.configuration import IndexLists, TileConfiguration
from snn_sparse.ops.convolution.triton_conv import SIZES, strides_of, walkable
from snn_sparse.ops.convolution.triton_walk import (
    chunk_channels,
    group_outputs,
    lines_from,
    load_inputs,
    reading_tile,
    source_pixel,
    tile_rows,
)
from snn_sparse.ops.spikes import NHWC, ordered, packed_shape
from snn_sparse.ops.triton_launch import launch
from snn_sparse.specs import ConvGeometry, ceil_div

_PROGRAMS = 1024  # to aim at: some waves on the largest GPUs


# fmt: off
@triton.jit(do_not_specialize=(*SIZES, "chunks", "splits"))
def _weight_gradient_kernel(
    data, grad, partials, order, channels, segments,
    images, pixels, width, height_in, width_in, inputs, outputs, padding, tiles, chunks, splits,
    STRIDE: tl.constexpr, KERNEL_WIDTH: tl.constexpr, TAPS: tl.constexpr, BITS: tl.constexpr, GATHERED: tl.constexpr,
    PIXEL_MAJOR: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, STEP: tl.constexpr,
):
    """Partial sums [splits, chunks, STEP, WIDTH]."""
    chunk, split = tl.program_id(0) % chunks, tl.program_id(0) // chunks
    segment = tl.load(segments + chunk)
    group, tap = segment // TAPS, segment % TAPS
    output = group_outputs(order, group, WIDTH)
    precision: tl.constexpr = "ieee" if grad.dtype.element_ty == tl.float32 else "tf32"
    sums = tl.zeros([STEP, WIDTH], tl.float32)
    place = images, pixels, width, height_in, width_in, padding
    if PIXEL_MAJOR:
        _, tiles = reading_tile(0, tap, *place, ROWS, STRIDE, KERNEL_WIDTH)
    for number in range(split, tiles, splits):
        tile = number
        if PIXEL_MAJOR:
            tile, _ = reading_tile(number, tap, *place, ROWS, STRIDE, KERNEL_WIDTH)
        first, image, pixel, exists, _ = tile_rows(tile, images, pixels, width, ROWS, PIXEL_MAJOR, False)
        source, inside = source_pixel(pixel, tap, width, height_in, width_in, padding, STRIDE, KERNEL_WIDTH, False)
        exists = exists & inside
        line, first_image = image * (height_in * width_in) + source, first.to(tl.int64)
        x = load_inputs(
            lines_from(data, first_image * (height_in * width_in), inputs, BITS), line, exists, channels, chunk, inputs,
            ROWS, STEP, BITS, GATHERED, grad.dtype.element_ty,
        )
        at = (image * pixels + pixel)[:, None] * outputs + output[None, :]
        here = exists[:, None] & (output < outputs)[None, :]
        dy = tl.load(grad + first_image * pixels * outputs + at, mask=here, other=0.0)
        sums = tl.dot(tl.trans(x), dy, sums, input_precision=precision)
    place = tl.arange(0, STEP)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    tl.store(partials + tl.program_id(0).to(tl.int64) * (STEP * WIDTH) + place, sums)


@triton.jit(do_not_specialize=("chunks", "splits"))
def _scatter_kernel(
    partials, keep, dweight, order, channels, segments, inputs, outputs, chunks, splits,
    along_output, along_input, along_tap,
    TAPS: tl.constexpr, GATHERED: tl.constexpr, WIDTH: tl.constexpr, STEP: tl.constexpr,
):
    """Add the splits of one chunk and put them into the gradient, where weights are keep."""
    chunk = tl.program_id(0)
    segment = tl.load(segments + chunk)
    group, tap = segment // TAPS, segment % TAPS
    output = group_outputs(order, group, WIDTH)
    channel = chunk_channels(channels, chunk, STEP, GATHERED)
    at = channel[:, None] * along_input + output[None, :] * along_output + tap * along_tap
    here = ((channel >= 0) & (channel < inputs))[:, None] & (output < outputs)[None, :]
    if keep is not None:
        here = here & tl.load(keep + at, mask=here, other=0).to(tl.int1)
    place = tl.arange(0, STEP)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    sums = tl.zeros([STEP, WIDTH], tl.float32)
    for split in range(splits):
        sums += tl.load(partials + (split * chunks + chunk).to(tl.int64) * (STEP * WIDTH) + place, mask=here, other=0.0)
    tl.store(dweight + at, sums.to(dweight.dtype.element_ty), mask=here)
# fmt: on


def weight_gradient(
    data: torch.Tensor,
    grad: torch.Tensor,
    geometry: ConvGeometry,
    lists: IndexLists,
    configuration: TileConfiguration,
    keep: torch.Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Gradient of the weight, zero at pruned weights.

    Args:
        data: ``[T, N, Cin, H, W]`` or packed spikes ``[T, N, H, W, words]``.
        grad: of the output ``[T, N, Cout, Ho, Wo]``, float32, float16 or bfloat16.
        geometry: of the convolution.
        lists: of the mask, made for ``configuration``.
        configuration: how to compute.
        keep: bool ``[Cout, Cin, kh, kw]``, the mask; None: all.
        dtype: of the result.

    Returns:
        ``[Cout, Cin, kh, kw]``, input channels innermost in memory.

    Raises:
        ValueError: sizes that do not fit, or are too large. TypeError: a dtype that is not supported.
    """
    g, (high, wide) = geometry.merged, geometry.out_size
    bits = data.dtype == torch.int32
    given = packed_shape(geometry.input_shape, True) if bits else geometry.input_shape
    if grad.shape != geometry.output_shape or data.shape != given:
        raise ValueError(f"grad and data do not fit {geometry}: {tuple(grad.shape)} and {tuple(data.shape)}")
    if grad.dtype not in TRITON_DTYPES or not (bits or data.dtype in TRITON_DTYPES):
        raise TypeError(f"grad and data must be float32, float16 or bfloat16, got {grad.dtype} and {data.dtype}")
    configuration.check_offsets(g)
    tiles, chunks = configuration.tiles(g.images, high * wide), len(lists.segments)
    splits = max(1, min(tiles, ceil_div(_PROGRAMS, max(1, chunks))))
    dweight = torch.zeros((g.outputs, *g.kernel, g.inputs), dtype=dtype, device=grad.device).permute(0, 3, 1, 2)
    partials = torch.empty(
        (splits, chunks, configuration.step, configuration.width), dtype=torch.float32, device=grad.device
    )
    walked: dict[str, Any] = {"order": lists.order, "channels": lists.channels, "segments": lists.segments}
    walked |= {"partials": partials, "inputs": g.inputs, "outputs": g.outputs, "chunks": chunks, "splits": splits}
    cut = {"TAPS": g.taps, "GATHERED": configuration.gathered, "WIDTH": configuration.width, "STEP": configuration.step}
    launch(
        _weight_gradient_kernel,
        chunks * splits,
        grad.device,
        num_warps=configuration.num_warps,
        num_stages=configuration.num_stages,
        registers=configuration.registers(),
        data=data.contiguous() if bits else ordered(data, NHWC),
        grad=ordered(grad, NHWC),
        images=g.images,
        pixels=high * wide,
        width=wide,
        height_in=g.height,
        width_in=g.width,
        padding=g.padding,
        tiles=tiles,
        STRIDE=g.stride,
        KERNEL_WIDTH=g.kernel[1],
        BITS=bits,
        PIXEL_MAJOR=configuration.pixel_major,
        ROWS=configuration.rows,
        **walked,
        **cut,
    )
    keep = None if keep is None else walkable(keep).view(torch.uint8)
    strides = strides_of(dweight, False)
    launch(_scatter_kernel, chunks, grad.device, num_warps=4, keep=keep, dweight=dweight, **strides, **walked, **cut)
    return dweight
