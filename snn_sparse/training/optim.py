"""Optimizers and learning-rate schedules, with the published settings."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR

from snn_sparse.ops.device import kernels_run
from snn_sparse.training.fused_optimizer import FusedAdam, FusedSGD
from snn_sparse.training.live import live_optimizer

OptimizerName = Literal["sgd", "adam"]
SchedulerName = Literal["cosine", "step"]


def make_optimizer(
    model: nn.Module,
    name: OptimizerName,
    learning_rate: float,
    momentum: float = 0.9,
    weight_decay: float | None = None,
    alive: Mapping[str, torch.Tensor] | None = None,
) -> torch.optim.Optimizer:
    """SGD with momentum, or Adam: one kernel launch a step on an NVIDIA GPU where kernels run, else torch's.

    Args:
        model: its parameters are optimized.
        name: ``sgd`` or ``adam``.
        learning_rate: at the first epoch.
        momentum: of SGD.
        weight_decay: ``None``: as published, 5e-4 for SGD and none for Adam.
        alive: entries to update, by parameter name (see :func:`live_optimizer` and :class:`FusedSGD`); ``None``: all.

    Raises:
        ValueError: unknown name.
    """
    if name == "sgd":
        decay = 5e-4 if weight_decay is None else weight_decay
        kind: type[torch.optim.Optimizer] = torch.optim.SGD
        options: dict[str, Any] = {"lr": learning_rate, "momentum": momentum, "weight_decay": decay}
    elif name == "adam":
        kind, options = torch.optim.Adam, {"lr": learning_rate, "weight_decay": weight_decay or 0.0}
    else:
        raise ValueError(f"unknown optimizer {name!r}: choose from sgd, adam")
    if _kernels_take(model):
        return (FusedSGD if name == "sgd" else FusedAdam)(model, alive, **options)
    if alive is not None:
        return live_optimizer(kind, model, alive, **options)
    return kind(model.parameters(), **options)


def _kernels_take(model: nn.Module) -> bool:
    """Whether a fused optimizer can hold all parameters: float32, dense, on one GPU where its kernel runs."""
    parameters = list(model.parameters())
    return (
        len({p.device for p in parameters}) == 1
        and all(p.is_cuda and p.dtype == torch.float32 for p in parameters)
        and all(torch.empty_like(p, device="meta").stride() == p.stride() for p in parameters)
        and kernels_run(parameters[0], "optimizer")
    )


def make_scheduler(optimizer: torch.optim.Optimizer, name: SchedulerName, epochs: int) -> LRScheduler:
    """Cosine to zero over ``epochs``, or steps of 0.1 at half and three quarters of them; stepped once an epoch.

    Raises:
        ValueError: unknown name.
    """
    if name == "cosine":
        return CosineAnnealingLR(optimizer, T_max=max(1, epochs))
    if name == "step":
        return MultiStepLR(optimizer, [int(epochs * 0.5), int(epochs * 0.75)], gamma=0.1)
    raise ValueError(f"unknown scheduler {name!r}: choose from cosine, step")
