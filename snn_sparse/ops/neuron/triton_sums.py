"""Second reduction of the backward pass: from sums of dx and dx * (y - mean) to the gradients of a batch norm."""
# mypy: allow-untyped-defs
# Arguments of kernels have no Python types.

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from snn_sparse.ops.neuron.triton_branch import PER_STEP, load_invstd
from snn_sparse.ops.neuron.triton_inputs import is_batch
from snn_sparse.ops.triton_launch import launch
from snn_sparse.specs import NORMS

_CHANNELS, _PROGRAMS = 4, 256
POOLED = tl.constexpr(NORMS["pooled"])


@triton.jit
def _total(partials, row, channel, channels, programs, CHANNELS: tl.constexpr, PROGRAMS: tl.constexpr):
    """Sum over programs, in a fixed order, of one row of partials [rows, C, programs]: [CHANNELS]."""
    sums = tl.zeros([CHANNELS, PROGRAMS], tl.float32)
    for first in range(0, programs, PROGRAMS):
        program = first + tl.arange(0, PROGRAMS)[None, :]
        at = (row * channels + channel[:, None]) * programs + program
        sums += tl.load(partials + at, mask=(channel[:, None] < channels) & (program < programs), other=0.0)
    return tl.sum(sums, axis=1)


# fmt: off
@triton.jit(do_not_specialize=("count", "steps", "slots", "programs"))
def _finish_sums_kernel(
    partials, spread, eps, mean_dx, slope, dweight, dbias, count, steps, slots, channels, programs,
    QUANTITY: tl.constexpr, NORM: tl.constexpr, CHANNELS: tl.constexpr, PROGRAMS: tl.constexpr,
):
    # fmt: on
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    exists = channel < channels
    count = tl.cast(count, tl.float32)
    sum_dx = tl.zeros([CHANNELS], tl.float32)
    sum_dxy, sum_dxhat = sum_dx, sum_dx
    for t in range(steps):
        dx = _total(partials, t, channel, channels, programs, CHANNELS, PROGRAMS)
        dxy = _total(partials, QUANTITY * slots + t, channel, channels, programs, CHANNELS, PROGRAMS)
        sum_dx += dx
        sum_dxy += dxy
        if NORM == PER_STEP:
            invstd = load_invstd(spread, t * channels, channel, channels, eps, NORM)
            sum_dxhat += dxy * invstd
            tl.store(mean_dx + t * channels + channel, dx / count, mask=exists)
            tl.store(slope + t * channels + channel, dxy * invstd * invstd / count, mask=exists)
    if NORM != PER_STEP:
        invstd = load_invstd(spread, 0, channel, channels, eps, NORM)
        sum_dxhat = sum_dxy * invstd
    if NORM == POOLED:
        tl.store(mean_dx + channel, sum_dx / count, mask=exists)
        tl.store(slope + channel, sum_dxhat * invstd / count, mask=exists)
    if dweight is not None:
        tl.store(dweight + channel, sum_dxhat.to(dweight.dtype.element_ty), mask=exists)
    if dbias is not None:
        tl.store(dbias + channel, sum_dx.to(dbias.dtype.element_ty), mask=exists)


@dataclass(frozen=True)
class NormGradients:
    """Means of dx and of dx * (y - mean) / variance per statistics ``[S, C]``; gradients of the affine parameters."""

    mean_dx: torch.Tensor | None = None
    slope: torch.Tensor | None = None
    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None


def finish_sums(
    partials: torch.Tensor,
    mean: torch.Tensor,
    spread: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    *,
    eps: float,
    code: int,
    quantity: int,
    steps: int,
    count: float,
) -> NormGradients:
    """Derive the gradients of one batch norm from sums over all its elements.

    Args:
        partials: float32 ``[quantities, slots, C, programs]``; quantity 0 is dx.
        mean, spread: of the batch norm, as the operator takes them.
        weight, bias: its affine parameters.
        eps: added to a frozen variance.
        code: how it normalises.
        quantity: the one that holds dx * (y - mean).
        steps: slots that are filled.
        count: elements behind one mean.
    """
    _, slots, channels, programs = partials.shape
    mean_dx, slope = (torch.empty_like(mean, dtype=torch.float32) if is_batch(code) else None for _ in range(2))
    dweight, dbias = (None if x is None else torch.empty_like(x) for x in (weight, bias))
    launch(
        _finish_sums_kernel,
        triton.cdiv(channels, _CHANNELS),
        partials.device,
        num_warps=4,
        partials=partials,
        spread=spread.contiguous(),
        eps=float(eps),
        mean_dx=mean_dx,
        slope=slope,
        dweight=dweight,
        dbias=dbias,
        count=float(count),
        steps=steps,
        slots=slots,
        channels=channels,
        programs=programs,
        QUANTITY=quantity,
        NORM=code,
        CHANNELS=_CHANNELS,
        PROGRAMS=_PROGRAMS,
    )
    return NormGradients(mean_dx, slope, dweight, dbias)
