"""Loss and prediction of a network that answers at every timestep."""

import torch
import torch.nn.functional as F


def _check_logits(logits: torch.Tensor) -> None:
    if not isinstance(logits, torch.Tensor) or logits.dim() != 3 or logits.shape[0] == 0:
        shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ValueError(f"logits must be [T, N, K] with T >= 1, got {shape}")


def temporal_cross_entropy(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """``sum_t CE(logits[t], y) / T``: every timestep is asked for the right answer.

    Args:
        logits: ``[T, N, K]``, floating point.
        y: ``[N]`` class indices, int64.

    Returns:
        a scalar.

    Raises:
        ValueError: shapes that do not fit.
    """
    _check_logits(logits)
    if y.dim() != 1 or y.shape[0] != logits.shape[1]:
        raise ValueError(f"y must be [N] with N = {logits.shape[1]}, got {tuple(y.shape)}")
    timesteps, n, _ = logits.shape
    return F.cross_entropy(logits.reshape(timesteps * n, -1), y.repeat(timesteps))


def predict(logits: torch.Tensor) -> torch.Tensor:
    """Class ``argmax_k sum_t logits[t]`` of every sample: ``[T, N, K]`` -> ``[N]`` int64."""
    _check_logits(logits)
    return logits.sum(0).argmax(-1)
