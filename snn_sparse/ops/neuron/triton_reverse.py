"""Steps of the backward pass: potentials recomputed for a segment of steps, one step backwards, tuples of tiles.

What belongs to the pixels of a window is a tuple with an entry for each; ``hs`` has such a tuple for each step.
"""
# mypy: disable-error-code="no-untyped-def, assignment"
# Arguments of kernels have no Python types, and a constexpr branch decides the type of a value.

import triton
import triton.language as tl

from snn_sparse.ops.neuron.triton_branch import NONE, load_affines, load_input, load_tile, normalise_gradient
from snn_sparse.ops.neuron.triton_math import (
    charge,
    charge_gradient,
    decay_gradient,
    input_share,
    potential_gradient,
    readable_step,
    reset,
    step_exists,
)
from snn_sparse.ops.spikes.triton_tiles import of_step, offsets


# fmt: off
@triton.jit
def segment(
    v, seg, branches, place, lanes, steps, numbers,
    NORM: tl.constexpr, CONSTANT: tl.constexpr, NORM_R: tl.constexpr, BITS_R: tl.constexpr, KIND: tl.constexpr,
    DECAY_INPUT: tl.constexpr, RESET: tl.constexpr, STEPS: tl.constexpr, EXACT: tl.constexpr, WINDOW: tl.constexpr,
):
    """h of a segment's steps by the instructions of the forward kernel (finite beyond the last step), and v behind."""
    main, other, held = branches
    hs = ()
    for k in tl.static_range(STEPS):
        t = seg * STEPS + k
        live, t = step_exists(t, steps, EXACT), readable_step(t, steps, EXACT)
        affines = load_affines(main, other, held, t, lanes, NORM, NORM_R)
        h, after = (), ()
        for w in tl.static_range(WINDOW):
            x, _, _ = load_input(main, other, held, affines, t, place, w, live, NORM, CONSTANT, NORM_R, BITS_R)
            h = h + (charge(v[w], x, numbers, KIND, DECAY_INPUT, RESET),)
            after = after + (reset(h[w], numbers, RESET),)
        v = after
        hs = hs + (h,)
    return hs, v


@triton.jit
def reset_all(h, numbers, RESET: tl.constexpr, WINDOW: tl.constexpr):
    """Potentials of a window's pixels after firing."""
    after = ()
    for w in tl.static_range(WINDOW):
        after = after + (reset(h[w], numbers, RESET),)
    return after


@triton.jit
def choose(values, at, LENGTH: tl.constexpr, WINDOW: tl.constexpr):
    """Entry ``at``, known when the kernel runs, of a tuple of tuples."""
    chosen = ()
    for w in tl.static_range(WINDOW):
        entry = values[0][w]
        for i in tl.static_range(1, LENGTH):
            entry = tl.where(at == i, values[i][w], entry)
        chosen = chosen + (entry,)
    return chosen


@triton.jit
def put(values, at, value, LENGTH: tl.constexpr, WINDOW: tl.constexpr):
    """The tuple of tuples with another entry ``at``, known when the kernel runs."""
    new = ()
    for i in tl.static_range(LENGTH):
        entry = ()
        for w in tl.static_range(WINDOW):
            entry = entry + (tl.where(at == i, value[w], values[i][w]),)
        new = new + (entry,)
    return new


