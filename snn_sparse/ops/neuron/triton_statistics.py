"""Batch statistics of each channel, in one pass over y, without atomics: the same input gives the same bits."""
# mypy: allow-untyped-defs
# Arguments of kernels have no Python types.

import functools

import torch
import triton
import triton.language as tl

from snn_sparse.ops.backend import TRITON_DTYPES
from snn_sparse.ops.neuron.triton_branch import SCALE, SHIFT, SPREADS, inverse_root, load_data, load_tile
from snn_sparse.ops.spikes import NCHW, NHWC, is_channels_last, ordered
from snn_sparse.ops.spikes.triton_tiles import UNSPECIALIZED, Tiling, cut, locate
from snn_sparse.ops.triton_launch import launch

_ELEMENTS = 4096  # a program and iteration
_PARTS = 2048  # merged at a time, of all steps together


@triton.jit
def _merge(count, mean, m2, axis: tl.constexpr):
    """Chan's merge of all entries along an axis; entries of count 0 do not matter, all 0 gives 0."""
    total = tl.sum(count, axis=axis, keep_dims=True)
    share = count / tl.maximum(total, 1.0)
    merged = tl.sum(mean * share, axis=axis, keep_dims=True)
    delta = mean - merged
    return total, merged, tl.sum(m2 + count * delta * delta, axis=axis, keep_dims=True)


# fmt: off
@triton.jit(do_not_specialize=(*UNSPECIALIZED, "steps", "tiles", "programs"))
def _partial_statistics_kernel(
    y, partials, steps, images, channels, height, width, pixels, outputs, line, rows_per_image, blocks, tiles, programs,
    ROWS: tl.constexpr, LANES: tl.constexpr, POOL: tl.constexpr, CHANNELS_LAST: tl.constexpr, WHOLE: tl.constexpr,
):
    """Count, mean and sum of squared deviations (Welford's, of each element's own run of rows, then merged).

    Partials are [3, C, T, programs].
    """
    # fmt: on
    block, program = tl.program_id(0) % blocks, tl.program_id(0) // blocks % programs
    t = tl.program_id(0) // blocks // programs
    mean, count, seen = tl.zeros([ROWS, LANES], tl.float32), tl.zeros([ROWS, 1], tl.float32), 0.0
    m2 = mean
    for tile in range(program, tiles, programs):
        place, output, _ = locate(
            tile, block, images, channels, height, width, pixels, outputs, line, rows_per_image,
            ROWS, LANES, POOL, CHANNELS_LAST, WHOLE,
        )  # fmt: skip
        seen += 1.0  # existing rows come first, so an element that exists was always there before
        share, rows_exist = 1.0 / seen, output[6]
        delta = tl.where(rows_exist, load_data(y, t, place, 0, tl.full([1, 1], True, tl.int1), False) - mean, 0.0)
        mean = tl.fma(delta, share, mean)
        m2 = tl.fma(delta, delta * (1.0 - share), m2)
        count += rows_exist.to(tl.float32)
    count, mean, m2 = _merge(count, mean, m2, 0)
    channel = block * LANES + tl.arange(0, LANES)[None, :]
    quantity = steps.to(tl.int64) * channels * programs
    at = (channel * steps + t) * programs + program
    tl.store(partials + at, count + tl.zeros([1, LANES], tl.float32), mask=channel < channels)
    tl.store(partials + quantity + at, mean, mask=channel < channels)
    tl.store(partials + 2 * quantity + at, m2, mask=channel < channels)


@triton.jit
def _move(running, new, share, kept):
    """Move a running statistic towards new ones [T, 1], in one step."""
    value = kept * tl.load(running).to(tl.float32) + tl.sum(tl.sum(new * share, axis=1), axis=0)
    tl.store(running, value.to(running.dtype.element_ty))


