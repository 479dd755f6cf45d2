"""Backward pass of the fused neuron: the potentials are recomputed from y and stay in registers.

More than 8 timesteps are cut into segments: the potentials at their starts are recomputed first, then those of the
steps of each segment, from the last one back. With batch statistics it takes two passes over y and the gradient: the
first sums dx and dx * y for each channel, the second writes the gradients, which need these sums. Without
them one pass does both.
"""
# mypy: allow-untyped-defs
# Arguments of kernels have no Python types.

from collections.abc import Collection
from typing import Any

import torch
import triton
import triton.language as tl

from snn_sparse.ops.neuron.call import Settings, Tensors
from snn_sparse.ops.neuron.triton_branch import NONE, PER_STEP, hold, load_potentials, of_each_tile
from snn_sparse.ops.neuron.triton_inputs import Inputs, is_batch
from snn_sparse.ops.neuron.triton_math import input_share, neuron_numbers, surrogate_numbers
from snn_sparse.ops.neuron.triton_reverse import (
    choose,
    put,
    repeat,
    reset_all,
    reverse_step,
    segment,
    store_rest,
    store_sums,
)
from snn_sparse.ops.neuron.triton_sums import NormGradients, finish_sums
from snn_sparse.ops.spikes import empty, ordered
from snn_sparse.ops.spikes.triton_tiles import UNSPECIALIZED, cut, locate
from snn_sparse.ops.triton_launch import launch

_WARPS = 4
_WIDEST = 16  # bytes of a load
# 32-bit values that a thread has at hand for each element, besides those kept for all steps; and how many of both fit
# into registers: in a pass that sums, and in one that does not, but has the addresses of what it stores.
_AT_HAND, _WITH_SUMS, _WITHOUT_SUMS = 12, 236, 168


# fmt: off
@triton.jit(do_not_specialize=(*UNSPECIALIZED, "steps", "tiles", "programs"))
def _backward_kernel(
    grad, grad_v, y, mean, spread, weight, bias, eps, residual, mean_r, spread_r, weight_r, bias_r, eps_r, rate, v_init,
    slopes, slopes_r, dy, dresidual, dv, partials, rate_partials,
    tau, decay, v_threshold, fires_at, v_reset, late, peak, slope_u,
    steps, images, channels, height, width, pixels, outputs, line, rows_per_image, blocks, tiles, programs,
    NORM: tl.constexpr, CONSTANT: tl.constexpr, NORM_R: tl.constexpr, BITS_R: tl.constexpr, KIND: tl.constexpr,
    DECAY_INPUT: tl.constexpr, RESET: tl.constexpr, DETACH_RESET: tl.constexpr, SURROGATE: tl.constexpr,
    STEPS: tl.constexpr, SEGMENTS: tl.constexpr, EXACT: tl.constexpr, SLOTS: tl.constexpr,
    ROWS: tl.constexpr, LANES: tl.constexpr, POOL: tl.constexpr, CHANNELS_LAST: tl.constexpr, WHOLE: tl.constexpr,
):
    WINDOW: tl.constexpr = 4 if POOL else 1
    program, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    numbers = neuron_numbers((tau, decay, v_threshold, fires_at, v_reset, late), rate, KIND)
    share = input_share(numbers, KIND, DECAY_INPUT)
    surrogate = surrogate_numbers(peak, slope_u, numbers[1])
    gradients = (grad, dy, dresidual, slopes, slopes_r)
    nothing = tl.zeros([ROWS, LANES], tl.float32)
    sums = repeat(nothing, SLOTS)
    totals = (sums, sums, sums, nothing, repeat(nothing, WINDOW))
    for tile in tl.range(program, tiles, programs, disable_licm=True):
        place, output, lanes = locate(
            tile, block, images, channels, height, width, pixels, outputs, line, rows_per_image,
            ROWS, LANES, POOL, CHANNELS_LAST, WHOLE,
        )
        main = (y, mean, of_each_tile(spread, tile, LANES, NORM), weight, bias, eps)
        other = (residual, mean_r, of_each_tile(spread_r, tile, LANES, NORM_R), weight_r, bias_r, eps_r)
        held = hold(main, other, place, lanes, NORM, CONSTANT, NORM_R, WINDOW)
        branches = (main, other, held)
        v = load_potentials(v_init, place, nothing + numbers[3], WINDOW)
        dv_after = load_potentials(grad_v, place, nothing, WINDOW)
        starts = repeat(v, SEGMENTS)
        for seg in range(SEGMENTS - 1):
            _, v = segment(
                v, seg, branches, place, lanes, steps, numbers,
                NORM, CONSTANT, NORM_R, BITS_R, KIND, DECAY_INPUT, RESET, STEPS, EXACT, WINDOW,
            )
            starts = put(starts, seg + 1, v, SEGMENTS, WINDOW)
        totals = (totals[0], totals[1], totals[2], totals[3], repeat(nothing, WINDOW))
        for back in range(SEGMENTS):
            seg = SEGMENTS - 1 - back
            v = choose(starts, seg, SEGMENTS, WINDOW)
            hs, _ = segment(
                v, seg, branches, place, lanes, steps, numbers,
                NORM, CONSTANT, NORM_R, BITS_R, KIND, DECAY_INPUT, RESET, STEPS, EXACT, WINDOW,
            )
            for k in tl.static_range(STEPS - 1, -1, -1):
                before = v
                if k > 0:
                    before = reset_all(hs[k - 1], numbers, RESET, WINDOW)
                dv_after, totals = reverse_step(
                    seg, k, hs[k], before, dv_after, totals, branches, gradients, place, output, lanes, steps,
                    numbers, surrogate,
                    NORM, CONSTANT, NORM_R, BITS_R, KIND, DECAY_INPUT, RESET, DETACH_RESET, SURROGATE,
                    STEPS, EXACT, SLOTS, POOL, rate_partials is not None,
                )
        store_rest(dy, dv, dv_after, totals[4], share, held, slopes, place, lanes, NORM, CONSTANT, WINDOW)
    channel = block * LANES + tl.arange(0, LANES)[None, :]
    store_sums(totals, share, partials, program, programs, channel, channels, NORM, NORM_R, SLOTS)
    if rate_partials is not None:
        tl.store(rate_partials + tl.program_id(0), tl.sum(tl.sum(totals[3], axis=1), axis=0))
