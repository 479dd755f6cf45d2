"""Progress that a search tells of while it runs. The base class is silent; the command line prints."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class EpochReport:
    """Line of ``metrics.jsonl``: one epoch.

    Attributes:
        level, epoch, epochs: where the search stands; epochs count from 1.
        loss: mean training loss.
        accuracy: of the test set in percent, or None where it was not measured.
        sparsity: share of pruned weights in percent.
        timesteps: T of the training.
        learning_rate: of this epoch.
        seconds: wall time of this epoch, evaluation included.
    """

    level: int
    epoch: int
    epochs: int
    loss: float
    accuracy: float | None
    sparsity: float
    timesteps: int
    learning_rate: float
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class BatchReport:
    """Where a search stands after a batch.

    Attributes:
        level, epoch, epochs: as in :class:`EpochReport`.
        batch, batches: of this epoch; batches count from 1.
        images: of this epoch that are done.
        epochs_left: of the whole search, after this one.
        sparsity: share of pruned weights in percent.
        timesteps: T of the training.
    """

    level: int
    epoch: int
    epochs: int
    batch: int
    batches: int
    images: int
    epochs_left: int
    sparsity: float
    timesteps: int


class Progress:
    """Listener that a search tells what happens; this one does nothing."""

    def batch(self, report: BatchReport) -> None:
        """Hear that a batch is done; called after every step, so it must cost next to nothing."""

    def note(self, text: str) -> None:
        """Hear of something worth a line."""

    def epoch(self, report: EpochReport, seconds_left: float) -> None:
        """Hear that an epoch is done; ``seconds_left`` estimates the rest of the search."""

    def level_done(self, level: int, sparsity: float, accuracy: float, seconds: float, ticket: Path) -> None:
        """Hear that a level is done and its ticket written."""

    def close(self) -> None:
        """End, whether the search is done or was stopped; called by whoever runs the search."""


class Together(Progress):
    """Several listeners that hear the same.

    Args:
        listeners: told one after the other.
    """

    def __init__(self, *listeners: Progress) -> None:
        self.listeners = listeners

    def batch(self, report: BatchReport) -> None:
        """Pass on a batch."""
        for listener in self.listeners:
            listener.batch(report)

    def note(self, text: str) -> None:
        """Pass on a line."""
        for listener in self.listeners:
            listener.note(text)

    def epoch(self, report: EpochReport, seconds_left: float) -> None:
        """Pass on an epoch."""
        for listener in self.listeners:
            listener.epoch(report, seconds_left)

    def level_done(self, level: int, sparsity: float, accuracy: float, seconds: float, ticket: Path) -> None:
        """Pass on a finished level."""
        for listener in self.listeners:
            listener.level_done(level, sparsity, accuracy, seconds, ticket)

    def close(self) -> None:
        """Close all."""
        for listener in self.listeners:
            listener.close()
