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


class Progress:
    """Listener that a search tells what happens; this one does nothing."""

    def note(self, text: str) -> None:
        """Hear of something worth a line."""

    def epoch(self, report: EpochReport, seconds_left: float) -> None:
        """Hear that an epoch is done; ``seconds_left`` estimates the rest of the search."""

    def level_done(self, level: int, sparsity: float, accuracy: float, seconds: float, ticket: Path) -> None:
        """Hear that a level is done and its ticket written."""

    def close(self) -> None:
        """End, whether the search is done or was stopped; called by whoever runs the search."""
