"""What a search tells while it runs. The base class is silent; the command line prints."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class EpochReport:
    """One line of ``metrics.jsonl``.

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
    """Told of what happens; does nothing."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def epoch(self, report: EpochReport, seconds_left: float) -> None:
        """One epoch is done; ``seconds_left`` estimates the rest of the search."""

    def level_done(self, level: int, sparsity: float, accuracy: float, seconds: float, ticket: Path) -> None:
        """A level is done and its ticket written."""
