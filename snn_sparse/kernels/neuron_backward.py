"""Backward pass of the fused neuron: the potentials are recomputed from y and stay in registers.

More than 8 timesteps are cut into segments: the potentials at their starts are recomputed first, then those of the
steps of each segment, from the last one back. With batch statistics it takes two passes over y and the gradient: the
first sums dx and dx * (y - mean) for each channel, the second writes the gradients, which need these sums. Without
them one pass does both.
"""
# mypy: allow-untyped-defs
# Arguments of kernels have no Python types.

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from snn_sparse.kernels.branch import NONE, PER_STEP, POOLED, hold, load_tile_or
from snn_sparse.kernels.gradient_sums import NormGradients, finish_sums
from snn_sparse.kernels.inputs import Inputs
from snn_sparse.kernels.launch import launch
from snn_sparse.kernels.neuron_math import decay_rate, reset
from snn_sparse.kernels.neuron_reverse import choose, put, reverse_step, segment, store_gradient, store_sums, zeros
from snn_sparse.kernels.tiles import UNSPECIALIZED, empty, in_layout, locate, plan

_WARPS = 4
_MAX_REGISTERS = 255  # of a thread, on every GPU
# Float32 values that a thread keeps for all steps; above it, registers run out or too few threads fit on the GPU.
_MANY_KEPT = 40
_VALUES_KEPT = {2: 48, 4: 28}  # by bytes of a stored value


# fmt: off
@triton.jit(do_not_specialize=(*UNSPECIALIZED, "steps", "tiles", "programs"))
def _backward_kernel(
    grad, grad_v, y, mean, spread, weight, bias, eps, residual, mean_r, spread_r, weight_r, bias_r, eps_r, rate, v_init,
    mean_dx, slope, mean_dx_r, slope_r, dy, dresidual, dv, partials, rate_partials,
    tau, v_threshold, v_reset, alpha,
    steps, images, channels, height, width, pixels, outputs, line, rows_per_image, blocks, tiles, programs,
    NORM: tl.constexpr, STATIC: tl.constexpr, NORM_R: tl.constexpr, BITS_R: tl.constexpr, KIND: tl.constexpr,
    DECAY_INPUT: tl.constexpr, HARD_RESET: tl.constexpr, DETACH_RESET: tl.constexpr, SURROGATE: tl.constexpr,
    STEPS: tl.constexpr, SEGMENTS: tl.constexpr, EXACT: tl.constexpr, SLOTS: tl.constexpr,
    ROWS: tl.constexpr, LANES: tl.constexpr, POOL: tl.constexpr, CHANNELS_LAST: tl.constexpr,
):
    program, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    numbers = (
        decay_rate(tl.cast(tau, tl.float32), rate, KIND),
        tl.cast(v_threshold, tl.float32), tl.cast(v_reset, tl.float32), tl.cast(alpha, tl.float32),
    )
    main, other = (y, mean, spread, weight, bias, eps), (residual, mean_r, spread_r, weight_r, bias_r, eps_r)
    gradients = (grad, dy, dresidual, (mean_dx, slope), (mean_dx_r, slope_r))
    nothing = tl.zeros([ROWS, 4 if POOL else 1, LANES], tl.float32)
    sums = zeros(nothing, SLOTS)
    totals = (sums, sums, sums, nothing, nothing)
    for tile in tl.range(program, tiles, programs, disable_licm=True):
        place, mask, position, has_output = locate(
            tile, block, images, channels, height, width, pixels, outputs, line, rows_per_image,
            ROWS, LANES, POOL, CHANNELS_LAST,
        )
        at = place[2].to(tl.int64) * channels * pixels + place[5]
        branches = (main, other, hold(main, other, place, mask, NORM, STATIC, NORM_R))
        v = load_tile_or(v_init, at, mask, nothing + numbers[2])
        dv_after = load_tile_or(grad_v, at, mask, nothing)
        starts = zeros(v, SEGMENTS)
        for seg in range(SEGMENTS - 1):
            _, v = segment(
                v, seg, branches, place, mask, steps, numbers,
                NORM, STATIC, NORM_R, BITS_R, KIND, DECAY_INPUT, HARD_RESET, STEPS, EXACT, CHANNELS_LAST,
            )
            starts = put(starts, seg + 1, v, SEGMENTS)
        totals = (totals[0], totals[1], totals[2], totals[3], nothing)
        for back in range(SEGMENTS):
            seg = SEGMENTS - 1 - back
            v = choose(starts, seg, SEGMENTS)
            hs, _ = segment(
                v, seg, branches, place, mask, steps, numbers,
                NORM, STATIC, NORM_R, BITS_R, KIND, DECAY_INPUT, HARD_RESET, STEPS, EXACT, CHANNELS_LAST,
            )
            for k in tl.static_range(STEPS - 1, -1, -1):
                before = v if k == 0 else reset(hs[k - 1], numbers[1], numbers[2], HARD_RESET)
                dv_after, totals = reverse_step(
                    seg, k, hs[k], before, dv_after, totals, branches, gradients, place, position, mask, has_output,
                    steps, outputs, numbers,
                    NORM, STATIC, NORM_R, BITS_R, KIND, DECAY_INPUT, HARD_RESET, DETACH_RESET, SURROGATE,
                    STEPS, EXACT, SLOTS, POOL, CHANNELS_LAST, rate_partials is not None,
                )
        if STATIC:
            store_gradient(dy, totals[4], branches[2][2], branches[2][0], gradients[3], 0, place, mask, NORM)
        if dv is not None:
            tl.store(dv + at, dv_after.to(dv.dtype.element_ty), mask=mask)
    channel = block * LANES + tl.arange(0, LANES)[None, None, :]
    store_sums(totals, partials, program, programs, channel, channels, NORM, NORM_R, SLOTS)
    if rate_partials is not None:
        tl.store(rate_partials + tl.program_id(0), tl.sum(tl.sum(tl.sum(totals[3], axis=2), axis=1), axis=0))
