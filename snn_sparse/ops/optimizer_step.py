"""One step of SGD or Adam on one masked tensor, in plain PyTorch: what the fused optimizer's kernel computes.

The numbers are those of ``torch.optim.SGD`` and ``torch.optim.Adam``. Where ``alive`` is false, weight, gradient and
state are neither read for anything nor written: a pruned entry stays as it is (zero), whatever its gradient.
"""

from typing import Any

import torch

Tensor = torch.Tensor


@torch.no_grad()
def sgd_step(
    weight: Tensor,
    gradient: Tensor,
    momentum_buffer: Tensor | None = None,
    *,
    lr: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    alive: Tensor | None = None,
) -> None:
    """``torch.optim.SGD`` without dampening, in place.

    Args:
        weight: any shape, floating point; updated.
        gradient: like ``weight``; only read.
        momentum_buffer: like ``weight``, zeros before the first step; updated. Needed if there is momentum.
        lr: learning rate.
        momentum: factor of the old momentum buffer.
        weight_decay: factor of the weight that is added to its gradient.
        nesterov: whether to look ahead by one more momentum.
        alive: bool, like ``weight``: the entries to update; None: all.

    Raises:
        ValueError: shapes that differ, or no ``momentum_buffer`` though there is momentum.
        TypeError: ``alive`` is not bool.
    """
    entries = _entries(weight, alive, gradient=gradient, momentum_buffer=momentum_buffer)
    if momentum and momentum_buffer is None:
        raise ValueError("momentum_buffer must be given where momentum is not 0")
    update = _decayed(gradient[entries], weight[entries], weight_decay)
    if momentum and momentum_buffer is not None:
        moved = momentum * momentum_buffer[entries] + update
        momentum_buffer[entries] = moved
        update = update + momentum * moved if nesterov else moved
    weight[entries] = weight[entries] - lr * update


@torch.no_grad()
def adam_step(
    weight: Tensor,
    gradient: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    step: int,
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    alive: Tensor | None = None,
) -> None:
    """``torch.optim.Adam`` without AMSGrad, in place.

    Args:
        weight: any shape, floating point; updated.
        gradient: like ``weight``; only read.
        exp_avg: like ``weight``, running mean of the gradient, zeros before the first step; updated.
        exp_avg_sq: likewise of its square.
        step: number of this step, the first is 1.
        lr: learning rate.
        betas: shares of the old running means.
        eps: added to the root of the mean square.
        weight_decay: factor of the weight that is added to its gradient (L2 penalty).
        alive: bool, like ``weight``: the entries to update; None: all.

    Raises:
        ValueError: shapes that differ, or a step below 1.
        TypeError: ``alive`` is not bool.
    """
    entries = _entries(weight, alive, gradient=gradient, exp_avg=exp_avg, exp_avg_sq=exp_avg_sq)
    if step < 1:
        raise ValueError(f"step must be at least 1, got {step}")
    g = _decayed(gradient[entries], weight[entries], weight_decay)
    mean = torch.lerp(exp_avg[entries], g, 1 - betas[0])
    square = betas[1] * exp_avg_sq[entries] + (1 - betas[1]) * g * g
    exp_avg[entries], exp_avg_sq[entries] = mean, square
    root = square.sqrt() / (1 - betas[1] ** step) ** 0.5
    weight[entries] = weight[entries] - lr / (1 - betas[0] ** step) * (mean / (root + eps))


def _entries(weight: Tensor, alive: Tensor | None, **others: Tensor | None) -> Any:
    """The index of the entries to update, if all shapes fit."""
    for name, x in {"alive": alive, **others}.items():
        if x is not None and x.shape != weight.shape:
            raise ValueError(f"{name} must have the weight's shape {tuple(weight.shape)}, got {tuple(x.shape)}")
    if alive is not None and alive.dtype != torch.bool:
        raise TypeError(f"alive must be bool, got {alive.dtype}")
    return ... if alive is None else alive


def _decayed(gradient: Tensor, weight: Tensor, weight_decay: float) -> Tensor:
    return gradient + weight_decay * weight if weight_decay else gradient
