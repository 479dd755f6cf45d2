"""Optimizers and learning-rate schedules, with the published settings."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR

from snn_sparse.training.live import live_optimizer

OptimizerName = Literal["sgd", "adam"]
SchedulerName = Literal["cosine", "step"]


def make_optimizer(
    model: nn.Module,
    name: OptimizerName,
    learning_rate: float,
    momentum: float = 0.9,
    weight_decay: float | None = None,
    keep: Mapping[str, torch.Tensor] | None = None,
) -> torch.optim.Optimizer:
    """Make SGD with momentum, or Adam: on a CPU of the live weights only, on a GPU torch's fused ones.

    On a GPU the learning rate is a tensor, so that a CUDA graph that holds a step reads it anew.

    Args:
        model: its parameters are optimized.
        name: ``sgd`` or ``adam``.
        learning_rate: at the first epoch.
        momentum: of SGD.
        weight_decay: ``None``: as published, 5e-4 for SGD and none for Adam.
        keep: entries to update, by parameter name (see :func:`live_optimizer`); ``None``: all. Gradients must be zero
            elsewhere, as :meth:`snn_sparse.Mask.apply_` sees to.

    Raises:
        ValueError: unknown name.
    """
    options: dict[str, Any]
    if name == "sgd":
        kind: type[torch.optim.Optimizer] = torch.optim.SGD
        options = {"momentum": momentum, "weight_decay": 5e-4 if weight_decay is None else weight_decay}
    elif name == "adam":
        kind, options = torch.optim.Adam, {"weight_decay": weight_decay or 0.0}
    else:
        raise ValueError(f"unknown optimizer {name!r}: choose from sgd, adam")
    parameters = list(model.parameters())
    if all(p.is_cuda for p in parameters):
        rate = torch.tensor(learning_rate, device=parameters[0].device)
        options |= {"capturable": True} if name == "adam" else {}
        return kind(parameters, lr=rate, fused=True, **options)  # type: ignore[call-arg]
    if keep is not None:
        return live_optimizer(kind, model, keep, lr=learning_rate, **options)
    return kind(parameters, lr=learning_rate, **options)  # type: ignore[call-arg]


def make_scheduler(optimizer: torch.optim.Optimizer, name: SchedulerName, epochs: int) -> LRScheduler:
    """Make a schedule, stepped once an epoch: cosine to zero, or 0.1 at half and three quarters of ``epochs``.

    Raises:
        ValueError: unknown name.
    """
    if name == "cosine":
        return CosineAnnealingLR(optimizer, T_max=max(1, epochs))
    if name == "step":
        return MultiStepLR(optimizer, [int(epochs * 0.5), int(epochs * 0.75)], gamma=0.1)
    raise ValueError(f"unknown scheduler {name!r}: choose from cosine, step")
