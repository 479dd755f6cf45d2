"""The arithmetic of one neuron and one timestep, shared by the forward and the backward kernel.

Both recompute the membrane potential h by these very instructions (no implicit fusion: ``triton_launch.py`` turns it
off), so that a spike that backward recomputes is the spike that forward fired. All values are float32.
"""
# mypy: disable-error-code="no-untyped-def, assignment"
# Arguments of kernels have no Python types, and a constexpr branch decides the type of a value.

import triton
import triton.language as tl

from snn_sparse.specs import NEURONS, SHAPES

IF = tl.constexpr(NEURONS["if"])
LEAKY = tl.constexpr(NEURONS["leaky"])
ATAN = tl.constexpr(SHAPES["atan"])
LOGISTIC = tl.constexpr(SHAPES["logistic"])
TRIANGLE = tl.constexpr(SHAPES["triangle"])
RECTANGLE = tl.constexpr(SHAPES["rectangle"])
FAST_SIGMOID = tl.constexpr(SHAPES["fast_sigmoid"])
# Resets: to v_reset, by v_threshold, or by `late` at the next charge.
HARD, SOFT, LATE = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@triton.jit
def step_exists(t, steps, EXACT: tl.constexpr):
    """Whether step t is one of the sequence; [1, 1], as the interpreter spoils masks that meet a scalar."""
    return tl.full([1, 1], True, tl.int1) if EXACT else tl.zeros([1, 1], tl.int32) + t < steps


@triton.jit
def readable_step(t, steps, EXACT: tl.constexpr):
    """The step t, or the last one for one that does not exist: no mask hides the statistics of a step."""
    return t if EXACT else tl.minimum(t, steps - 1)


@triton.jit
def neuron_numbers(numbers, rate, KIND: tl.constexpr):
    """Collect what the functions below take as ``numbers``, in float32, from ``triton_inputs.neuron_arguments``.

    The first is the decay: 1 / tau, divided once a program, so that no step divides, or the factor of the leaky neuron;
    where it is learnt, it is loaded. The last two, of a LIF neuron: the share of the potential that stays, and what a
    step adds to it without input.
    """
    tau, decay, v_threshold, fires_at, v_reset, late = numbers
    if rate is not None:
        decay = tl.load(rate).to(tl.float32)
    elif KIND == LEAKY:
        decay = tl.cast(decay, tl.float32)
    else:
        decay = tl.div_rn(1.0, tl.cast(tau, tl.float32))
    v_threshold, fires_at = tl.cast(v_threshold, tl.float32), tl.cast(fires_at, tl.float32)
    v_reset = tl.cast(v_reset, tl.float32)
    return decay, v_threshold, fires_at, v_reset, tl.cast(late, tl.float32), 1.0 - decay, decay * v_reset


@triton.jit
def charge(v, x, numbers, KIND: tl.constexpr, DECAY_INPUT: tl.constexpr, RESET: tl.constexpr):
    """Membrane potential h before firing."""
    decay, _, fires_at, _, late, kept, rest = numbers
    if KIND == IF:
        h = v + x
    elif KIND == LEAKY:
        h = v * decay + x
        if RESET == LATE:
            h = h - tl.where(v >= fires_at, late, 0.0)
    elif DECAY_INPUT:
        h = tl.fma(x, decay, tl.fma(v, kept, rest))
    else:
        h = tl.fma(v, kept, rest) + x
    return h


@triton.jit
def reset(h, numbers, RESET: tl.constexpr):
    """Membrane potential after firing; NaN never spikes."""
    _, v_threshold, fires_at, v_reset, _, _, _ = numbers
    if RESET == HARD:
        h = tl.where(h >= fires_at, v_reset, h)
    elif RESET == SOFT:
        h = tl.where(h >= fires_at, h - v_threshold, h)
    return h


@triton.jit
def surrogate_numbers(peak, slope, v_threshold):
    """Compute what the function below takes as ``surrogate``, in float32."""
    peak, slope = tl.cast(peak, tl.float32), tl.cast(slope, tl.float32)
    return peak, slope, -slope * v_threshold


@triton.jit
def surrogate_gradient(h, surrogate, SURROGATE: tl.constexpr):
    """Surrogate of ds/dh at h; ``surrogate``: its height, and of z, which is 0 at the threshold, slope and offset."""
    peak, slope, offset = surrogate
    z = tl.fma(h, slope, offset)
    if SURROGATE == ATAN:
        root = tl.rsqrt(tl.fma(z, z, 1.0))  # one instruction, where a division takes ten
        ds = peak * root * root
    elif SURROGATE == LOGISTIC:  # in exp(-|z|), so that nothing overflows
        e = tl.exp(-tl.abs(z))
        ds = (4.0 * peak) * e / ((1.0 + e) * (1.0 + e))
    elif SURROGATE == TRIANGLE:
        ds = peak * tl.maximum(1.0 - tl.abs(z), 0.0)
    elif SURROGATE == RECTANGLE:
        ds = tl.where(tl.abs(z) < 0.5, peak, 0.0)
    elif SURROGATE == FAST_SIGMOID:
        d = 1.0 + tl.abs(z)
        ds = peak / (d * d)
    else:
        ds = peak * tl.exp(-(z * z))
    return ds


# fmt: off
@triton.jit
def potential_gradient(
    h, grad_spike, grad_v, numbers, surrogate,
    RESET: tl.constexpr, DETACH_RESET: tl.constexpr, SURROGATE: tl.constexpr,
):
    """dL/dh, from the gradients of the spike and of the potential behind the reset; a late reset is detached."""
    # fmt: on
    _, v_threshold, fires_at, v_reset, _, _, _ = numbers
    ds = surrogate_gradient(h, surrogate, SURROGATE)
    if RESET == HARD:
        direct = tl.where(h >= fires_at, 0.0, grad_v)
        through_spike = v_reset - h
    else:
        direct = grad_v
        through_spike = -v_threshold
    if not DETACH_RESET:
        grad_spike = tl.fma(grad_v, through_spike, grad_spike)
    return tl.fma(grad_spike, ds, direct)


@triton.jit
def input_share(numbers, KIND: tl.constexpr, DECAY_INPUT: tl.constexpr):
    """Gradient of the input as a share of dL/dh."""
    return numbers[0] if KIND != IF and KIND != LEAKY and DECAY_INPUT else 1.0


@triton.jit
def charge_gradient(dh, numbers, KIND: tl.constexpr):
    """Gradient of the potential before the step."""
    if KIND == LEAKY:
        dh = dh * numbers[0]
    elif KIND != IF:
        dh = dh * numbers[5]
    return dh


@triton.jit
def decay_gradient(dh, x, v, v_rest, KIND: tl.constexpr, DECAY_INPUT: tl.constexpr):
    """Gradient of the learnt 1 / tau or decay, given the input and the potential before the step."""
    if KIND == LEAKY:
        grad = dh * v
    elif DECAY_INPUT:
        grad = dh * (x - (v - v_rest))
    else:
        grad = -dh * (v - v_rest)
    return grad
