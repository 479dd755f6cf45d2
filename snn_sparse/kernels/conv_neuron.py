"""Convolution, batch norm with running statistics, neuron and 2x2 max-pool over all timesteps, in one kernel.

The convolution's output never reaches memory, so nothing can be differentiated: this is for evaluation. It computes
``torch.nn.functional.conv2d`` and then ``snn_sparse.ops.fused_neuron.reference``; with half-precision weights it is
nearer to float32 than those, since the products are not rounded in between.
"""
# mypy: allow-untyped-defs
# Arguments of kernels have no Python types.

import torch
import triton
import triton.language as tl

from snn_sparse.kernels.branch import RUNNING, load_affine, normalise
from snn_sparse.kernels.conv import SIZES, check_data, walk_arguments
from snn_sparse.kernels.conv_settings import Geometry, Lists, Way, ceil_div, tiles_of
from snn_sparse.kernels.conv_walk import convolve_tile, lines_from, tile_rows
from snn_sparse.kernels.inputs import packed_shape
from snn_sparse.kernels.launch import launch
from snn_sparse.kernels.neuron_math import charge, decay_rate, reset
from snn_sparse.kernels.settings import Neuron, Normalisation, branch_arguments
from snn_sparse.kernels.tiles import empty, in_layout


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
    tau, v_threshold, v_reset,
    steps, images, pixels, width, height_in, width_in, inputs, outputs, padding, tiles, groups,
    along_output, along_input, along_tap,
    KIND: tl.constexpr, DECAY_INPUT: tl.constexpr, HARD_RESET: tl.constexpr, POOL: tl.constexpr, BITS_OUT: tl.constexpr,
    STRIDE: tl.constexpr, KERNEL_WIDTH: tl.constexpr, TAPS: tl.constexpr, TRANSPOSED: tl.constexpr, BITS: tl.constexpr,
    GATHERED: tl.constexpr, PIXEL_MAJOR: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, STEP: tl.constexpr,
):
    group, tile = tl.program_id(0) % groups, tl.program_id(0) // groups
    first, image, pixel, exists, the_pixel = tile_rows(tile, images, pixels, width, ROWS, PIXEL_MAJOR, POOL)
    tau, v_threshold, v_reset = tl.cast(tau, tl.float32), tl.cast(v_threshold, tl.float32), tl.cast(v_reset, tl.float32)
    decay = decay_rate(tau, rate, KIND)
    output = group * WIDTH + tl.arange(0, WIDTH)
    affine = load_affine((None, mean, spread, norm_weight, norm_bias, eps), 0, output[None, :], outputs, RUNNING)
    shift = tl.zeros([1, WIDTH], tl.float32)
    if conv_bias is not None:
        shift = tl.load(conv_bias + output, mask=output < outputs, other=0.0).to(tl.float32)[None, :]
    if POOL:
        windows = (width // 2) * (pixels // width // 2)
        window = tile * (ROWS // 4) + tl.arange(0, ROWS // 4)
        out_image, position, positions = window // windows - first, window % windows, windows
    else:
        out_image, position, positions = image, pixel, pixels
    v = tl.zeros([ROWS, WIDTH], tl.float32) + v_reset
    for t in range(steps):
        first_image = (t * images + first).to(tl.int64)
        products = convolve_tile(
            lines_from(data, first_image * (height_in * width_in), inputs, BITS), weight, (pointers, channels), group,
            output, image, pixel, the_pixel, exists, (width, height_in, width_in, inputs, outputs, padding),
            (along_output, along_input, along_tap),
            STRIDE, KERNEL_WIDTH, TAPS, TRANSPOSED, BITS, GATHERED, PIXEL_MAJOR, ROWS, WIDTH, STEP,
        )
        h = charge(v, normalise(products + shift, affine, RUNNING), v_reset, decay, KIND, DECAY_INPUT)
        v = reset(h, v_threshold, v_reset, HARD_RESET)
        fired = ((h >= v_threshold) & (output < outputs)[None, :]).to(tl.int32)
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
    geometry: Geometry,
    lists: Lists,
    way: Way,
    norm: Normalisation,
    neuron: Neuron,
    *,
    rate: torch.Tensor | None = None,
    pool: bool = False,
    bits: bool = True,
) -> torch.Tensor:
    """Spikes of the neuron behind a convolution and a batch norm.

    Args:
        data: ``[T, N, Cin, H, W]``, or packed spikes ``[T, N, H, W, words]``.
        weight: ``[Cout, Cin, kh, kw]``, float32, float16 or bfloat16.
        bias: of the convolution, ``[Cout]`` or None.
        geometry: of the convolution.
        lists: of the mask, made for ``way``.
        way: how to compute; not reordered, of a width of at least 32 if ``bits``, not pixel-major if ``pool``.
        norm: with running statistics.
        neuron: its settings.
        rate: ``1 / tau`` of ``plif``, a tensor with one entry.
        pool: whether a 2x2 max-pool of stride 2 follows.
        bits: whether the spikes are packed.

    Returns:
        spikes ``[T, N, Cout, Ho, Wo]`` (pooled: halves of these), channels last in memory, in the dtype of ``weight``;
        or packed ``[T, N, Ho, Wo, words]``.

    Raises:
        ValueError: sizes that do not fit, batch statistics, or an order. TypeError: a dtype that is not supported.
    """
    g, (high, wide) = geometry, geometry.out_size
    packed = check_data(data, weight, g)
    g.check_offsets(way)
    if not norm.frozen or norm.mean.shape != (g.outputs,):
        raise ValueError(f"norm must have running statistics of {g.outputs} channels")
    if lists.order is not None or (bits and way.width % 32):
        raise ValueError("way must keep the order of the outputs, and take whole words of them to pack spikes")
    if pool and (way.pixel_major or min(high, wide) < 2):
        raise ValueError(f"way must not be pixel-major with pool, nor maps of {high}x{wide} smaller than 2x2")
    if (neuron.kind == "plif") != (rate is not None):
        raise ValueError("rate must be a tensor with one entry for plif, and None for other neurons")
    size = (high // 2, wide // 2) if pool else (high, wide)
    shape = (g.steps, g.images, g.outputs, *size)
    if bits:
        spikes = torch.empty(packed_shape(shape, True), dtype=torch.int32, device=data.device)
    else:
        spikes = empty(shape, weight.dtype, data.device, True)
    pixels = 4 * size[0] * size[1] if pool else high * wide
    tiles, groups = tiles_of(g.images, pixels, way), ceil_div(g.outputs, way.width)
    branch = branch_arguments(norm)
    branch["norm_weight"], branch["norm_bias"] = branch.pop("weight"), branch.pop("bias")
    launch(
        _conv_neuron_kernel,
        tiles * groups,
        data.device,
        num_warps=way.num_warps,
        num_stages=way.num_stages,
        registers=way.registers(True),
        data=data.contiguous() if packed else in_layout(data, True),
        conv_bias=bias,
        spikes=spikes,
        rate=rate,
        steps=g.steps,
        images=g.images,
        pixels=high * wide,
        width=wide,
        outputs=g.outputs,
        tiles=tiles,
        groups=groups,
        POOL=pool,
        BITS_OUT=bits,
        **branch,
        **neuron.arguments(),
        **walk_arguments(g, weight, lists, way, False, packed),
    )
    return spikes
