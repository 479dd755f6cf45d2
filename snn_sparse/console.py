"""Terminal output of the command line: tables, and the progress of a search."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from snn_sparse.reports.compare import duration
from snn_sparse.tickets.progress import EpochReport, Progress

UNLIMITED = 10_000  # columns of a file or pipe, where nothing needs to fit


def make_console(stream: TextIO | None = None) -> Console:
    """Console on ``stream`` (standard output if left out) that prints text as it is: no markup, no cut lines."""
    stream = stream or sys.stdout
    width = None if stream.isatty() else UNLIMITED
    return Console(file=stream, width=width, markup=False, emoji=False, highlight=False, soft_wrap=True)


def print_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], stream: TextIO | None = None, left: int = 1
) -> None:
    """Print a table: first column to the left, the others to the right; a narrow terminal folds cells, nothing is cut.

    Args:
        header: names of the columns.
        rows: one cell a column.
        stream: where to write; standard output if left out.
        left: how many of the first columns are set to the left.
    """
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    for i, name in enumerate(header):
        table.add_column(name, justify="left" if i < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    make_console(stream).print(table, soft_wrap=False)


class ConsoleProgress(Progress):
    """Progress on a terminal: one line that moves with every epoch; elsewhere a line every ``print_freq`` epochs.

    Args:
        levels: number of levels, for "level 2/7".
        print_freq: epochs between two lines that stay.
        stream: where to write; standard output if left out.
    """

    def __init__(self, levels: int, print_freq: int = 50, stream: TextIO | None = None) -> None:
        self.levels = levels
        self.print_freq = print_freq
        self.console = make_console(stream)
        self._accuracy: float | None = None
        self._line: Live | None = None  # the moving line, while there is one

    def note(self, text: str) -> None:
        """Print a line that stays."""
        self.console.print(f"  {text}")

    def epoch(self, report: EpochReport, seconds_left: float) -> None:
        """Show level, sparsity, epoch, T, loss, accuracy and time left."""
        self._accuracy = report.accuracy if report.accuracy is not None else self._accuracy
        shown = "      -" if self._accuracy is None else f"{self._accuracy:5.2f} %"
        line = (
            f"  level {report.level}/{self.levels - 1}  {report.sparsity:5.2f} % pruned  "
            f"epoch {report.epoch}/{report.epochs}  T={report.timesteps}  loss {report.loss:.4f}  accuracy {shown}  "
            f"left {duration(seconds_left)}"
        )
        if report.epoch % self.print_freq == 0:
            self.close()
            self.console.print(line)
        elif self.console.is_terminal:
            self._move(line)

    def _move(self, line: str) -> None:
        if self._line is None:
            self._line = Live(console=self.console, auto_refresh=False, transient=True)
            self._line.start()
        self._line.update(Text(line), refresh=True)

    def level_done(self, level: int, sparsity: float, accuracy: float, seconds: float, ticket: Path) -> None:
        """Print a line with the result and the ticket's path."""
        self._accuracy = None
        self.close()
        self.console.print(
            f"  level {level}: {sparsity:.2f} % pruned, accuracy {accuracy:.2f} %, {duration(seconds)} -> {ticket}"
        )

    def close(self) -> None:
        """Take the moving line away and give the terminal back as it was."""
        if self._line is not None:
            self._line.stop()
            self._line = None
