"""Second reduction of the backward pass: from sums of dx and dx * y to the gradients of a batch norm."""
# mypy: allow-untyped-defs
# Arguments of kernels have no Python types.

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from snn_sparse.ops.neuron.triton_branch import PER_STEP, SCALE, SPREADS, inverse_root, load_tile
from snn_sparse.ops.neuron.triton_inputs import is_batch
from snn_sparse.ops.triton_launch import launch

_ENTRIES = 2048  # of partials that a program reads at a time


# fmt: off
@triton.jit(do_not_specialize=("count", "steps", "slots", "programs"))
def _finish_sums_kernel(
    partials, mean, spread, eps, slopes, dweight, dbias, count, steps, slots, channels, programs,
    QUANTITY: tl.constexpr, NORM: tl.constexpr, STEPS: tl.constexpr, PROGRAMS: tl.constexpr,
):
    """One channel: sum partials [quantities, slots, C, programs] over programs, in a fixed order, all steps at once."""
    # fmt: on
    channel = tl.program_id(0)
    t = tl.arange(0, STEPS)[:, None]
    exists = t < steps
    sums = tl.zeros([STEPS, PROGRAMS], tl.float32)
    sums_y = sums
    for first in range(0, programs, PROGRAMS):
        program = first + tl.arange(0, PROGRAMS)[None, :]
        at, given = (t * channels + channel) * programs + program, exists & (program < programs)
        sums += load_tile(partials, at, given)
        sums_y += load_tile(partials + QUANTITY * slots * channels * programs, at, given)
    dx, dxy = tl.sum(sums, axis=1, keep_dims=True), tl.sum(sums_y, axis=1, keep_dims=True)
    sum_dx = tl.sum(dx, axis=0, keep_dims=True)
    if NORM != PER_STEP:
        t, exists = tl.zeros([1, 1], tl.int32), tl.full([1, 1], True, tl.int1)
        dx, dxy = sum_dx, tl.sum(dxy, axis=0, keep_dims=True)
    average = load_tile(mean, t * channels + channel, exists)
    dxy -= average * dx  # of dx * (y - mean)
    if slopes is not None:  # statistics of the batch
        spreads = spread + SPREADS * t * channels + channel
        invstd, scale = load_tile(spreads, 0, exists), load_tile(spreads, SCALE * channels, exists)
        count = tl.cast(count, tl.float32)
        slope = dxy * invstd * invstd / count
        at = slopes + 2 * t * channels + channel
        tl.store(at, -scale * slope, mask=exists)
        tl.store(at + channels, scale * (average * slope - dx / count), mask=exists)
    else:
        invstd = inverse_root(load_tile(spread, channel + t, exists), eps)
    if dweight is not None:
        sum_dxhat = tl.sum(tl.sum(dxy * invstd, axis=1), axis=0)
        tl.store(dweight + channel, sum_dxhat.to(dweight.dtype.element_ty))
    if dbias is not None:
        tl.store(dbias + channel, tl.sum(tl.sum(sum_dx, axis=1), axis=0).to(dbias.dtype.element_ty))


@dataclass(frozen=True)
class NormGradients:
    """Slope and offset of y's gradient for each of its statistics ``[S, 2, C]``; gradients of the affine parameters.

    With statistics of the batch the gradient of y is ``scale * dx + slope * y + offset``.
    """

    slopes: torch.Tensor | None = None
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
        quantity: the one that holds dx * y.
        steps: slots that are filled.
        count: elements behind one mean.
    """
    _, slots, channels, programs = partials.shape
    slopes = None
    if is_batch(code):
        slopes = torch.empty((mean.shape[0], 2, channels), dtype=torch.float32, device=partials.device)
    dweight, dbias = (None if x is None else torch.empty_like(x) for x in (weight, bias))
    padded = triton.next_power_of_2(max(1, slots))
    launch(
        _finish_sums_kernel,
        channels,
        partials.device,
        num_warps=4,
        partials=partials,
        mean=mean.contiguous(),
        spread=spread.contiguous(),
        eps=float(eps),
        slopes=slopes,
        dweight=dweight,
        dbias=dbias,
        count=float(count),
        steps=steps,
        slots=slots,
        channels=channels,
        programs=programs,
        QUANTITY=quantity,
        NORM=code,
        STEPS=padded,
        PROGRAMS=max(64, min(512, _ENTRIES // padded)),
    )
    return NormGradients(slopes, dweight, dbias)
