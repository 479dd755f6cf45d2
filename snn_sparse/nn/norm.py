"""A batch norm module at work: which statistics it takes, and how far its running statistics move."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from snn_sparse.ops import Norm
from snn_sparse.specs import BatchNormSpec, BatchNormStatistics


@dataclass(frozen=True)
class NormSettings:
    """How a batch norm is called with a sequence.

    Attributes:
        statistics: ``per_step`` or ``pooled``.
        updates: moves of the running statistics; None: one for each set of statistics.
        repeat: how often a constant batch was shown to it at once: it counts so many values.
    """

    statistics: BatchNormStatistics = "per_step"
    updates: int | None = None
    repeat: int = 1


def uses_batch(norm: Any) -> bool:
    """Whether the batch's own statistics normalise."""
    return norm.training or norm.running_mean is None


def update_factors(norm: Any, updates: int) -> list[float]:
    """Share of the new statistics in each of the next ``updates`` updates; counts them as done when training."""
    if not (norm.training and norm.track_running_stats):
        return [0.0] * updates
    norm.num_batches_tracked.add_(updates)
    if norm.momentum is not None:
        return [norm.momentum] * updates
    done = int(norm.num_batches_tracked)
    return [1.0 / n for n in range(done - updates + 1, done + 1)]


def at_work(norm: nn.Module, settings: NormSettings, steps: int) -> Norm:
    """Describe a batch norm to an operator; counts the updates of the running statistics that it will make.

    Args:
        norm: of torch, SpikingJelly or ours.
        settings: how it is called.
        steps: of its input.
    """
    module: Any = norm
    sets = steps if settings.statistics == "per_step" else 1
    updates = settings.updates or sets
    factors = update_factors(module, updates)
    if updates != sets:  # the same statistics several times: as one longer move
        kept = 1.0
        for factor in factors:
            kept *= 1 - factor
        factors = [1 - kept]
    spec = BatchNormSpec(settings.statistics, module.eps, not uses_batch(module))
    moves = module.training and module.track_running_stats
    mean, variance = (module.running_mean, module.running_var) if moves or not uses_batch(module) else (None, None)
    shares = tuple(factors)
    return Norm(spec, module.weight, module.bias, mean, variance, shares, repeat=settings.repeat)
