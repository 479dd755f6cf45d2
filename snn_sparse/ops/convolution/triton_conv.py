"""Convolution of all timesteps at the live channels of a mask, as an implicit matrix product, and its input gradient.

The input gradient is the same product with outputs and inputs swapped (``transposed``). Outputs lie NHWC in memory, as
do inputs: dense, or spikes packed 32 to a word. The plain definition is ``torch.nn.functional.conv2d``; what the lists
say and which products they leave out is in ``channel_groups.py``.
"""
# mypy: allow-untyped-defs
# Arguments of kernels have no Python types.

from typing import Any

import torch
import triton
import triton.language as tl

from snn_sparse.ops.backend import TRITON_DTYPES
from snn_sparse.ops.convolution.configuration import IndexLists, TileConfiguration
from snn_sparse.ops.convolution.triton_walk import chunk_channels, convolve_tile, group_outputs, lines_from, tile_rows
from snn_sparse.ops.spikes import NHWC, empty, ordered, packed_shape
from snn_sparse.ops.triton_launch import launch
from snn_sparse.specs import ConvGeometry, ceil_div

# Batch sizes must not compile kernels anew.
SIZES = ("images", "pixels", "width", "height_in", "width_in", "tiles", "steps")


# fmt: off
@triton.jit(do_not_specialize=SIZES)
def _conv_kernel(
    data, weight, bias, y, partials, order, pointers, channels,
    steps, images, pixels, width, height_in, width_in, inputs, outputs, padding, tiles, groups,
    along_output, along_input, along_tap,
    STRIDE: tl.constexpr, KERNEL_WIDTH: tl.constexpr, TAPS: tl.constexpr, TRANSPOSED: tl.constexpr, BITS: tl.constexpr,
    GATHERED: tl.constexpr, PIXEL_MAJOR: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, STEP: tl.constexpr,
):
    """One tile of one timestep and one group of outputs; the statistics of what it stores are [3, C, T, tiles]."""
    group, tile = tl.program_id(0) % groups, tl.program_id(0) // groups % tiles
    t = tl.program_id(0) // groups // tiles
    first, image, pixel, exists, the_pixel = tile_rows(tile, images, pixels, width, ROWS, PIXEL_MAJOR, False)
    output = group_outputs(order, group, WIDTH)
    first_image = (t * images + first).to(tl.int64)
    products = convolve_tile(
        lines_from(data, first_image * (height_in * width_in), inputs, BITS), weight, (pointers, channels), group,
        output, image, pixel, the_pixel, exists, (width, height_in, width_in, inputs, outputs, padding),
        (along_output, along_input, along_tap),
        STRIDE, KERNEL_WIDTH, TAPS, TRANSPOSED, BITS, GATHERED, PIXEL_MAJOR, ROWS, WIDTH, STEP,
    )
    if bias is not None:
        products += tl.load(bias + output, mask=output < outputs, other=0.0).to(tl.float32)[None, :]
    stored = products.to(y.dtype.element_ty)
    here = exists[:, None] & (output < outputs)[None, :]
    at = (image * pixels + pixel)[:, None] * outputs + output[None, :]
    tl.store(y + first_image * pixels * outputs + at, stored, mask=here)
    if partials is not None:
        value = tl.where(here, stored.to(tl.float32), 0.0)  # of what batch norm will read
        count = tl.sum(exists.to(tl.float32), axis=0)
        mean = tl.sum(value, axis=0) / count
        deviation = tl.where(here, value - mean[None, :], 0.0)
        quantity = steps.to(tl.int64) * outputs * tiles
        at = (output.to(tl.int64) * steps + t) * tiles + tile
        tl.store(partials + at, tl.zeros_like(mean) + count, mask=output < outputs)
        tl.store(partials + quantity + at, mean, mask=output < outputs)
        tl.store(partials + 2 * quantity + at, tl.sum(deviation * deviation, axis=0), mask=output < outputs)
# fmt: on


def strides_of(weight: torch.Tensor, transposed: bool) -> dict[str, int]:
    """Strides of ``[Cout, Cin, kh, kw]`` along outputs, inputs and taps; ``weight`` from :func:`walkable`."""
    along = (weight.stride(1), weight.stride(0)) if transposed else (weight.stride(0), weight.stride(1))
    taps = weight.stride(3) if weight.shape[3] > 1 else weight.stride(2)
    return {"along_output": along[0], "along_input": along[1], "along_tap": taps}


def walkable(weight: torch.Tensor) -> torch.Tensor:
    """``weight [Cout, Cin, kh, kw]`` with input channels innermost."""
    return weight.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