# fmt: on


@dataclass(frozen=True)
class Gradients:
    """Of a loss with respect to each input that was asked for; None for the others."""

    y: torch.Tensor | None = None
    residual: torch.Tensor | None = None
    v: torch.Tensor | None = None
    rate: torch.Tensor | None = None
    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    weight_residual: torch.Tensor | None = None
    bias_residual: torch.Tensor | None = None


def backward(
    inputs: Inputs, grad_spikes: torch.Tensor | None, grad_v: torch.Tensor | None, needs: Collection[str]
) -> Gradients:
    """Gradients of the inputs.

    Args:
        inputs: as in the forward pass.
        grad_spikes: gradient of the dense (or the logical shape of the packed) spikes, any strides; None: zero.
        grad_v: of the final membrane potential ``[N, C, H, W]``; None: zero.
        needs: names of the wanted fields of :class:`Gradients`.

    Returns:
        ``y``, ``residual``, ``v`` in the memory layout of ``y`` and their own dtypes (of packed spikes: that of ``y``),
        the others like their parameters. The gradient through batch statistics is included.

    Raises:
        ValueError: a shape that does not fit, or a name that is not known or not given.
    """
    layout, codes = inputs.channels_last, inputs.norm_codes
    _check(inputs, grad_spikes, grad_v, needs)
    outputs = _outputs(inputs, needs)
    arguments = {
        "grad": None if grad_spikes is None else in_layout(grad_spikes, layout),
        "grad_v": None if grad_v is None else in_layout(grad_v, layout),
        **dict.fromkeys(("mean_dx", "slope", "mean_dx_r", "slope_r")),
        **inputs.arguments(),
        **inputs.neuron.surrogate_arguments(),
    }
    batch = [code in (PER_STEP.value, POOLED.value) for code in codes]
    two_passes = (batch[0] and "y" in needs) or (batch[1] and "residual" in needs)
    slots = 0
    if two_passes or not _AFFINE.isdisjoint(needs):
        slots = inputs.segments * inputs.segment_steps if PER_STEP.value in codes else 1
    partials, rate = _run(
        inputs, arguments | (dict.fromkeys(outputs) if two_passes else outputs), slots, "rate" in needs
    )
    norm, norm_residual = _finish(inputs, partials)
    if two_passes:
        means = {"mean_dx": norm.mean_dx, "slope": norm.slope}
        means |= {"mean_dx_r": norm_residual.mean_dx, "slope_r": norm_residual.slope}
        _run(inputs, arguments | outputs | means, 0, False)
    found = {"y": outputs["dy"], "residual": outputs["dresidual"], "v": outputs["dv"], "rate": rate}
    found |= {"weight": norm.weight, "bias": norm.bias}
    found |= {"weight_residual": norm_residual.weight, "bias_residual": norm_residual.bias}
    return Gradients(**{name: value for name, value in found.items() if name in needs})


