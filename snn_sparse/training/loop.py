"""Train one epoch, evaluate a network. Knows nothing of pruning: a mask keeps its weights at zero by itself."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import nn

from snn_sparse.ops import predict
from snn_sparse.training.data import ImageSet
from snn_sparse.training.step import TrainStep, autocast, check_precision, upcast

Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]


class NonFiniteLossError(RuntimeError):
    """The training loss, a weight or a buffer became NaN or infinite."""


@dataclass
class Sums:
    """An epoch so far.

    Attributes:
        batches: number of them that are done.
        loss: sum over their images.
        images: number of these.
        seconds: for whoever counts them.
    """

    batches: int = 0
    loss: torch.Tensor | float = 0.0
    images: int = 0
    seconds: float = 0.0

    def describe(self) -> str:
        """Name the batches done, if there are any."""
        return f" and {self.batches} batches" if self.batches else ""


def train_epoch(
    model: nn.Module,
    batches: Batches,
    optimizer: torch.optim.Optimizer,
    step: TrainStep | None = None,
    sums: Sums | None = None,
    after_step: Callable[[], None] | None = None,
) -> float:
    """One pass over ``batches``.

    Args:
        model: trained, in training mode.
        batches: images and labels, as :class:`TrainStep` takes them.
        optimizer: of its parameters.
        step: of this model and optimizer, kept from epoch to epoch where steps are captured; ``None``: steps run as
            usual, in float32.
        sums: of the batches of this epoch that were done before; those of ``batches`` are added.
        after_step: called after every step; an error ends the epoch there, and ``sums`` say where.

    Returns:
        mean loss over the images.

    Raises:
        ValueError: ``step`` belongs to another model or optimizer.
        NonFiniteLossError: the loss of some batch was NaN or infinite, or a weight or buffer is (a NaN membrane
            potential never spikes, so the loss may not tell). Looked at once, after the epoch, so that nothing waits
            for the device.
    """
    step = TrainStep(model, optimizer, graph=False) if step is None else step
    if step.model is not model or step.optimizer is not optimizer:
        raise ValueError("step belongs to another model or optimizer")
    model.train()
    sums = Sums() if sums is None else sums
    for x, y in batches:
        sums.loss, sums.images, sums.batches = sums.loss + step(x, y) * len(y), sums.images + len(y), sums.batches + 1
        if after_step is not None:
            after_step()
    mean = float(sums.loss) / max(sums.images, 1)
    check_finite(model, mean)
    return mean


def check_finite(model: nn.Module, loss: float) -> None:
    """Raise a NonFiniteLossError unless the loss and all parameters and buffers of ``model`` are finite."""
    if not math.isfinite(loss):
        raise NonFiniteLossError(f"loss became {loss}")
    for name, p in (*model.named_parameters(), *model.named_buffers()):
        if not bool(p.isfinite().all()):
            raise NonFiniteLossError(f"{name} is no longer finite, though the loss ({loss:.4f}) is")


@torch.no_grad()
def evaluate(model: nn.Module, data: ImageSet, batch_size: int = 256, dtype: torch.dtype = torch.float32) -> float:
    """Accuracy in percent, in eval mode; the mode is put back afterwards.

    Args:
        model: evaluated; of sequences it is shown its first ``timesteps`` frames, where it has such an attribute.
        data: images and labels.
        batch_size: images at once.
        dtype: float32, or bfloat16: under ``torch.autocast``.

    Raises:
        ValueError: another ``dtype``, ``batch_size`` below 1, or sequences shorter than the model's ``timesteps``.
    """
    check_precision(dtype)
    was_training = model.training
    model.eval()
    correct = torch.zeros((), dtype=torch.int64, device=data.images.device)
    for x, y in data.batches(batch_size, timesteps=getattr(model, "timesteps", None)):
        with autocast(x.device, dtype):
            logits = model(x)
        correct += (predict(upcast(logits)) == y).sum()
    model.train(was_training)
    return 100.0 * int(correct) / len(data)