@triton.jit
def add(sums, seg, k: tl.constexpr, value, factor, STEPS: tl.constexpr, SLOTS: tl.constexpr):
    """The sums with ``value * factor`` added at step ``seg * STEPS + k``, or to their only one."""
    new = ()
    for i in tl.static_range(SLOTS):
        if SLOTS == 1 or (SLOTS == STEPS and i == k):
            new = new + (tl.fma(value, factor, sums[i]),)
        elif SLOTS > STEPS and i % STEPS == k:
            new = new + (tl.fma(tl.where(seg == i // STEPS, value, 0.0), factor, sums[i]),)
        else:
            new = new + (sums[i],)
    return new


@triton.jit
def repeat(value, LENGTH: tl.constexpr):
    """A tuple of equal entries."""
    values = ()
    for _ in tl.static_range(LENGTH):
        values = values + (value,)
    return values


@triton.jit
def load_spike_gradient(grad, t, h, output, live, fires_at, POOL: tl.constexpr):
    """Gradient of the unpooled spikes; that of a window's maximum goes to the first pixel that fired, or the first."""
    value = tl.zeros_like(h[0])
    if grad is not None:
        _, line, at, exists, length, _, _ = output
        value = load_tile(of_step(grad, t, output), line * length + at, exists & live)
    values = (value,)
    if POOL:
        one, two = h[0] >= fires_at, h[1] >= fires_at
        either = one | two
        three = either | (h[2] >= fires_at)
        none = not_(three | (h[3] >= fires_at))
        values = (
            tl.where(one | none, value, 0.0), tl.where(two & not_(one), value, 0.0),
            tl.where(three & not_(either), value, 0.0), tl.where(three | none, 0.0, value),
        )
    return values


@triton.jit
def not_(condition):
    """The opposite."""
    return condition ^ tl.full([1, 1], True, tl.int1)


@triton.jit
def store_gradient(pointer, dx, data, affine, slopes, t, place, w: tl.constexpr, live, lanes,
                   NORM: tl.constexpr):
    """Gradient of one branch at step t, of pixel ``w`` of the windows, if it is wanted."""
    if pointer is not None:
        grad = normalise_gradient(dx, data, affine, slopes, t, lanes, NORM)
        at = of_step(pointer, t, place) + offsets(place, w)
        tl.store(at, grad.to(pointer.dtype.element_ty), mask=place[3][w] & live)


@triton.jit
def reverse_step(
    seg, k: tl.constexpr, h, before, dv_after, totals, branches, gradients, place, output, lanes, steps,
    numbers, surrogate,
    NORM: tl.constexpr, CONSTANT: tl.constexpr, NORM_R: tl.constexpr, BITS_R: tl.constexpr, KIND: tl.constexpr,
    DECAY_INPUT: tl.constexpr, RESET: tl.constexpr, DETACH_RESET: tl.constexpr, SURROGATE: tl.constexpr,
    STEPS: tl.constexpr, EXACT: tl.constexpr, SLOTS: tl.constexpr, POOL: tl.constexpr, RATE: tl.constexpr,
):
    """One step backwards: dL/dv before it, and the totals with this step added; stores gradients."""
    main, other, held = branches
    grad, dy, dresidual, slopes, slopes_r = gradients
    total, total_y, total_r, total_rate, total_constant = totals
    t = seg * STEPS + k
    live, t = step_exists(t, steps, EXACT), readable_step(t, steps, EXACT)
    affines = load_affines(main, other, held, t, lanes, NORM, NORM_R)
    dspike = load_spike_gradient(grad, t, h, output, live, numbers[2], POOL)
    share = input_share(numbers, KIND, DECAY_INPUT)
    dv_before, constant, one = (), (), tl.full([1, 1], 1.0, tl.float32)
    for w in tl.static_range(4 if POOL else 1):
        x, y, r = load_input(main, other, held, affines, t, place, w, live, NORM, CONSTANT, NORM_R, BITS_R)
        dh = potential_gradient(h[w], dspike[w], dv_after[w], numbers, surrogate, RESET, DETACH_RESET, SURROGATE)
        dv_before = dv_before + (tl.where(live, charge_gradient(dh, numbers, KIND), dv_after[w]),)
        dh = tl.where(live, dh, 0.0)
        total = add(total, seg, k, dh, one, STEPS, SLOTS)
        if NORM != NONE:
            total_y = add(total_y, seg, k, dh, y, STEPS, SLOTS)
        if NORM_R != NONE:
            total_r = add(total_r, seg, k, dh, r, STEPS, SLOTS)
        if RATE:
            total_rate += decay_gradient(dh, x, before[w], numbers[3], KIND, DECAY_INPUT)
        if CONSTANT:
            constant = constant + (total_constant[w] + dh,)
        else:
            constant = constant + (total_constant[w],)
            store_gradient(dy, dh * share, y, affines[0], slopes, t, place, w, live, lanes, NORM)
        store_gradient(
            dresidual, dh * share, r, affines[1], slopes_r, t, place, w, live, lanes, NORM_R
        )
    return dv_before, (total, total_y, total_r, total_rate, constant)


@triton.jit
def store_rest(
    dy, dv, dv_after, constant, share, held, slopes, place, lanes,
    NORM: tl.constexpr, CONSTANT: tl.constexpr, WINDOW: tl.constexpr,
):
    """Gradients of the constant input and of the potential before the first step, if they are wanted."""
    always = tl.full([1, 1], True, tl.int1)
    for w in tl.static_range(WINDOW):
        if CONSTANT:
            store_gradient(dy, constant[w] * share, held[2][w], held[0], slopes, 0, place, w, always, lanes, NORM)
        if dv is not None:
            at = of_step(dv, 0, place) + offsets(place, w)
            tl.store(at, dv_after[w].to(dv.dtype.element_ty), mask=place[3][w])


@triton.jit
def store_sum(sums, share, pointer, quantity, program, programs, channel, channels, SLOTS: tl.constexpr):
    """Partial sums of one quantity in [quantities, SLOTS, C, programs]."""
    for t in tl.static_range(SLOTS):
        total = tl.sum(sums[t], axis=0, keep_dims=True) * share
        at = ((quantity * SLOTS + t) * channels + channel) * programs + program
        tl.store(pointer + at, total, mask=channel < channels)


@triton.jit
def store_sums(
    totals, share, pointer, program, programs, channel, channels,
    NORM: tl.constexpr, NORM_R: tl.constexpr, SLOTS: tl.constexpr,
):
    """Partial sums of dx, of dx * y, and of the latter for the residual."""
    store_sum(totals[0], share, pointer, 0, program, programs, channel, channels, SLOTS)
    if NORM != NONE:
        store_sum(totals[1], share, pointer, 1, program, programs, channel, channels, SLOTS)
    if NORM_R != NONE:
        store_sum(totals[2], share, pointer, 2, program, programs, channel, channels, SLOTS)
# fmt: on
