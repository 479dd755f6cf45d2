"""Terminal output of the command line: tables, and the progress of a search."""

import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from snn_sparse.reports.compare import duration
from snn_sparse.tickets.progress import BatchReport, EpochReport, Progress

BAR = 24  # columns of a bar
SECONDS_BETWEEN_FRAMES = 0.25  # of the live display; drawing one takes about 2 ms
SECONDS_BETWEEN_LINES = 1.0  # of progress, at least
SECONDS_OF_SILENCE = 30.0  # after which a long epoch shows life where there is no live display
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
    """Progress of a search: bars that move on a terminal; elsewhere plain lines, at most one a second.

    On a terminal, bars of levels, epochs and batches with images a second and time left. Everywhere a line that stays
    every ``print_freq`` epochs; away from a terminal also whenever 30 seconds have passed without one.

    Args:
        levels: number of levels, for "level 2/7".
        print_freq: epochs between two lines that stay.
        stream: where to write; standard output if left out.
        clock: seconds, as ``time.monotonic`` counts them.
    """

    def __init__(
        self,
        levels: int,
        print_freq: int = 50,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.levels = levels
        self.print_freq = print_freq
        self.console = make_console(stream)
        self._clock = clock
        self._live: Live | None = None  # the bars, while there are any
        self._drawn = -math.inf  # when bars were last drawn
        self._said = clock() - SECONDS_BETWEEN_LINES  # when a line was last printed; one may be at once
        self._last: EpochReport | None = None  # of this level
        self._accuracy: float | None = None
        self._left: tuple[float, float] | None = None  # seconds left as a search last told, and when it did
        self._began: tuple[tuple[int, int], int, float] | None = None  # epoch under way: which, images, when first seen

    def note(self, text: str) -> None:
        """Print a line that stays."""
        self.console.print(f"  {text}")

    def batch(self, report: BatchReport) -> None:
        """Move the bars; away from a terminal, a line now and then."""
        now = self._clock()
        if self._began is None or self._began[0] != (report.level, report.epoch):
            self._began = (report.level, report.epoch), report.images, now
        if self.console.is_terminal:
            if now - self._drawn >= SECONDS_BETWEEN_FRAMES:
                self._draw(report, now)
        elif now - self._said >= SECONDS_OF_SILENCE:
            self._say(self._line_of_batch(report, now), now)

    def epoch(self, report: EpochReport, seconds_left: float) -> None:
        """Print level, sparsity, epoch, T, loss, accuracy and time left, if a line is due."""
        now = self._clock()
        self._last, self._left = report, (seconds_left, now)
        self._accuracy = report.accuracy if report.accuracy is not None else self._accuracy
        silent = now - self._said
        long_ago = silent >= SECONDS_OF_SILENCE and not self.console.is_terminal
        if (report.epoch % self.print_freq == 0 and silent >= SECONDS_BETWEEN_LINES) or long_ago:
            self._say(
                f"  {self._place(report)}  T={report.timesteps}  loss {report.loss:.4f}  accuracy {self._shown()}  "
                f"left {duration(seconds_left)}",
                now,
            )

    def level_done(self, level: int, sparsity: float, accuracy: float, seconds: float, ticket: Path) -> None:
        """Print a line with the result and the ticket's path."""
        self._accuracy = self._last = None
        self.close()
        self._said = self._clock()
        self.console.print(
            f"  level {level}: {sparsity:.2f} % pruned, accuracy {accuracy:.2f} %, {duration(seconds)} -> {ticket}"
        )

    def close(self) -> None:
        """Take the bars away and give the terminal back as it was."""
        self._drawn = -math.inf
        if self._live is not None:
            self._live.stop()
            self._live = None

    # ---- what is shown -----------------------------------------------------------------------------------------------

    def _say(self, line: str, now: float) -> None:
        self._said = now
        self.console.print(line)

    def _place(self, report: EpochReport | BatchReport) -> str:
        return (
            f"level {report.level}/{self.levels - 1}  {report.sparsity:5.2f} % pruned  "
            f"epoch {report.epoch}/{report.epochs}"
        )

    def _shown(self) -> str:
        return "      -" if self._accuracy is None else f"{self._accuracy:5.2f} %"

    def _line_of_batch(self, report: BatchReport, now: float) -> str:
        rate, left = self._rate_and_left(report, now)
        return (
            f"  {self._place(report)}  batch {report.batch}/{report.batches}  T={report.timesteps}  {rate}  left {left}"
        )

    def _rate_and_left(self, report: BatchReport, now: float) -> tuple[str, str]:
        """Images a second in this epoch, and the time left of the search; dashes before they are known."""
        assert self._began is not None
        _, images, since = self._began
        seconds, done = now - since, report.images - images
        rate = done / seconds if seconds > 0 else 0.0
        if self._left is not None:
            left = duration(max(0.0, self._left[0] - (now - self._left[1])))
        elif rate:
            epoch = report.images * report.batches / report.batch
            left = duration((epoch * (1 + report.epochs_left) - report.images) / rate)
        else:
            left = "-"
        return f"{rate:,.0f} images/s" if rate else "- images/s", left

    def _draw(self, report: BatchReport, now: float) -> None:
        self._drawn = now
        if self._live is None:
            self._live = Live(console=self.console, auto_refresh=False, transient=True)
            self._live.start()
        self._live.update(self._bars(report, now), refresh=True)

    def _bars(self, report: BatchReport, now: float) -> Table:
        rate, left = self._rate_and_left(report, now)
        epochs = report.epoch - 1 + report.batch / report.batches
        levels = report.level + epochs / report.epochs
        loss = "" if self._last is None else f"loss {self._last.loss:.4f}  accuracy {self._shown().strip()}"
        table = Table.grid(padding=(0, 1))
        for name, count, done, total, text in (
            ("level", f"{report.level}/{self.levels - 1}", levels, self.levels, f"{report.sparsity:.2f} % pruned"),
            ("epoch", f"{report.epoch}/{report.epochs}", epochs, report.epochs, loss),
            (
                "batch",
                f"{report.batch}/{report.batches}",
                report.batch,
                report.batches,
                f"T={report.timesteps}  {rate}",
            ),
        ):
            table.add_row(f"  {name}", count, ProgressBar(total=total, completed=done, width=BAR), text)
        table.add_row("  left", left)
        return table
