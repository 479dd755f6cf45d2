"""Batch norm of a sequence, in plain PyTorch: statistics for each timestep, or pooled over time."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from snn_sparse.specs import BatchNormSpec, BatchNormStatistics

Tensor = torch.Tensor


def batch_norm_sequence(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    training: bool,
    factors: Sequence[float],
    eps: float = 1e-5,
    statistics: BatchNormStatistics = "per_step",
) -> Tensor:
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

    def normalise(part: Tensor, factor: float) -> Tensor:
        return F.batch_norm(part, running_mean, running_var, weight, bias, use_batch, factor, eps)

    if statistics == "pooled" or not use_batch:
        return normalise(x.flatten(0, 1), factors[0] if use_batch else 0.0).unflatten(0, x.shape[:2])
    return torch.stack([normalise(x_t, f) for x_t, f in zip(x.unbind(0), factors, strict=True)])


@dataclass(frozen=True)
class Norm:
    """One batch norm at work: its specification and its tensors ``[C]``.

    Attributes:
        spec: which statistics normalise.
        weight, bias: affine parameters, or None.
        running_mean, running_var: moved in place unless frozen; None: not tracked.
        factors: shares of the new statistics in the updates (see :func:`batch_norm_sequence`); unread if frozen.
        parts: float32 ``[3, C, T, parts]``: count, mean and sum of squared deviations of parts of the input, where the
            kernel that has written it gave them; the input is not read for its statistics then.
        shift: a bias that the input lacks, since the batch's mean would take it away again; the running mean has it.
        repeat: how often a constant input was shown: the running variance counts so many values (``pooled`` only).
    """

    spec: BatchNormSpec
    weight: Tensor | None = None
    bias: Tensor | None = None
    running_mean: Tensor | None = None
    running_var: Tensor | None = None
    factors: tuple[float, ...] = ()
    parts: Tensor | None = None
    shift: Tensor | None = None
    repeat: int = 1

    def plain(self, x: Tensor) -> Tensor:
        """Normalise ``x [T, N, C, H, W]`` in plain PyTorch."""
        x = x if self.shift is None else x + self.shift.detach()[:, None, None]
        repeated = self.repeat > 1 and not self.spec.frozen
        y = batch_norm_sequence(
            x.expand(self.repeat, *x.shape[1:]) if repeated else x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training=not self.spec.frozen,
            factors=self.factors,
            eps=self.spec.eps,
            statistics=self.spec.statistics,
        )
        return y[:1] if repeated else y


def plain_statistics(
    y: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    factors: Sequence[float],
    pooled: bool,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Batch mean and ``1 / sqrt(variance + eps)`` of each channel in plain PyTorch; moves the running statistics.

    Args:
        y: ``[T, N, C, H, W]``.
        running_mean: ``[C]``, moved in place in order of t; None: not tracked.
        running_var: likewise, towards the unbiased variance, as torch's.
        factors: share of the new statistics in each update.
        pooled: whether all timesteps share their statistics.
        eps: added to the biased variance.

    Returns:
        twice ``[T, C]``, or ``[1, C]`` if pooled; float32 for half precision.
    """
    exact = y.float() if y.dtype in (torch.float16, torch.bfloat16) else y
    sets = exact.flatten(0, 1).unsqueeze(0) if pooled else exact
    variance, mean = torch.var_mean(sets, (1, 3, 4), correction=0)
    count = sets[0, :, 0].numel()
    if running_mean is not None and running_var is not None:
        for t, factor in enumerate(factors):
            running_mean.lerp_(mean[t].to(running_mean.dtype), factor)
            running_var.lerp_((variance[t] * (count / (count - 1))).to(running_var.dtype), factor)
    return mean, torch.rsqrt(variance + eps)
