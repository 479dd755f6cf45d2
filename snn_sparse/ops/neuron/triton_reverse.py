"""Steps of the backward pass: potentials recomputed for a segment of steps, one step backwards, tuples of tiles."""
# mypy: disable-error-code="no-untyped-def, assignment"
# Arguments of kernels have no Python types, and a constexpr branch decides the type of a value.

import triton
import triton.language as tl

from snn_sparse.ops.neuron.triton_branch import NONE, load_input, load_tile, normalise_gradient
from snn_sparse.ops.neuron.triton_math import (
    charge,
    charge_gradient,
    decay_gradient,
    potential_gradient,
    readable_step,
    reset,
    step_exists,
)
from snn_sparse.ops.spikes.triton_tiles import offsets


# fmt: off
@triton.jit
def segment(
    v, seg, branches, place, mask, steps, numbers,
    NORM: tl.constexpr, CONSTANT: tl.constexpr, NORM_R: tl.constexpr, BITS_R: tl.constexpr, KIND: tl.constexpr,
    DECAY_INPUT: tl.constexpr, RESET: tl.constexpr, STEPS: tl.constexpr, EXACT: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):
    """h of a segment's steps by the instructions of the forward kernel (finite beyond the last step), and v behind."""
    main, other, held = branches
    hs = ()
    for k in tl.static_range(STEPS):
        t = seg * STEPS + k
        live, t = step_exists(t, steps, EXACT), readable_step(t, steps, EXACT)
        x, _, _, _, _ = load_input(
            main, other, held, t, place, mask & live, NORM, CONSTANT, NORM_R, BITS_R, CHANNELS_LAST
        )
        h = charge(v, x, numbers, KIND, DECAY_INPUT, RESET)
        v = reset(h, numbers, RESET)
        hs = hs + (h,)
    return hs, v


@triton.jit
def choose(values, at, LENGTH: tl.constexpr):
    """Entry ``at``, known when the kernel runs, of a tuple."""
    chosen = values[0]
    for i in tl.static_range(1, LENGTH):
        chosen = tl.where(at == i, values[i], chosen)
    return chosen


@triton.jit
def put(values, at, value, LENGTH: tl.constexpr):
    """The tuple with another entry ``at``, known when the kernel runs."""
    new = ()
    for i in tl.static_range(LENGTH):
        new = new + (tl.where(at == i, value, values[i]),)
    return new


