"""Batch statistics of a sequence, and how they move the running ones.

On an NVIDIA GPU they are an operator, in Triton. It has no gradient: the one through the statistics is part of the
neuron's. On a CPU the neuron finds them itself. ``plain_statistics`` says what they are.
"""

from typing import Any

import torch

from snn_sparse.ops.library import define, implement_in_triton
from snn_sparse.ops.neuron.batch_norm import Norm
from snn_sparse.ops.spikes import MemoryFormat, ordered
from snn_sparse.specs import NORMS

Tensor = torch.Tensor
define(
    "batch_statistics",
    "(Tensor y, Tensor? weight, Tensor? bias, Tensor? parts, Tensor? shift, Tensor(a!)? running_mean, "
    "Tensor(b!)? running_var, float[] factors, bool pooled, float eps) -> (Tensor, Tensor)",
)


def exact_dtype(dtype: torch.dtype) -> torch.dtype:
    """Dtype that kernels compute in: float32, or float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@implement_in_triton("batch_statistics")
def _statistics(y: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    from snn_sparse.ops.neuron.triton_statistics import batch_statistics

    weight, bias, parts, shift, running_mean, running_var, factors, pooled, eps = arguments
    return batch_statistics(
        y,
        eps,
        pooled=pooled,
        weight=weight,
        bias=bias,
        running_mean=running_mean,
        running_var=running_var,
        factors=tuple(factors),
        parts=parts,
        shift=shift,
    )


@torch.library.register_fake("snn_sparse::batch_statistics")
def _fake_statistics(y: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    *_, pooled, _eps = arguments
    sets, channels, dtype = 1 if pooled else y.shape[0], y.shape[2], exact_dtype(y.dtype)
    return y.new_empty((sets, channels), dtype=dtype), y.new_empty((sets, 3, channels), dtype=dtype)


def batch_statistics(x: Tensor, norm: Norm, memory_format: MemoryFormat) -> tuple[Tensor, Tensor]:
    """Statistics of a batch on a GPU, as its kernels read them; moves the running ones of ``norm``.

    Args:
        x: ``[T, N, C, H, W]``.
        norm: not frozen.
        memory_format: that it is read in.

    Returns:
        float32 means ``[T or 1, C]``, and ``[T or 1, 3, C]``: ``1 / sqrt(variance + eps)``, scale and shift of
        ``y * scale + shift``.
    """
    with torch.no_grad():  # the gradient through the statistics is part of the neuron's
        return torch.ops.snn_sparse.batch_statistics(
            ordered(x.detach(), memory_format),
            *(None if p is None else p.detach() for p in (norm.weight, norm.bias)),
            norm.parts,
            None if norm.shift is None else norm.shift.detach(),
            norm.running_mean,
            norm.running_var,
            norm.factors,
            norm.spec.statistics == "pooled",
            norm.spec.eps,
        )


def statistics_of(
    norm: Norm | None, x: Tensor | None, steps: int, memory_format: MemoryFormat, chosen: str
) -> tuple[Tensor | None, Tensor | None, int]:
    """Mean and spread as the operator takes them, and the code of those that it is to find itself (0: none)."""
    if norm is None or x is None:
        return None, None, 0
    if norm.spec.frozen:
        return norm.running_mean, norm.running_var, 0
    if chosen == "cpp":
        _check_running(norm, 1 if norm.spec.statistics == "pooled" else steps)
        return None, None, NORMS[norm.spec.statistics]
    if norm.repeat > 1:  # the kernel counts what it reads
        x = x.expand(norm.repeat, *x.shape[1:])
    return *batch_statistics(x, norm, memory_format), 0


def _check_running(norm: Norm, sets: int) -> None:
    if (norm.running_mean is None) != (norm.running_var is None):
        raise ValueError("running_mean and running_var go together")
    if norm.running_mean is not None and len(norm.factors) != sets:
        raise ValueError(f"factors must be {sets} numbers, one an update, got {len(norm.factors)}")


@torch.no_grad()
def move_running(norm: Norm, mean: Tensor, spread: Tensor, values: int) -> None:
    """Move the running statistics towards those of the batch, in order of the sets, in one step.

    Args:
        norm: with running statistics or without, whose ``factors`` are the shares of the sets.
        mean: ``[sets, C]``.
        spread: ``1 / sqrt(variance + eps)`` of the same sets.
        values: entries of a channel in all sets.

    """
    if norm.running_mean is None or norm.running_var is None:
        return
    kept, shares = 1.0, []
    for factor in reversed(norm.factors):
        shares.append(factor * kept)
        kept *= 1 - factor
    share, count = mean.new_tensor(shares[::-1]), values * norm.repeat / mean.shape[0]
    variance = spread.pow(-2).sub_(norm.spec.eps).clamp_(min=0)  # rounding may leave less than 0
    norm.running_mean.addmv_(mean.t(), share, beta=kept)
    norm.running_var.addmv_(variance.t(), share, beta=kept, alpha=count / (count - 1))
    if norm.shift is not None:
        norm.running_mean.add_(norm.shift, alpha=1 - kept)