# fmt: on


Gradients = dict[str, torch.Tensor | None]


def backward(
    t: Tensors, s: Settings, grad: torch.Tensor | None, grad_v: torch.Tensor | None, needs: Collection[str]
) -> Gradients:
    """Compute gradients of the inputs, by their names.

    Args:
        t: the tensors of the call, as in the forward pass.
        s: its numbers.
        grad: gradient of the dense (or the logical shape of the packed) spikes, any strides; None: zero.
        grad_v: of the final membrane potential ``[N, C, H, W]``; None: zero.
        needs: names of the wanted ones.

    Returns:
        ``y``, ``residual``, ``v`` in the memory format of ``y`` and their own dtypes (of packed spikes: that of ``y``),
        the others like their parameters. The gradient through batch statistics is included.

    Raises:
        ValueError: a shape that does not fit, or a name that is not known or not given.
    """
    inputs = Inputs(t, s)
    codes, memory_format = inputs.norm_codes, inputs.memory_format
    _check(inputs, grad, grad_v, needs)
    outputs = _outputs(inputs, needs)
    arguments = {
        "grad": None if grad is None else ordered(grad, memory_format),
        "grad_v": None if grad_v is None else ordered(grad_v, memory_format),
        "slopes": None,
        "slopes_r": None,
        "peak": float(s.peak),
        "slope_u": float(s.slope),
        "DETACH_RESET": s.detach_reset,
        "SURROGATE": s.surrogate,
        **inputs.arguments(),
    }
    two_passes = (is_batch(codes[0]) and "y" in needs) or (is_batch(codes[1]) and "residual" in needs)
    slots = 0
    if two_passes or not _AFFINE.isdisjoint(needs):
        slots = inputs.segments * inputs.segment_steps if PER_STEP.value in codes else 1
    first = dict.fromkeys(outputs) if two_passes else outputs
    partials, rate = _run(inputs, arguments | first, slots, "rate" in needs)
    norm, norm_r = _finish(inputs, partials)
    if two_passes:
        slopes = {"slopes": norm.slopes, "slopes_r": norm_r.slopes}
        _run(inputs, arguments | outputs | slopes, 0, False)
    found = {"y": outputs["dy"], "residual": outputs["dresidual"], "v": outputs["dv"], "rate": rate}
    found |= {"weight": norm.weight, "bias": norm.bias, "weight_r": norm_r.weight, "bias_r": norm_r.bias}
    return {name: value for name, value in found.items() if name in needs}


