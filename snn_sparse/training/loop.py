"""Train one epoch, evaluate a network. Knows nothing of pruning: a mask keeps its weights at zero by itself."""

import math
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from snn_sparse.ops import predict
from snn_sparse.training.data import ImageSet, batch_bounds
from snn_sparse.training.distributed import Group
from snn_sparse.training.step import TrainStep, autocast, check_precision, upcast
from snn_sparse.tuning import choosing

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
    group: Group | None = None,
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
        group: processes that share the batches: each brings its pieces, and a ``step`` that reduces gradients and loss.
            The buffers (running statistics) of rank 0 become those of all.

    Returns:
        mean loss over the images, those of all processes.

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
    total, images = float(sums.loss), sums.images
    if group is not None and group.size > 1:
        both = torch.tensor([total, images], dtype=torch.float64, device=group.device)
        total, images = group.all_reduce_sum(both).tolist()
        group.broadcast_(model.buffers())
    mean = total / max(images, 1)
    check_finite(model, mean)
    return mean


def check_finite(model: nn.Module, loss: float) -> None:
    """Raise a NonFiniteLossError unless the loss and all parameters and buffers of ``model`` are finite."""
    if not math.isfinite(loss):
        raise NonFiniteLossError(f"loss became {loss}")
    for name, p in (*model.named_parameters(), *model.named_buffers()):
        if not bool(p.isfinite().all()):
            raise NonFiniteLossError(f"{name} is no longer finite, though the loss ({loss:.4f}) is")


def dealt(
    batches: Batches, sizes: Sequence[int], group: Group
) -> Generator[tuple[torch.Tensor, torch.Tensor], None, None]:
    """Pass on this rank's pieces of batches; layers are not timed for those that differ from rank to rank.

    What rank 0 times is for all (see :class:`snn_sparse.training.SharedPlans`), if they compute the same sizes.

    Args:
        batches: this rank's pieces.
        sizes: images of each whole batch.
        group: the processes.
    """
    for size, batch in zip(sizes, batches, strict=True):
        if size % group.size:
            with choosing(timed=False):
                yield batch
        else:
            yield batch


@torch.no_grad()
def evaluate(
    model: nn.Module,
    data: ImageSet,
    batch_size: int = 256,
    dtype: torch.dtype = torch.float32,
    group: Group | None = None,
) -> float:
    """Accuracy in percent, in eval mode; the mode is put back afterwards.

    Args:
        model: evaluated; of sequences it is shown its first ``timesteps`` frames, where it has such an attribute.
        data: images and labels.
        batch_size: images at once, on each process.
        dtype: float32, or bfloat16: under ``torch.autocast``.
        group: processes that share the images; each returns the accuracy on all.

    Raises:
        ValueError: another ``dtype``, ``batch_size`` below 1, or sequences shorter than the model's ``timesteps``.
    """
    check_precision(dtype)
    group = Group() if group is None else group
    was_training = model.training
    model.eval()
    correct = torch.zeros((), dtype=torch.int64, device=data.images.device)
    timesteps = getattr(model, "timesteps", None)
    whole = batch_size * group.size
    sizes = [part.stop - part.start for part in batch_bounds(len(data), whole)]
    for x, y in dealt(data.batches(whole, shard=group.shard, timesteps=timesteps), sizes, group):
        if not len(y):  # fewer images than processes
            continue
        with autocast(x.device, dtype):
            logits = model(x)
        correct += (predict(upcast(logits)) == y).sum()
    model.train(was_training)
    return 100.0 * int(group.all_reduce_sum(correct)) / len(data)
