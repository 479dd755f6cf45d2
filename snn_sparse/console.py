"""What the command line shows while a search runs."""

import sys
from pathlib import Path
from typing import TextIO

from snn_sparse.reports.compare import duration
from snn_sparse.tickets.progress import EpochReport, Progress


class ConsoleProgress(Progress):
    """On a terminal one line that moves with every epoch; elsewhere a line every ``print_freq`` epochs.

    Args:
        levels: number of levels, for "level 2/7".
        print_freq: epochs between two lines that stay.
        stream: where to write; standard output if left out.
    """

    def __init__(self, levels: int, print_freq: int = 50, stream: TextIO | None = None) -> None:
        self.levels = levels
        self.print_freq = print_freq
        self.stream = stream or sys.stdout
        self.live = self.stream.isatty()
        self._accuracy: float | None = None
        self._pending = 0  # width of the moving line

    def _write(self, text: str, moving: bool = False) -> None:
        start = "\r" if self.live and self._pending else ""
        padded = text.ljust(self._pending) if self.live else text
        self.stream.write(start + padded + ("" if moving else "\n"))
        self._pending = len(text) if moving else 0
        self.stream.flush()

    def note(self, text: str) -> None:
        """A line that stays."""
        self._write(f"  {text}")

    def epoch(self, report: EpochReport, seconds_left: float) -> None:
        """Level, sparsity, epoch, T, loss, accuracy and time left."""
        self._accuracy = report.accuracy if report.accuracy is not None else self._accuracy
        shown = "      -" if self._accuracy is None else f"{self._accuracy:5.2f} %"
        line = (
            f"  level {report.level}/{self.levels - 1}  {report.sparsity:5.2f} % pruned  "
            f"epoch {report.epoch}/{report.epochs}  T={report.timesteps}  loss {report.loss:.4f}  accuracy {shown}  "
            f"left {duration(seconds_left)}"
        )
        if report.epoch % self.print_freq == 0:
            self._write(line)
        elif self.live:
            self._write(line, moving=True)

    def level_done(self, level: int, sparsity: float, accuracy: float, seconds: float, ticket: Path) -> None:
        """A line with the result and the ticket's path."""
        self._accuracy = None
        self._write(
            f"  level {level}: {sparsity:.2f} % pruned, accuracy {accuracy:.2f} %, {duration(seconds)} -> {ticket}"
        )