@triton.jit
def _pack_weight_kernel(
    weight, packed, order, channels, segments, inputs, outputs, along_output, along_input, along_tap,
    TAPS: tl.constexpr, WIDTH: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """Weights of one chunk of gathered channels and its group [STEP, WIDTH], 0 for padding."""
    chunk = tl.program_id(0)
    segment = tl.load(segments + chunk)
    output = group_outputs(order, segment // TAPS, WIDTH)
    channel = chunk_channels(channels, chunk, STEP, True)
    given = ((channel >= 0) & (channel < inputs))[:, None] & (output < outputs)[None, :]
    at = channel[:, None] * along_input + output[None, :] * along_output + segment % TAPS * along_tap
    place = tl.arange(0, STEP)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    tl.store(packed + chunk * (STEP * WIDTH) + place, tl.load(weight + at, mask=given, other=0.0))


def pack_weight(
    weight: torch.Tensor, lists: IndexLists, configuration: TileConfiguration, transposed: bool = False
) -> torch.Tensor:
    """``[Cout, Cin, kh, kw]`` as the kernels read gathered channels: ``[chunks, step, width]``, zero where padded."""
    sizes = weight.shape[:2] if transposed else (weight.shape[1], weight.shape[0])
    weight, chunks = walkable(weight), len(lists.segments)
    packed = torch.empty((chunks, configuration.step, configuration.width), dtype=weight.dtype, device=weight.device)
    launch(
        _pack_weight_kernel,
        chunks,
        weight.device,
        num_warps=4,
        weight=weight,
        packed=packed,
        order=lists.order,
        channels=lists.channels,
        segments=lists.segments,
        inputs=sizes[0],
        outputs=sizes[1],
        TAPS=weight.shape[2] * weight.shape[3],
        WIDTH=configuration.width,
        STEP=configuration.step,
        **strides_of(weight, transposed),
    )
    return packed


def check_data(data: torch.Tensor, weight: torch.Tensor, geometry: ConvGeometry, transposed: bool = False) -> bool:
    """Whether ``data`` is packed; raises if sizes or dtypes do not fit."""
    g, bits = geometry, data.dtype == torch.int32
    if weight.shape != g.weight_shape:
        raise ValueError(f"weight must be {g.weight_shape}, got {tuple(weight.shape)}")
    expected: tuple[int, ...] = g.output_shape if transposed else g.input_shape
    if bits and not transposed:
        expected = packed_shape(g.input_shape, True)
    if data.shape != expected:
        raise ValueError(f"data must be {expected}, got {tuple(data.shape)}")
    if weight.dtype not in TRITON_DTYPES or not (bits or data.dtype in TRITON_DTYPES):
        raise TypeError(f"weight and data must be float32, float16 or bfloat16, got {weight.dtype} and {data.dtype}")
    return bits


def convolve(
    data: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    geometry: ConvGeometry,
    lists: IndexLists,
    configuration: TileConfiguration,
    *,
    transposed: bool = False,
    statistics: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Convolution at the listed channels, or its input gradient.

    Args:
        data: ``[T, N, Cin, H, W]``, or packed spikes ``[T, N, H, W, words]``; transposed: the gradient
            ``[T, N, Cout, Ho, Wo]``.
        weight: ``[Cout, Cin, kh, kw]``, float32, float16 or bfloat16, as is the result then.
        bias: ``[Cout]`` or None.
        geometry: of the convolution.
        lists: of the mask, made for ``configuration``; of the transposed mask if ``transposed``.
        configuration: how to compute.
        transposed: whether the input gradient is wanted.
        statistics: whether the parts of each channel's statistics are wanted.

    Returns:
        ``[T, N, Cout, Ho, Wo]`` (transposed: ``[T, N, Cin, H, W]``), channels last in memory; float32
        ``[3, Cout, T, tiles]``: count, mean and sum of squared deviations of each tile, or None.

    Raises:
        ValueError: sizes that do not fit, or are too large. TypeError: a dtype that is not supported.
    """
    bits = check_data(data, weight, geometry, transposed)
    g = geometry if statistics else geometry.merged
    configuration.check_offsets(g)
    channels, high, wide = (geometry.input_shape if transposed else geometry.output_shape)[2:]
    tiles = configuration.tiles(g.images, high * wide)
    y = empty((geometry.steps, geometry.images, channels, high, wide), weight.dtype, data.device, NHWC)
    parts = None
    if statistics:
        parts = torch.empty((3, channels, g.steps, tiles), dtype=torch.float32, device=data.device)
    groups = ceil_div(channels, configuration.width)
    launch(
        _conv_kernel,
        g.steps * tiles * groups,
        data.device,
        num_warps=configuration.num_warps,
        num_stages=configuration.num_stages,
        registers=configuration.registers(configuration.gathered or weight.dtype == torch.float32),
        data=data.contiguous() if bits else ordered(data, NHWC),
        y=y,
        bias=bias,
        partials=parts,
        steps=g.steps,
        images=g.images,
        pixels=high * wide,
        width=wide,
        outputs=channels,
        tiles=tiles,
        groups=groups,
        **walk_arguments(g, weight, lists, configuration, transposed, bits),
    )
    return y, parts


def walk_arguments(
    geometry: ConvGeometry,
    weight: torch.Tensor,
    lists: IndexLists,
    configuration: TileConfiguration,
    transposed: bool,
    bits: bool,
) -> dict[str, Any]:
    """Arguments of every kernel that walks through index lists."""
    weight = walkable(weight)
    inputs, high, wide = (geometry.output_shape if transposed else geometry.input_shape)[2:]
    return {
        "weight": pack_weight(weight, lists, configuration, transposed) if configuration.gathered else weight,
        "order": lists.order,
        "pointers": lists.pointers,
        "channels": lists.channels,
        "height_in": high,
        "width_in": wide,
        "inputs": inputs,
        "padding": geometry.padding,
        **strides_of(weight, transposed),
        "STRIDE": geometry.stride,
        "KERNEL_WIDTH": geometry.kernel[1],
        "TAPS": geometry.taps,
        "TRANSPOSED": transposed,
        "BITS": bits,
        "GATHERED": configuration.gathered,
        "PIXEL_MAJOR": configuration.pixel_major,
        "ROWS": configuration.rows,
        "WIDTH": configuration.width,
        "STEP": configuration.step,
    }
