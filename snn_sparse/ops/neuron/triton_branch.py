"""The inputs of the neuron, as the kernels read them: dense data or packed spikes, behind a batch norm or not.

In the kernels a *branch* is the tuple (data, mean, spread, weight, bias, eps) of pointers (None: absent) and a number;
a *place* is what ``triton_tiles.locate`` returns. A batch norm is ``y * scale + shift``; with statistics of the batch
the kernel that merges these has written scale and shift.
"""
# mypy: disable-error-code="no-untyped-def, assignment"
# Arguments of kernels have no Python types, and a constexpr branch decides the type of a value.

import triton
import triton.language as tl

from snn_sparse.ops.spikes.triton_tiles import of_step, offsets, words_of
from snn_sparse.specs import NORMS

# How a branch is normalised: not, by batch statistics of each step or one set of them, by frozen ones.
NONE = tl.constexpr(NORMS["none"])
PER_STEP = tl.constexpr(NORMS["per_step"])
FROZEN = tl.constexpr(NORMS["frozen"])
# Rows of what is written with statistics of the batch, [S, 3, C]: 1 / standard deviation, scale, shift.
SPREADS, SCALE, SHIFT = tl.constexpr(3), tl.constexpr(1), tl.constexpr(2)


@triton.jit
def load_tile(pointer, at, mask, POLICY: tl.constexpr = ""):
    """A tile in float32, 0 where masked."""
    return tl.load(pointer + at, mask=mask, other=0.0, eviction_policy=POLICY).to(tl.float32)


@triton.jit
def load_data(pointer, t, place, w: tl.constexpr, live, BITS: tl.constexpr, POLICY: tl.constexpr = ""):
    """Pixel ``w`` of the windows at step t of a branch, before its batch norm, in float32; 0 unless ``live``."""
    first_line, lines, ats, exist, length, all_lines = place
    if BITS:
        words = words_of(length)
        at = lines[w] * words + ats[w] // 32
        word = tl.load(pointer + (all_lines * t + first_line) * words + at, mask=exist[w] & live, other=0)
        data = ((word >> (ats[w] % 32)) & 1).to(tl.float32)
    else:
        data = load_tile(of_step(pointer, t, place), offsets(place, w), exist[w] & live, POLICY)
    return data


@triton.jit
def load_potentials(pointer, place, default, WINDOW: tl.constexpr):
    """Tiles of one map without timesteps, or the default without a pointer; a tuple."""
    tiles = ()
    for w in tl.static_range(WINDOW):
        tile = default
        if pointer is not None:
            tile = load_data(pointer, 0, place, w, tl.full([1, 1], True, tl.int1), False)
        tiles = tiles + (tile,)
    return tiles


@triton.jit
def load_channels(pointer, at, lanes):
    """Float32 values of a block of channels, 0 beyond the last; ``lanes`` as ``locate`` says."""
    return load_tile(pointer + at, lanes[0], lanes[1])


@triton.jit
def inverse_root(variance, eps):
    """1 / standard deviation."""
    return tl.div_rn(1.0, tl.sqrt_rn(variance + tl.cast(eps, tl.float32)))


@triton.jit
def load_affine(branch, t, lanes, NORM: tl.constexpr):
    """(scale, shift) of step t."""
    affine = (1.0, 0.0)
    if NORM == FROZEN:
        _, mean, variance, weight, bias, eps = branch
        scale = inverse_root(load_channels(variance, 0, lanes), eps)
        if weight is not None:
            scale = scale * load_channels(weight, 0, lanes)
        shift = -load_channels(mean, 0, lanes) * scale
        if bias is not None:
            shift += load_channels(bias, 0, lanes)
        affine = (scale, shift)
    elif NORM != NONE:
        at = t * (SPREADS * lanes[2]) if NORM == PER_STEP else 0
        scale = load_channels(branch[2], at + SCALE * lanes[2], lanes)
        affine = (scale, load_channels(branch[2], at + SHIFT * lanes[2], lanes))
    return affine


@triton.jit
def of_each_tile(pointer, tile, LANES: tl.constexpr, NORM: tl.constexpr):
    """The pointer, whose values are loaded anew for each tile: those of all steps would take too many registers."""
    if NORM == PER_STEP:
        pointer += (tile >> 31) * LANES  # 0, as no tile is negative, which the compiler does not know
    return pointer


@triton.jit
def normalise(y, affine, NORM: tl.constexpr):
    """Batch norm of a tile."""
    return y if NORM == NONE else tl.fma(y, affine[0], affine[1])


@triton.jit
def normalise_gradient(dx, y, affine, slopes, t, lanes, NORM: tl.constexpr):
    """Gradient of y from that of x; ``slopes`` [S, 2, C], with batch statistics: ``slope * y + offset`` is added."""
    if slopes is not None:
        at = t * (2 * lanes[2]) if NORM == PER_STEP else 0
        slope = load_channels(slopes, at, lanes)
        offset = load_channels(slopes, at + lanes[2], lanes)
        dx = tl.fma(y, slope, tl.fma(dx, affine[0], offset))
    elif NORM != NONE:
        dx = dx * affine[0]
    return dx


# fmt: off
@triton.jit
def hold(
    main, residual, place, lanes,
    NORM: tl.constexpr, CONSTANT: tl.constexpr, NORM_R: tl.constexpr, WINDOW: tl.constexpr,
):
    """Load once what all steps share: affine maps (unless each step has its own), the constant input."""
    # fmt: on
    data = ()
    for w in tl.static_range(WINDOW):
        data = data + (load_data(main[0], 0, place, w, tl.full([1, 1], True, tl.int1), False) if CONSTANT else 0.0,)
    affine, affine_r = (1.0, 0.0), (1.0, 0.0)
    if NORM != PER_STEP:
        affine = load_affine(main, 0, lanes, NORM)
    if NORM_R != PER_STEP:
        affine_r = load_affine(residual, 0, lanes, NORM_R)
    return affine, affine_r, data


@triton.jit
def load_affines(main, residual, held, t, lanes, NORM: tl.constexpr, NORM_R: tl.constexpr):
    """Affine maps of both branches at step t."""
    affine, affine_r = held[0], held[1]
    if NORM == PER_STEP:
        affine = load_affine(main, t, lanes, NORM)
    if NORM_R == PER_STEP:
        affine_r = load_affine(residual, t, lanes, NORM_R)
    return affine, affine_r


# fmt: off
@triton.jit
def load_input(
    main, residual, held, affines, t, place, w: tl.constexpr, live,
    NORM: tl.constexpr, CONSTANT: tl.constexpr, NORM_R: tl.constexpr, BITS_R: tl.constexpr, POLICY: tl.constexpr = "",
):
    """The neuron's input at step t, of pixel ``w`` of the windows; and the data of both branches."""
    # fmt: on
    y, r = held[2][w], 0.0
    if not CONSTANT:
        y = load_data(main[0], t, place, w, live, False, POLICY)
    x = normalise(y, affines[0], NORM)
    if residual[0] is not None:
        r = load_data(residual[0], t, place, w, live, BITS_R, POLICY)
        x += normalise(r, affines[1], NORM_R)
    return x, y, r
