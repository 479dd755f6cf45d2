"""Batch norm of a sequence: statistics for each timestep, or pooled over time."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F

BatchNormStatistics = Literal["per_step", "pooled"]


def check_statistics(statistics: str) -> BatchNormStatistics:
    """``statistics`` if it is one of the two kinds, else a ValueError that names them."""
    if statistics not in get_args(BatchNormStatistics):
        raise ValueError(f"bn_statistics must be one of {', '.join(get_args(BatchNormStatistics))}, got {statistics!r}")
    return statistics  # type: ignore[return-value]


def batch_norm_sequence(
    x: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    *,
    training: bool,
    factors: Sequence[float],
    eps: float = 1e-5,
    statistics: BatchNormStatistics = "per_step",
) -> torch.Tensor:
    """Normalise ``[T, N, C, ...]`` by channel.

    ``per_step``: each timestep has its own batch statistics, and the running statistics move T times, in order of t
    (the published networks). ``pooled``: one set of statistics over T and N, one move (SpikingJelly's multi-step
    layers).

    Args:
        x: ``[T, N, C, ...]``.
        running_mean: ``[C]``, updated in place when training; ``None``: not tracked.
        running_var: likewise.
        weight: ``[C]`` or ``None``.
        bias: ``[C]`` or ``None``.
        training: whether batch statistics are used (always so without running statistics).
        factors: share of the new statistics in each update: T of them per step, one if pooled.
        eps: added to the variance.
        statistics: ``per_step`` or ``pooled``.

    Raises:
        ValueError: ``x`` has fewer than three dimensions, or ``factors`` has the wrong length.
    """
    if x.dim() < 3 or x.shape[0] == 0:
        raise ValueError(f"x must be [T, N, C, ...] with T >= 1, got shape {tuple(x.shape)}")
    use_batch = training or running_mean is None
    expected = x.shape[0] if statistics == "per_step" else 1
    if use_batch and len(factors) != expected:
        raise ValueError(f"factors must hold {expected} numbers for statistics={statistics!r}, got {len(factors)}")

    def normalise(part: torch.Tensor, factor: float) -> torch.Tensor:
        return F.batch_norm(part, running_mean, running_var, weight, bias, use_batch, factor, eps)

    if statistics == "pooled" or not use_batch:
        return normalise(x.flatten(0, 1), factors[0] if use_batch else 0.0).unflatten(0, x.shape[:2])
    return torch.stack([normalise(x_t, f) for x_t, f in zip(x.unbind(0), factors, strict=True)])