_AFFINE = frozenset(("weight", "bias", "weight_r", "bias_r"))


def _check(inputs: Inputs, grad: torch.Tensor | None, grad_v: torch.Tensor | None, needs: Collection[str]) -> None:
    for name, x, shape in (("grad", grad, inputs.output_shape), ("grad_v", grad_v, tuple(inputs.t.y.shape[1:]))):
        if x is not None and x.shape != shape:
            raise ValueError(f"{name} must be {shape}, got {tuple(x.shape)}")
    unknown = set(needs) - set(inputs.differentiable)
    if unknown:
        raise ValueError(f"no gradient of {', '.join(sorted(unknown))}: not an input, or not given")


def _outputs(inputs: Inputs, needs: Collection[str]) -> dict[str, torch.Tensor | None]:
    """Allocate the gradients of the large inputs, by the names of the kernel's parameters; None where not wanted."""
    t, y = inputs.t, inputs.t.y
    found: dict[str, torch.Tensor | None] = dict.fromkeys(("dy", "dresidual", "dv"))
    for name, x in (("y", y), ("residual", t.residual), ("v", t.v)):
        if name in needs and x is not None:
            dtype = y.dtype if name == "residual" and inputs.packed else x.dtype
            found["d" + name] = empty(tuple(x.shape), dtype, y.device, inputs.memory_format)
    return found


def _elements(inputs: Inputs, slots: int) -> int:
    """Elements a program: those of 16 bytes a thread (and pixel of a window), or fewer where each keeps much."""
    size, window = inputs.t.y.element_size(), 4 if inputs.s.pool else 1
    quantities = 1 + sum(code != NONE.value for code in inputs.norm_codes)
    inputs_kept = sum(size for x in (inputs.t.y, inputs.t.residual) if x is not None) / 4
    kept = window * inputs.segment_steps * (1 + inputs_kept)
    if inputs.s.pool and not inputs.tiled_channels_last():
        kept *= 2  # each element has an address of its own
    kept += quantities * slots + _AT_HAND
    each = _WIDEST // size
    while each > 1 and each * kept > (_WITH_SUMS if slots else _WITHOUT_SUMS):
        each //= 2
    return 32 * _WARPS * window * each


def _run(
    inputs: Inputs, arguments: dict[str, Any], slots: int, with_rate: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """One pass: partial sums ``[3, slots, C, programs]`` (``triton_reverse.py``); the rate's gradient."""
    y = inputs.t.y
    tiled, elements = inputs.tiled_channels_last(), _elements(inputs, slots)
    tiling = cut(tuple(y.shape[1:]), elements, channels_last=tiled, pool=inputs.s.pool)
    programs = tiling.summing_programs if slots or with_rate else tiling.tiles
    partials = torch.empty((3, slots, y.shape[2], programs), dtype=torch.float32, device=y.device)
    rates = torch.empty(programs * tiling.blocks, dtype=torch.float32, device=y.device) if with_rate else None
    launch(
        _backward_kernel,
        programs * tiling.blocks,
        y.device,
        num_warps=_WARPS,
        partials=partials if slots else None,
        rate_partials=rates,
        tiles=tiling.tiles,
        programs=programs,
        SLOTS=slots,
        **arguments,
        **tiling.arguments(),
    )
    if rates is None or inputs.t.rate is None:
        return partials, None
    return partials, rates.sum().to(inputs.t.rate.dtype).reshape(inputs.t.rate.shape)


def _finish(inputs: Inputs, partials: torch.Tensor) -> list[NormGradients]:
    """Second reduction, for both batch norms."""
    t, s, slots = inputs.t, inputs.s, partials.shape[1]
    n, _, h, w = t.y.shape[1:]
    branches = (
        (t.mean, t.spread, t.weight, t.bias, s.eps, t.y.shape[0]),
        (t.mean_r, t.spread_r, t.weight_r, t.bias_r, s.eps_r, s.steps),
    )
    found = []
    for quantity, (mean, spread, weight, bias, eps, steps) in enumerate(branches, start=1):
        code = inputs.norm_codes[quantity - 1]
        if mean is None or spread is None or slots == 0:
            found.append(NormGradients())
            continue
        filled = s.steps if slots > 1 else 1
        count = n * h * w * (1 if code == PER_STEP.value else steps)
        found.append(
            finish_sums(
                partials, mean, spread, weight, bias, eps=eps, code=code, quantity=quantity, steps=filled, count=count
            )
        )
    return found
