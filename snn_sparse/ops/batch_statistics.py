"""Batch mean and 1/std of each channel as a ``torch.library`` operator that moves the running statistics; Triton only.

It is not differentiable: the gradient through the statistics is part of :func:`snn_sparse.ops.neuron_sequence`'s.
"""

import torch

from snn_sparse.ops.device import factors_on, upcast

Tensor = torch.Tensor
_NAME = "snn_sparse::batch_statistics"
torch.library.define(
    _NAME,
    "(Tensor y, Tensor? parts, Tensor? shift, Tensor(a!)? running_mean, Tensor(b!)? running_var, float[] factors, "
    "bool pooled, float eps) -> (Tensor, Tensor)",
)


def reference(
    y: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    factors: tuple[float, ...],
    pooled: bool,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """What the operator computes, in plain PyTorch.

    Args:
        y: ``[T, N, C, H, W]``.
        running_mean: ``[C]``, moved in place in order of t; None: not tracked.
        running_var: likewise, towards the unbiased variance, as torch's.
        factors: share of the new statistics in each update.
        pooled: whether all timesteps share their statistics.
        eps: added to the biased variance.

    Returns:
        mean and ``1 / sqrt(variance + eps)``, ``[T, C]``, or ``[1, C]`` if pooled; float32 for half precision.
    """
    parts = upcast(y).flatten(0, 1).unsqueeze(0) if pooled else upcast(y)
    variance, mean = torch.var_mean(parts, (1, 3, 4), correction=0)
    count = parts[0, :, 0].numel()
    if running_mean is not None and running_var is not None:
        for t, factor in enumerate(factors):
            running_mean.lerp_(mean[t].to(running_mean.dtype), factor)
            running_var.lerp_((variance[t] * (count / (count - 1))).to(running_var.dtype), factor)
    return mean, torch.rsqrt(variance + eps)


@torch.library.impl(_NAME, ("CPU", "CUDA"))
def _statistics(
    y: Tensor,
    parts: Tensor | None,
    shift: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    factors: list[float],
    pooled: bool,
    eps: float,
) -> tuple[Tensor, Tensor]:
    from snn_sparse.kernels.statistics import batch_statistics as run

    shares = factors_on(tuple(factors), y.device) if running_mean is not None else None
    running = {"running_mean": running_mean, "running_var": running_var, "factors": shares}
    return run(y, eps, pooled=pooled, **running, parts=parts, shift=shift)


@torch.library.register_fake(_NAME)
def _fake(
    y: Tensor,
    parts: Tensor | None,
    shift: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    factors: list[float],
    pooled: bool,
    eps: float,
) -> tuple[Tensor, Tensor]:
    shape = (1 if pooled else y.shape[0], y.shape[2])
    return y.new_empty(shape, dtype=torch.float32), y.new_empty(shape, dtype=torch.float32)


def update_statistics(
    y: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    factors: tuple[float, ...],
    *,
    pooled: bool,
    eps: float,
    parts: Tensor | None = None,
    shift: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """:func:`reference` by the kernels; the running statistics are float32.

    With ``parts`` (float32 ``[3, C, T, parts]``, from the kernel that has written ``y``) ``y`` is not read again.
    ``shift`` ``[C]`` is a bias that ``y`` lacks: the running mean takes it up, and nothing else would see it.
    """
    with torch.no_grad():
        how = (running_mean, running_var, factors, pooled, eps)
        return torch.ops.snn_sparse.batch_statistics(y.detach(), parts, shift, *how)