@triton.jit(do_not_specialize=("updates", "parts"))
def _merge_statistics_kernel(
    partials, mean_to, spread_to, weight, bias, running_mean, running_var, shares, shift, eps, updates, parts, channels,
    UPDATES: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """One channel: merge the parts of all updates [3, C, updates, parts] in a fixed order; move the running ones."""
    channel = tl.program_id(0)
    t = tl.arange(0, UPDATES)[:, None]
    exists = t < updates
    quantity = updates.to(tl.int64) * channels * parts
    count = tl.zeros([UPDATES, 1], tl.float32)
    mean, m2 = count, count
    for first in range(0, parts, PARTS):
        part = first + tl.arange(0, PARTS)[None, :]
        at, given = (channel * updates + t) * parts + part, exists & (part < parts)
        more = _merge(
            load_tile(partials, at, given),
            load_tile(partials + quantity, at, given),
            load_tile(partials + 2 * quantity, at, given),
            1,
        )
        total = tl.maximum(count + more[0], 1.0)
        delta = more[1] - mean
        m2 += more[2] + delta * delta * (count * more[0] / total)
        mean += delta * (more[0] / total)
        count += more[0]
    scale = inverse_root(m2 / tl.maximum(count, 1.0), eps)
    tl.store(mean_to + t * channels + channel, mean, mask=exists)
    to = spread_to + SPREADS * t * channels + channel
    tl.store(to, scale, mask=exists)
    if weight is not None:
        scale = scale * tl.load(weight + channel).to(tl.float32)
    moved = -mean * scale
    if bias is not None:
        moved += tl.load(bias + channel).to(tl.float32)
    tl.store(to + SCALE * channels, scale, mask=exists)
    tl.store(to + SHIFT * channels, moved, mask=exists)
    if running_mean is not None:
        share, kept = load_tile(shares, t, exists), tl.load(shares + updates)
        if shift is not None:
            mean += tl.load(shift + channel).to(tl.float32)
        _move(running_mean + channel, mean, share, kept)
        _move(running_var + channel, m2 / (count - 1.0), share, kept)


def programs_of(tiling: Tiling, steps: int) -> int:
    """Programs for each block of channels and timestep; in all twice as many as sum elsewhere, as they are smaller."""
    return max(1, min(tiling.tiles, triton.cdiv(2 * tiling.summing_programs, steps)))


def _partial_statistics(y: torch.Tensor) -> torch.Tensor:
    """Parts of the statistics of each channel and timestep ``[3, C, T, programs]``."""
    steps, channels = y.shape[0], y.shape[2]
    channels_last = is_channels_last(y)
    tiling = cut(tuple(y.shape[1:]), _ELEMENTS, channels_last=channels_last or y.shape[-1] * y.shape[-2] == 1)
    programs = programs_of(tiling, steps)
    partials = torch.empty((3, channels, steps, programs), dtype=torch.float32, device=y.device)
    launch(
        _partial_statistics_kernel,
        programs * tiling.blocks * steps,
        y.device,
        num_warps=4,
        y=ordered(y, NHWC if channels_last else NCHW),
        partials=partials,
        steps=steps,
        tiles=tiling.tiles,
        programs=programs,
        **tiling.arguments(),
    )
    return partials


@functools.lru_cache(maxsize=256)
def _shares_on(factors: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """Shares of each update's statistics in the running ones after all of them, then of the old ones: [updates + 1].

    Float32 on a device; kept, since a copy would wait for the host.
    """
    kept, shares = 1.0, []
    for factor in reversed(factors):
        shares.append(factor * kept)
        kept *= 1 - factor
    return torch.tensor([*shares[::-1], kept], dtype=torch.float32, device=device)


def batch_statistics(
    y: torch.Tensor,
    eps: float = 1e-5,
    *,
    pooled: bool = False,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    running_mean: torch.Tensor | None = None,
    running_var: torch.Tensor | None = None,
    factors: tuple[float, ...] = (),
    parts: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Statistics of each channel as the neuron's kernels read them; moves the running ones in place if they are given.

    Args:
        y: ``[T, N, C, H, W]``, float32, float16 or bfloat16, NCHW or NHWC in memory (else it is copied).
        eps: added to the (biased) variance.
        pooled: whether all steps share one mean and variance, instead of each having its own.
        weight: ``[C]`` of the batch norm; None: 1.
        bias: ``[C]`` of the batch norm; None: 0.
        running_mean: ``[C]``, contiguous; moved once an update, in order of t.
        running_var: likewise, by the unbiased variance.
        factors: share of the new statistics in each update, T of them, or one if pooled.
        parts: float32 ``[3, C, T, parts]``, contiguous: count, mean and sum of squared deviations of parts of y, from
            who has written it; then y is not read.
        shift: ``[C]``, added to the mean that the running one moves to: a bias that y lacks, since it would be
            subtracted again; None: nothing.

    Returns:
        float32 means ``[updates, C]``, and ``[updates, 3, C]``: ``1 / sqrt(variance + eps)``, scale and shift of the
        batch norm ``y * scale + shift``.

    Raises:
        ValueError: a shape that does not fit, or a single value per channel. TypeError: a dtype that is not supported.
    """
    updates = _check(y, pooled, (weight, bias), running_mean, running_var, factors)
    steps, channels = y.shape[0], y.shape[2]
    partials = _partial_statistics(y) if parts is None else parts
    if partials.shape[:3] != (3, channels, steps) or not partials.is_contiguous():
        raise ValueError(f"parts must be contiguous and {(3, channels, steps)} by parts, got {tuple(partials.shape)}")
    mean = torch.empty((updates, channels), dtype=torch.float32, device=y.device)
    spread = torch.empty((updates, SPREADS.value, channels), dtype=torch.float32, device=y.device)
    padded = triton.next_power_of_2(updates)
    launch(
        _merge_statistics_kernel,
        channels,
        y.device,
        num_warps=4,
        partials=partials,
        mean_to=mean,
        spread_to=spread,
        weight=weight,
        bias=bias,
        running_mean=running_mean,
        running_var=running_var,
        shares=None if running_mean is None else _shares_on(factors, y.device),
        shift=shift,
        eps=float(eps),
        updates=updates,
        parts=partials.shape[3] * (steps // updates),
        channels=channels,
        UPDATES=padded,
        PARTS=max(2, min(512, _PARTS // padded)),
    )
    return mean, spread


def _check(
    y: torch.Tensor,
    pooled: bool,
    affine: tuple[torch.Tensor | None, torch.Tensor | None],
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    factors: tuple[float, ...],
) -> int:
    """The number of updates, if all fits."""
    if y.dim() != 5:
        raise ValueError(f"y must be [T, N, C, H, W], got {tuple(y.shape)}")
    if y.dtype not in TRITON_DTYPES:
        raise TypeError(f"y must be float32, float16 or bfloat16, got {y.dtype}")
    steps, n, channels, h, w = y.shape
    updates = 1 if pooled else steps
    if n * h * w * (steps if pooled else 1) < 2:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {tuple(y.shape)}")
    if (running_mean is None) != (running_var is None):
        raise ValueError("running_mean and running_var must be given together")
    if running_mean is not None and len(factors) != updates:
        raise ValueError(f"factors must be {updates}, one an update, got {len(factors)}")
    given = {"weight": affine[0], "bias": affine[1], "running_mean": running_mean, "running_var": running_var}
    for name, x in given.items():
        if x is not None and (x.shape != (channels,) or not x.is_contiguous()):
            raise ValueError(f"{name} must be contiguous and {(channels,)}, got {tuple(x.shape)}")
    return updates
