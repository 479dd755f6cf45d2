"""Train one epoch, evaluate a network. Knows nothing of pruning: a mask keeps its weights at zero by itself."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from snn_sparse.ops import predict, temporal_cross_entropy
from snn_sparse.training.data import ImageSet

Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]


class NonFiniteLossError(RuntimeError):
    """The training loss, or a weight, became NaN or infinite."""


def train_epoch(model: nn.Module, batches: Batches, optimizer: torch.optim.Optimizer) -> float:
    """One pass over ``batches``.

    Returns:
        mean loss over the images.

    Raises:
        NonFiniteLossError: the loss of some batch was NaN or infinite, or a weight is (a NaN membrane potential never
            spikes, so the loss may not tell). Looked at once, after the epoch, so that nothing waits for the device.
    """
    model.train()
    total: torch.Tensor | float = 0.0
    images = 0
    for x, y in batches:
        optimizer.zero_grad(set_to_none=True)
        loss = temporal_cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        total, images = total + loss.detach() * len(y), images + len(y)
    mean = float(total) / max(images, 1)
    if not math.isfinite(mean):
        raise NonFiniteLossError(f"loss became {mean}")
    for name, p in model.named_parameters():
        if not bool(p.isfinite().all()):
            raise NonFiniteLossError(f"{name} is no longer finite, though the loss ({mean:.4f}) is")
    return mean


@torch.no_grad()
def evaluate(model: nn.Module, data: ImageSet, batch_size: int = 256) -> float:
    """Accuracy in percent, in eval mode; the mode is put back afterwards."""
    was_training = model.training
    model.eval()
    correct = torch.zeros((), dtype=torch.int64, device=data.images.device)
    for x, y in data.batches(batch_size):
        correct += (predict(model(x)) == y).sum()
    model.train(was_training)
    return 100.0 * int(correct) / len(data)
