"""Loss and prediction of a network that answers at every timestep."""

import torch
import torch.nn.functional as F

from snn_sparse.specs import check_kind

_NO_CLASS = torch.iinfo(torch.int64).min  # in place of torch's -100, so that no wrong label is left out in silence


def _check_logits(logits: torch.Tensor) -> None:
    if not isinstance(logits, torch.Tensor) or logits.dim() != 3 or logits.shape[0] == 0 or logits.shape[2] == 0:
        shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ValueError(f"logits must be [T, N, K] with T, K >= 1, got {shape}")


def _check_labels(y: torch.Tensor, logits: torch.Tensor) -> None:
    """Raise unless labels fit the logits; reads no value, so that the host never waits for a GPU."""
    check_kind("y", y, torch.Tensor)
    if y.dtype != torch.int64:
        raise TypeError(f"y must hold class indices, int64, got {y.dtype}")
    if y.shape != logits.shape[1:2]:
        raise ValueError(f"y must be [N] with N = {logits.shape[1]}, got {tuple(y.shape)}")
    if y.shape[0] == 0:
        raise ValueError("y must hold at least one label: the loss is a mean")
    if y.device != logits.device:
        raise ValueError(f"y must be on {logits.device}, where the logits are, got {y.device}")


def temporal_cross_entropy(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """``sum_t CE(logits[t], y) / T``: every timestep is asked for the right answer.

    A label outside 0 .. K - 1 is a ValueError on a CPU. On a GPU, where the host must not wait, it fails torch's own
    assertion on the device, which ends the process's use of that GPU.

    Args:
        logits: ``[T, N, K]``, floating point.
        y: ``[N]`` class indices from 0 to K - 1, int64, N >= 1.

    Returns:
        a scalar.

    Raises:
        ValueError: shapes that do not fit, a label out of range (on a CPU), another device. TypeError: wrong dtypes.
    """
    _check_logits(logits)
    if not logits.is_floating_point():
        raise TypeError(f"logits must be floating point, got {logits.dtype}")
    _check_labels(y, logits)
    timesteps, n, k = logits.shape
    try:
        return F.cross_entropy(logits.reshape(timesteps * n, k), y.repeat(timesteps), ignore_index=_NO_CLASS)
    except IndexError as error:  # torch looks at each label on a CPU anyway
        raise ValueError(f"y must hold classes from 0 to {k - 1}: {error}") from None


def predict(logits: torch.Tensor) -> torch.Tensor:
    """Class ``argmax_k sum_t logits[t]`` of every sample: ``[T, N, K]`` -> ``[N]`` int64.

    Raises:
        ValueError: another shape, or T or K is 0. TypeError: complex numbers.
    """
    _check_logits(logits)
    if logits.is_complex():
        raise TypeError(f"logits must be real, got {logits.dtype}")
    return logits.sum(0).argmax(-1)