@triton.jit
def add(sums, seg, k: tl.constexpr, value, STEPS: tl.constexpr, SLOTS: tl.constexpr):
    """The sums with ``value`` added at step ``seg * STEPS + k``, or to their only one."""
    new = ()
    for i in tl.static_range(SLOTS):
        if SLOTS == 1:
            new = new + (sums[i] + value,)
        elif i % STEPS == k:
            new = new + (sums[i] + tl.where(seg == i // STEPS, value, 0.0),)
        else:
            new = new + (sums[i],)
    return new


@triton.jit
def zeros(nothing, LENGTH: tl.constexpr):
    """A tuple of equal tiles."""
    values = ()
    for _ in tl.static_range(LENGTH):
        values = values + (nothing,)
    return values


@triton.jit
def load_spike_gradient(
    grad, t, h, place, position, mask, outputs, fires_at, POOL: tl.constexpr, CHANNELS_LAST: tl.constexpr
):
    """Gradient of the unpooled spikes; that of a window's maximum goes to the first pixel that fired, or the first."""
    value = tl.zeros_like(h)
    if grad is not None:
        _, _, first_image, image, _, _, channel, images, channels, _ = place
        start = (t * images + first_image).to(tl.int64) * channels * outputs
        value = load_tile(grad + start, offsets(image, position, channel, outputs, channels, CHANNELS_LAST), mask)
        if POOL:
            window = tl.arange(0, 4)[None, :, None]
            first = tl.min(tl.where(h >= fires_at, window, 4), axis=1, keep_dims=True)
            value = tl.where(window == first % 4, value, 0.0)
    return value


@triton.jit
def store_gradient(pointer, dx, data, affine, sums, t, place, mask, NORM: tl.constexpr):
    """Gradient of one branch at step t, if it is wanted."""
    if pointer is not None:
        _, _, first_image, _, _, within, channel, images, channels, pixels = place
        start = (t * images + first_image).to(tl.int64) * channels * pixels
        grad = normalise_gradient(dx, data, affine, sums, t, channel, channels, NORM)
        tl.store(pointer + start + within, grad.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def reverse_step(
    seg, k: tl.constexpr, h, before, dv_after, totals, branches, gradients, place, position, mask, has_output, steps,
    outputs, numbers, surrogate,
    NORM: tl.constexpr, CONSTANT: tl.constexpr, NORM_R: tl.constexpr, BITS_R: tl.constexpr, KIND: tl.constexpr,
    DECAY_INPUT: tl.constexpr, RESET: tl.constexpr, DETACH_RESET: tl.constexpr, SURROGATE: tl.constexpr,
    STEPS: tl.constexpr, EXACT: tl.constexpr, SLOTS: tl.constexpr, POOL: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    RATE: tl.constexpr,
):
    """One step backwards: dL/dv before it, and the totals with this step added; stores gradients."""
    main, other, held = branches
    grad, dy, dresidual, sums, sums_r = gradients
    total, total_y, total_r, total_rate, dx_static = totals
    t = seg * STEPS + k
    live, t = step_exists(t, steps, EXACT), readable_step(t, steps, EXACT)
    x, y, affine, r, affine_r = load_input(
        main, other, held, t, place, mask & live, NORM, CONSTANT, NORM_R, BITS_R, CHANNELS_LAST
    )
    dspike = load_spike_gradient(
        grad, t, h, place, position, has_output & live, outputs, numbers[2], POOL, CHANNELS_LAST
    )
    dh = potential_gradient(h, dspike, dv_after, numbers, surrogate, RESET, DETACH_RESET, SURROGATE)
    dx, dv_before = charge_gradient(dh, numbers[0], KIND, DECAY_INPUT)
    dx = tl.where(live, dx, 0.0)
    total = add(total, seg, k, dx, STEPS, SLOTS)
    if NORM != NONE:
        total_y = add(total_y, seg, k, dx * (y - affine[0]), STEPS, SLOTS)
    if NORM_R != NONE:
        total_r = add(total_r, seg, k, dx * (r - affine_r[0]), STEPS, SLOTS)
    if RATE:
        total_rate += tl.where(live, decay_gradient(dh, x, before, numbers[3], KIND, DECAY_INPUT), 0.0)
    if CONSTANT:
        dx_static += dx
    else:
        store_gradient(dy, dx, y, affine, sums, t, place, mask & live, NORM)
    store_gradient(dresidual, dx, r, affine_r, sums_r, t, place, mask & live, NORM_R)
    return tl.where(live, dv_before, dv_after), (total, total_y, total_r, total_rate, dx_static)


@triton.jit
def store_sum(sums, pointer, quantity, program, programs, channel, channels, SLOTS: tl.constexpr):
    """Partial sums of one quantity in [quantities, SLOTS, C, programs]."""
    for t in tl.static_range(SLOTS):
        total = tl.sum(tl.sum(sums[t], axis=0, keep_dims=True), axis=1, keep_dims=True)
        at = ((quantity * SLOTS + t) * channels + channel) * programs + program
        tl.store(pointer + at, total, mask=channel < channels)


@triton.jit
def store_sums(
    totals, pointer, program, programs, channel, channels,
    NORM: tl.constexpr, NORM_R: tl.constexpr, SLOTS: tl.constexpr,
):
    """Partial sums of dx, of dx * (y - mean), and of the latter for the residual."""
    store_sum(totals[0], pointer, 0, program, programs, channel, channels, SLOTS)
    if NORM != NONE:
        store_sum(totals[1], pointer, 1, program, programs, channel, channels, SLOTS)
    if NORM_R != NONE:
        store_sum(totals[2], pointer, 2, program, programs, channel, channels, SLOTS)
# fmt: on
