"""How long the published search (IMP, 15 levels) would take at measured step times."""

from collections.abc import Mapping

from snn_sparse.tickets.settings import SPARSITIES

PUBLISHED_HOURS = 52.0  # on one RTX 2080 Ti: Kim et al., ECCV 2022
PUBLISHED_CASE = "train-step vgg16 3x32x32 T=5"  # the case that this is to be compared with
_FIRST_EPOCHS, _LATER_EPOCHS = 300, 280
_IMAGES = 50_000


def step_seconds(measured: Mapping[float, float], sparsity: float) -> float:
    """Seconds of a step at a sparsity in percent: on the line between its neighbours, level outside them.

    Raises:
        ValueError: nothing was measured.
    """
    if not measured:
        raise ValueError("measured must hold at least one step time")
    known = sorted(measured)
    below = max((s for s in known if s <= sparsity), default=known[0])
    above = min((s for s in known if s >= sparsity), default=known[-1])
    if below == above or not below <= sparsity <= above:
        return measured[below if sparsity >= below else above]
    share = (sparsity - below) / (above - below)
    return measured[below] + share * (measured[above] - measured[below])


def search_hours(measured: Mapping[float, float], batch_size: int) -> float:
    """Hours of all training steps: 300 epochs of the dense network, 280 at each of 14 sparser levels.

    Args:
        measured: seconds of a training step by sparsity in percent; 0 is the dense network.
        batch_size: images a step; the last step of an epoch counts as a whole one.

    Raises:
        ValueError: nothing was measured, or ``batch_size`` below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    steps = -(-_IMAGES // batch_size)
    epochs = [_FIRST_EPOCHS] + [_LATER_EPOCHS] * (len(SPARSITIES) - 1)
    seconds = sum(e * steps * step_seconds(measured, s) for e, s in zip(epochs, SPARSITIES, strict=True))
    return seconds / 3600