_AFFINE = frozenset(("weight", "bias", "weight_residual", "bias_residual"))


def _check(
    inputs: Inputs, grad_spikes: torch.Tensor | None, grad_v: torch.Tensor | None, needs: Collection[str]
) -> None:
    for name, grad, shape in (
        ("grad_spikes", grad_spikes, inputs.output_shape),
        ("grad_v", grad_v, tuple(inputs.y.shape[1:])),
    ):
        if grad is not None and grad.shape != shape:
            raise ValueError(f"{name} must be {shape}, got {tuple(grad.shape)}")
    unknown = set(needs) - set(inputs.differentiable)
    if unknown:
        raise ValueError(f"no gradient of {', '.join(sorted(unknown))}: not an input, or not given")


def _outputs(inputs: Inputs, needs: Collection[str]) -> dict[str, torch.Tensor | None]:
    """Uninitialised gradients of the large inputs, by the names of the kernel's parameters; None where not wanted."""
    y = inputs.y
    found: dict[str, torch.Tensor | None] = dict.fromkeys(("dy", "dresidual", "dv"))
    for name, x in (("y", y), ("residual", inputs.residual), ("v", inputs.v)):
        if name in needs and x is not None:
            shape = (inputs.timesteps, *y.shape[1:]) if name == "residual" else tuple(x.shape)
            dtype = y.dtype if x.dtype == torch.int32 else x.dtype
            found["d" + name] = empty(shape, dtype, y.device, inputs.channels_last)
    return found


def _elements(inputs: Inputs, slots: int) -> tuple[int, int | None]:
    """Elements a program: 1, 2 or 4 a thread, the fewer the more each thread must keep for every element.

    Also the registers to ask for: all where much is kept, since the assembler would rather spill a little.
    """
    quantities = 1 + sum(code != NONE.value for code in inputs.norm_codes)
    steps = inputs.segment_steps
    kept = max(quantities * steps, steps + quantities * slots)
    limit = _VALUES_KEPT[inputs.y.element_size()]
    each = 4 if 4 * kept <= limit else 2 if 2 * kept <= limit else 1
    many = each == 1 or (slots > 0 and each * kept > _MANY_KEPT)
    return 32 * _WARPS * each, _MAX_REGISTERS if many else None


def _run(
    inputs: Inputs, arguments: dict[str, Any], slots: int, with_rate: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """One pass: partial sums ``[3, slots, C, programs]`` (``neuron_reverse.py``); the rate's gradient."""
    y = inputs.y
    tiled, (elements, registers) = inputs.tiled_channels_last(), _elements(inputs, slots)
    tiling = plan(tuple(y.shape[1:]), elements, channels_last=tiled, pool=inputs.pool)
    programs = tiling.summing_programs if slots or with_rate else tiling.tiles
    partials = torch.empty((3, slots, y.shape[2], programs), dtype=torch.float32, device=y.device)
    rates = torch.empty(programs * tiling.blocks, dtype=torch.float32, device=y.device) if with_rate else None
    launch(
        _backward_kernel,
        programs * tiling.blocks,
        y.device,
        num_warps=_WARPS,
        registers=registers,
        partials=partials if slots else None,
        rate_partials=rates,
        tiles=tiling.tiles,
        programs=programs,
        SLOTS=slots,
        **arguments,
        **tiling.arguments(),
    )
    if rates is None or inputs.rate is None:
        return partials, None
    return partials, rates.sum().to(inputs.rate.dtype).reshape(inputs.rate.shape)


def _finish(inputs: Inputs, partials: torch.Tensor) -> list[NormGradients]:
    """Second reduction, for both batch norms."""
    slots = partials.shape[1]
    n, _, h, w = inputs.y.shape[1:]
    found = []
    branches = ((inputs.norm, inputs.y.shape[0]), (inputs.norm_residual, inputs.timesteps))
    for quantity, (norm, steps) in enumerate(branches, start=1):
        code = inputs.norm_codes[quantity - 1]
        if norm is None or slots == 0:
            found.append(NormGradients())
            continue
        count = n * h * w * (1 if code == PER_STEP.value else steps)
        filled = inputs.timesteps if slots > 1 else 1
        found.append(finish_sums(partials, norm, code=code, quantity=quantity, steps=filled, count=count))
    return found
