"""The inputs of the neuron, as the kernels read them: dense data or packed spikes, behind a batch norm or not.

In the kernels a *branch* is the tuple (data, mean, spread, weight, bias, eps) of pointers (None: absent) and a number;
a *place* is what ``triton_tiles.locate`` returns.
"""
# mypy: disable-error-code="no-untyped-def, assignment"
# Arguments of kernels have no Python types, and a constexpr branch decides the type of a value.

import triton
import triton.language as tl

from snn_sparse.ops.spikes.triton_tiles import line_words, word_offsets
from snn_sparse.specs import NORMS

# How a branch is normalised: not, by batch statistics of each step or one set of them, by frozen ones.
NONE = tl.constexpr(NORMS["none"])
PER_STEP = tl.constexpr(NORMS["per_step"])
FROZEN = tl.constexpr(NORMS["frozen"])


@triton.jit
def load_tile(pointer, at, mask):
    """A tile in float32, 0 where masked."""
    return tl.load(pointer + at, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def load_tile_or(pointer, at, mask, default):
    """A tile in float32, or the default without a pointer."""
    tile = default
    if pointer is not None:
        tile = load_tile(pointer, at, mask)
    return tile


@triton.jit
def load_data(pointer, t, place, mask, BITS: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """Step t of a branch in float32, before its batch norm."""
    _, _, first_image, image, pixel, within, channel, images, channels, pixels = place
    start = (t * images + first_image).to(tl.int64)
    if BITS:
        words, lines = line_words(pixels, channels, CHANNELS_LAST)
        at = word_offsets(image, pixel, channel, pixels, channels, CHANNELS_LAST)
        word = tl.load(pointer + start * lines * words + at, mask=mask, other=0)
        data = ((word >> (channel % 32 if CHANNELS_LAST else pixel % 32)) & 1).to(tl.float32)
    else:
        data = load_tile(pointer + start * channels * pixels, within, mask)
    return data


@triton.jit
def load_channels(pointer, at, channel, channels):
    """Float32 values of a block of channels, 0 beyond the last."""
    return load_tile(pointer + at, channel, channel < channels)


@triton.jit
def load_invstd(spread, at, channel, channels, eps, NORM: tl.constexpr):
    """1 / standard deviation: given with batch statistics, computed from the running variance."""
    value = load_channels(spread, at, channel, channels)
    if NORM == FROZEN:
        value = tl.div_rn(1.0, tl.sqrt_rn(value + tl.cast(eps, tl.float32)))
    return value


@triton.jit
def load_affine(branch, t, channel, channels, NORM: tl.constexpr):
    """(mean, scale, shift) of step t: x = (y - mean) * scale + shift."""
    affine = (0.0, 1.0, 0.0)
    if NORM != NONE:
        _, mean, spread, weight, bias, eps = branch
        at = t * channels if NORM == PER_STEP else 0
        scale = load_invstd(spread, at, channel, channels, eps, NORM)
        shift = tl.zeros_like(scale)
        if weight is not None:
            scale = scale * load_channels(weight, 0, channel, channels)
        if bias is not None:
            shift = load_channels(bias, 0, channel, channels)
        affine = (load_channels(mean, at, channel, channels), scale, shift)
    return affine


@triton.jit
def normalise(y, affine, NORM: tl.constexpr):
    """Batch norm of a tile."""
    return y if NORM == NONE else tl.fma(y - affine[0], affine[1], affine[2])


@triton.jit
def normalise_gradient(dx, y, affine, sums, t, channel, channels, NORM: tl.constexpr):
    """Gradient of y from that of x; ``sums`` point to the means of dx and of dx * (y - mean) / variance."""
    if sums[0] is not None:  # batch statistics
        at = t * channels if NORM == PER_STEP else 0
        straight = dx - load_channels(sums[0], at, channel, channels)
        dx = tl.fma(affine[0] - y, load_channels(sums[1], at, channel, channels), straight)
    return dx if NORM == NONE else dx * affine[1]


# fmt: off
@triton.jit
def hold(main, residual, place, mask, NORM: tl.constexpr, CONSTANT: tl.constexpr, NORM_R: tl.constexpr):
    """Load once what all steps share: affine maps (unless each step has its own), the constant input."""
    _, _, _, _, _, _, channel, _, channels, _ = place
    affine = load_affine(main, 0, channel, channels, NORM)
    affine_r = load_affine(residual, 0, channel, channels, NORM_R)
    data = 0.0
    if CONSTANT:
        data = load_data(main[0], 0, place, mask, False, False)
    return affine, affine_r, data


@triton.jit
def load_input(
    main, residual, held, t, place, mask, NORM: tl.constexpr, CONSTANT: tl.constexpr, NORM_R: tl.constexpr,
    BITS_R: tl.constexpr, CHANNELS_LAST: tl.constexpr,
):
    """The neuron's input at step t; and of both branches the data and the affine map."""
    # fmt: on
    _, _, _, _, _, _, channel, _, channels, _ = place
    affine, affine_r, y = held
    r = 0.0
    if NORM == PER_STEP:
        affine = load_affine(main, t, channel, channels, NORM)
    if NORM_R == PER_STEP:
        affine_r = load_affine(residual, t, channel, channels, NORM_R)
    if not CONSTANT:
        y = load_data(main[0], t, place, mask, False, CHANNELS_LAST)
    x = normalise(y, affine, NORM)
    if residual[0] is not None:
        r = load_data(residual[0], t, place, mask, BITS_R, CHANNELS_LAST)
        x += normalise(r, affine_r, NORM_R)
    return x, y, affine, r, affine_r
