"""Convolution, batch norm with running statistics, neuron and 2x2 max-pool over all timesteps, in one kernel.

The convolution's output never reaches memory, so nothing can be differentiated: this is for evaluation. It computes
``torch.nn.functional.conv2d`` and then ``plain_stage``; with half-precision weights it is
nearer to float32 than those, since the products are not rounded in between.
"""
# mypy: allow-untyped-defs
# Arguments of kernels have no Python types.

import torch
import triton
import triton.language as tl

from snn_sparse.ops.convolution.configuration import IndexLists, TileConfiguration
from snn_sparse.ops.convolution.triton_conv import SIZES, check_data, walk_arguments
from snn_sparse.ops.convolution.triton_walk import convolve_tile, lines_from, tile_rows
from snn_sparse.ops.neuron.call import Settings
from snn_sparse.ops.neuron.triton_branch import FROZEN, load_affine, normalise
from snn_sparse.ops.neuron.triton_inputs import check_numbers, neuron_arguments
from snn_sparse.ops.neuron.triton_math import charge, neuron_numbers, reset
from snn_sparse.ops.spikes import NHWC, empty, ordered, packed_shape
from snn_sparse.ops.triton_launch import launch
from snn_sparse.specs import ConvGeometry, ceil_div


@triton.jit
def _store_group(
    fired, spikes, first_image, image, position, exists, positions, first, outputs,
    BITS_OUT: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Store 0/1 spikes [ROWS, WIDTH] of neighbouring channels from ``first`` on, dense or packed."""
    line = image * positions + position
    if BITS_OUT:
        words = (outputs + 31) // 32
        bit = tl.arange(0, 32)[None, None, :]
        packed = tl.sum(tl.reshape(fired, [ROWS, WIDTH // 32, 32]) << bit, axis=2)
        word = first // 32 + tl.arange(0, WIDTH // 32)
        at, here = line[:, None] * words + word[None, :], exists[:, None] & (word < words)[None, :]
        tl.store(spikes + first_image * positions * words + at, packed, mask=here)
    else:
        output = first + tl.arange(0, WIDTH)
        at, here = line[:, None] * outputs + output[None, :], exists[:, None] & (output < outputs)[None, :]
        tl.store(spikes + first_image * positions * outputs + at, fired.to(spikes.dtype.element_ty), mask=here)


# fmt: off
@triton.jit(do_not_specialize=SIZES)
def _conv_neuron_kernel(
    data, weight, conv_bias, order, pointers, channels, mean, spread, norm_weight, norm_bias, eps, rate, spikes,
    tau, decay, v_threshold, fires_at, v_reset, late,
    steps, images, pixels, width, height_in, width_in, inputs, outputs, padding, tiles, groups,
    along_output, along_input, along_tap,
    KIND: tl.constexpr, DECAY_INPUT: tl.constexpr, RESET: tl.constexpr, POOL: tl.constexpr, BITS_OUT: tl.constexpr,
    STRIDE: tl.constexpr, KERNEL_WIDTH: tl.constexpr, TAPS: tl.constexpr, TRANSPOSED: tl.constexpr, BITS: tl.constexpr,
    GATHERED: tl.constexpr, PIXEL_MAJOR: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, STEP: tl.constexpr,
):
    group, tile = tl.program_id(0) % groups, tl.program_id(0) // groups
    first, image, pixel, exists, the_pixel = tile_rows(tile, images, pixels, width, ROWS, PIXEL_MAJOR, POOL)
    numbers = neuron_numbers((tau, decay, v_threshold, fires_at, v_reset, late), rate, KIND)
    output = group * WIDTH + tl.arange(0, WIDTH)
    lanes = (output[None, :], (output < outputs)[None, :], outputs)
    affine = load_affine((None, mean, spread, norm_weight, norm_bias, eps), 0, lanes, FROZEN)
    shift = tl.zeros([1, WIDTH], tl.float32)
    if conv_bias is not None:
        shift = tl.load(conv_bias + output, mask=output < outputs, other=0.0).to(tl.float32)[None, :]
    if POOL:
        windows = (width // 2) * (pixels // width // 2)
        window = tile * (ROWS // 4) + tl.arange(0, ROWS // 4)
        out_image, position, positions = window // windows - first, window % windows, windows
    else:
        out_image, position, positions = image, pixel, pixels
    v = tl.zeros([ROWS, WIDTH], tl.float32) + numbers[3]
    for t in range(steps):
        first_image = (t * images + first).to(tl.int64)
        products = convolve_tile(
            lines_from(data, first_image * (height_in * width_in), inputs, BITS), weight, (pointers, channels), group,
            output, image, pixel, the_pixel, exists, (width, height_in, width_in, inputs, outputs, padding),
            (along_output, along_input, along_tap),
            STRIDE, KERNEL_WIDTH, TAPS, TRANSPOSED, BITS, GATHERED, PIXEL_MAJOR, ROWS, WIDTH, STEP,
        )
        h = charge(v, normalise(products + shift, affine, FROZEN), numbers, KIND, DECAY_INPUT, RESET)
        v = reset(h, numbers, RESET)
        fired = ((h >= numbers[2]) & (output < outputs)[None, :]).to(tl.int32)
        if POOL:
            fired = tl.max(tl.reshape(fired, [ROWS // 4, 4, WIDTH]), axis=1)
        _store_group(
            fired, spikes, first_image, out_image, position, first + out_image < images, positions, group * WIDTH,
            outputs, BITS_OUT, ROWS // 4 if POOL else ROWS, WIDTH,
        )
# fmt: on


def conv_neuron(
    data: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    geometry: ConvGeometry,
    lists: IndexLists,
    configuration: TileConfiguration,
    statistics: tuple[torch.Tensor, torch.Tensor],
    affine: tuple[torch.Tensor | None, torch.Tensor | None],
    s: Settings,
    *,
    rate: torch.Tensor | None = None,
    bits: bool = True,
) -> torch.Tensor:
    """Compute spikes of the neuron behind a convolution and a batch norm with frozen statistics.

    Args:
        data: ``[T, N, Cin, H, W]``, or packed spikes ``[T, N, H, W, words]``.
        weight: ``[Cout, Cin, kh, kw]``, float32, float16 or bfloat16.
        bias: of the convolution, ``[Cout]`` or None.
        geometry: of the convolution.
        lists: of the mask, made for ``configuration``.
        configuration: how to compute; not reordered, not pixel-major with a pool, at least 32 wide if ``bits``.
        statistics: running mean and variance ``[Cout]``.
        affine: weight and bias of the batch norm ``[Cout]``, or None.
        s: the neuron, ``eps`` of the batch norm, whether a 2x2 max-pool of stride 2 follows.
        rate: ``1 / tau`` of ``plif`` or the learnt decay of ``leaky``, a tensor with one entry.
        bits: whether the spikes are packed.

    Returns:
        spikes ``[T, N, Cout, Ho, Wo]`` (pooled: halves of these), channels last in memory, in the dtype of ``weight``;
        or packed ``[T, N, Ho, Wo, words]``.

    Raises:
        ValueError: sizes that do not fit, or an order. TypeError: a dtype that is not supported.
    """
    g, (high, wide) = geometry, geometry.out_size
    packed = check_data(data, weight, g)
    configuration.check_offsets(g)
    _check(g, lists, configuration, statistics, s, rate, bits)
    size = (high // 2, wide // 2) if s.pool else (high, wide)
    shape = (g.steps, g.images, g.outputs, *size)
    if bits:
        spikes = torch.empty(packed_shape(shape, True), dtype=torch.int32, device=data.device)
    else:
        spikes = empty(shape, weight.dtype, data.device, NHWC)
    pixels = 4 * size[0] * size[1] if s.pool else high * wide
    tiles, groups = configuration.tiles(g.images, pixels), ceil_div(g.outputs, configuration.width)
    launch(
        _conv_neuron_kernel,
        tiles * groups,
        data.device,
        num_warps=configuration.num_warps,
        num_stages=configuration.num_stages,
        registers=configuration.registers(True),
        data=data.contiguous() if packed else ordered(data, NHWC),
        conv_bias=bias,
        mean=statistics[0].contiguous(),
        spread=statistics[1].contiguous(),
        norm_weight=affine[0],
        norm_bias=affine[1],
        eps=float(s.eps),
        spikes=spikes,
        rate=rate,
        steps=g.steps,
        images=g.images,
        pixels=high * wide,
        width=wide,
        outputs=g.outputs,
        tiles=tiles,
        groups=groups,
        POOL=s.pool,
        BITS_OUT=bits,
        **neuron_arguments(s),
        **walk_arguments(g, weight, lists, configuration, False, packed),
    )
    return spikes


def _check(
    g: ConvGeometry,
    lists: IndexLists,
    configuration: TileConfiguration,
    statistics: tuple[torch.Tensor, torch.Tensor],
    s: Settings,
    rate: torch.Tensor | None,
    bits: bool,
) -> None:
    if any(x.shape != (g.outputs,) for x in statistics):
        raise ValueError(f"statistics must be running ones of {g.outputs} channels")
    if lists.order is not None or (bits and configuration.width % 32):
        raise ValueError(
            "configuration must keep the order of the outputs, and take whole words of them to pack spikes"
        )
    if s.pool and (configuration.pixel_major or min(g.out_size) < 2):
        raise ValueError(
            f"configuration must not be pixel-major with a pool, nor maps smaller than 2x2, got {g.out_size}"
        )
    check_numbers(s, rate)
