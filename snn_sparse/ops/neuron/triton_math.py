"""The arithmetic of one neuron and one timestep, shared by the forward and the backward kernel.

Both recompute the membrane potential h by these very instructions (no implicit fusion: ``triton_launch.py`` turns it
off), so that a spike that backward recomputes is the spike that forward fired. All values are float32.
"""
# mypy: disable-error-code="no-untyped-def, assignment"
# Arguments of kernels have no Python types, and a constexpr branch decides the type of a value.

import triton
import triton.language as tl

from snn_sparse.specs import NEURONS, SURROGATES

PLIF = tl.constexpr(NEURONS["plif"])
IF = tl.constexpr(NEURONS["if"])
ATAN = tl.constexpr(SURROGATES["atan"])
SIGMOID = tl.constexpr(SURROGATES["sigmoid"])
PIECEWISE_QUADRATIC = tl.constexpr(SURROGATES["piecewise_quadratic"])


@triton.jit
def step_exists(t, steps, EXACT: tl.constexpr):
    """Whether step t is one of the sequence; [1, 1, 1], as the interpreter spoils masks that meet a scalar."""
    return tl.full([1, 1, 1], True, tl.int1) if EXACT else tl.zeros([1, 1, 1], tl.int32) + t < steps


@triton.jit
def readable_step(t, steps, EXACT: tl.constexpr):
    """The step t, or the last one for one that does not exist: no mask hides the statistics of a step."""
    return t if EXACT else tl.minimum(t, steps - 1)


@triton.jit
def decay_rate(tau, rate, KIND: tl.constexpr):
    """1 / tau: divided once a program, so that no step divides; of the parametric neuron it is learnt and loaded."""
    return tl.load(rate).to(tl.float32) if KIND == PLIF else tl.div_rn(1.0, tau)


@triton.jit
def charge(v, x, v_rest, decay, KIND: tl.constexpr, DECAY_INPUT: tl.constexpr):
    """Membrane potential h before firing."""
    if KIND == IF:
        h = v + x
    elif DECAY_INPUT:
        h = tl.fma(x - (v - v_rest), decay, v)
    else:
        h = tl.fma(v_rest - v, decay, v) + x
    return h


@triton.jit
def reset(h, v_threshold, v_reset, HARD_RESET: tl.constexpr):
    """Membrane potential after firing; NaN never spikes."""
    after = v_reset if HARD_RESET else h - v_threshold
    return tl.where(h >= v_threshold, after, h)


@triton.jit
def surrogate_gradient(u, alpha, SURROGATE: tl.constexpr):
    """Surrogate of ds/dh at u = h - v_threshold."""
    if SURROGATE == ATAN:
        z = (1.5707963267948966 * alpha) * u
        ds = (0.5 * alpha) / tl.fma(z, z, 1.0)
    elif SURROGATE == SIGMOID:  # in exp(-|z|), so that nothing overflows
        e = tl.exp(-tl.abs(alpha * u))
        ds = alpha * e / ((1.0 + e) * (1.0 + e))
    elif SURROGATE == PIECEWISE_QUADRATIC:
        ds = tl.maximum(alpha - (alpha * alpha) * tl.abs(u), 0.0)
    else:
        ds = alpha * tl.maximum(1.0 - tl.abs(u), 0.0)
    return ds


# fmt: off
@triton.jit
def potential_gradient(
    h, grad_spike, grad_v, v_threshold, v_reset, alpha,
    HARD_RESET: tl.constexpr, DETACH_RESET: tl.constexpr, SURROGATE: tl.constexpr,
):
    """dL/dh, from the gradients of the spike and of the potential behind the reset."""
    # fmt: on
    ds = surrogate_gradient(h - v_threshold, alpha, SURROGATE)
    if HARD_RESET:
        direct = tl.where(h >= v_threshold, 0.0, grad_v)
        through_spike = v_reset - h
    else:
        direct = grad_v
        through_spike = -v_threshold
    if not DETACH_RESET:
        grad_spike = tl.fma(grad_v, through_spike, grad_spike)
    return tl.fma(grad_spike, ds, direct)


@triton.jit
def charge_gradient(dh, decay, KIND: tl.constexpr, DECAY_INPUT: tl.constexpr):
    """Gradients of the input and of the potential before the step."""
    if KIND == IF:
        dx, dv = dh, dh
    else:
        leaked = dh * decay
        dx, dv = leaked if DECAY_INPUT else dh, dh - leaked
    return dx, dv


@triton.jit
def decay_gradient(dh, x, v, v_rest, DECAY_INPUT: tl.constexpr):
    """Gradient of 1 / tau, given the input and the potential before the step."""
    leak = v - v_rest
    return dh * (x - leak) if DECAY_INPUT else -dh * leak
