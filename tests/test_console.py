"""Terminal output: what a reader sees on a screen, and what a pipe or file holds."""

import io
import random
import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from snn_sparse.console import ConsoleProgress, make_console, print_table
from snn_sparse.tickets.progress import BatchReport, EpochReport

CONTROL = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def _screen_of_100_columns(monkeypatch):
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "30")


def screen(written):
    """Lines that a terminal shows after all of ``written``, and whether its cursor is visible."""
    lines, row, column, cursor = [""], 0, 0, True
    for part in re.split(r"(\x1b\[[?0-9;]*[A-Za-z]|\r|\n)", written):
        control = CONTROL.fullmatch(part)
        if part == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif part == "\r":
            column = 0
        elif control is None:
            lines[row] = lines[row][:column].ljust(column) + part + lines[row][column + len(part) :]
            column += len(part)
        elif control[2] == "A":
            row -= int(control[1] or 1)
        elif control[2] == "K":
            lines[row] = ""
        elif control[1] == "?25":
            cursor = control[2] == "h"
        else:
            assert control[2] == "m", f"unexpected {part!r}"
    return [line.rstrip() for line in lines if line.strip()], cursor


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def report(epoch, accuracy):
    return EpochReport(1, epoch, 3, 0.25, accuracy, 43.75, 5, 0.1, 1.0)


def batch(done, epoch=2, **changes):
    """After ``done`` of 40 batches of 50 images; two epochs of the search are left after this one."""
    return replace(BatchReport(1, epoch, 3, done, 40, 50 * done, 2, 43.75, 5), **changes)


EPOCH_2 = "  level 1/2  43.75 % pruned  epoch 2/3  T=5  loss 0.2500  accuracy 97.50 %  left 1:02"
DONE = "  level 1: 43.75 % pruned, accuracy 97.50 %, 3.0 s -> a/ticket"


def progress_on(stream, print_freq=50):
    clock = Clock()
    return ConsoleProgress(3, print_freq, stream, clock), clock


def words(line):
    """A line without its bar."""
    return " ".join(re.sub("[━╸╺]+", "|", line).split())


def test_bars_move_on_a_terminal():
    stream = Terminal()
    progress, clock = progress_on(stream)
    progress.epoch(report(1, 97.5), 62.0)
    assert stream.getvalue() == ""  # bars come with batches
    progress.batch(batch(1))
    progress.note("something to know")
    clock.now += 2.0
    progress.batch(batch(9))  # 8 batches of 50 images in 2 seconds
    lines, cursor = screen(stream.getvalue())
    assert not cursor
    assert [words(line) for line in lines] == [
        "something to know",
        "level 1/2 | 43.75 % pruned",
        "epoch 2/3 | loss 0.2500 accuracy 97.50 %",
        "batch 9/40 | T=5 200 images/s",
        "left 1:00",  # of the 62 s, 2 have passed
    ]
    progress.level_done(1, 43.75, 97.5, 3.0, Path("a/ticket"))
    assert screen(stream.getvalue()) == (["  something to know", DONE], True)
    progress.batch(batch(1, epoch=1))
    assert "accuracy" not in "".join(screen(stream.getvalue())[0][2:])  # the last level's is forgotten


def test_bars_are_as_long_as_their_share():
    stream = Terminal()
    progress, _ = progress_on(stream)
    progress.batch(batch(20))
    table = progress._bars(batch(20), 1000.0)
    bars = [bar.completed / bar.total for bar in table.columns[2]._cells[:3]]
    assert bars == pytest.approx([(1 + 1.5 / 3) / 3, 1.5 / 3, 0.5])


def test_a_terminal_is_drawn_four_times_a_second_at_most():
    stream = Terminal()
    progress, clock = progress_on(stream)
    for done in range(1, 41):
        progress.batch(batch(done))
        clock.now += 0.01
    assert stream.getvalue().count("batch") == 2  # at 0 and 0.25 s, of 0.39 s


def test_time_left_before_an_epoch_is_done():
    stream = io.StringIO()
    progress, clock = progress_on(stream)
    progress.batch(batch(10))
    clock.now += 100.0
    progress.batch(batch(20))  # 500 images in 100 s: 1000 of this epoch are left, and two epochs of 2000
    expected = "  level 1/2  43.75 % pruned  epoch 2/3  batch 20/40  T=5  5 images/s  left 16:40\n"
    assert stream.getvalue() == expected


def test_a_search_that_stops_leaves_the_terminal_as_it_was():
    stream, before = Terminal(), (sys.stdout, sys.stderr)
    progress, _ = progress_on(stream)
    progress.batch(batch(1))
    assert not screen(stream.getvalue())[1]
    progress.close()
    assert screen(stream.getvalue()) == ([], True)
    assert (sys.stdout, sys.stderr) == before
    progress.close()


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_lines_that_stay(kind):
    stream = kind()
    progress, clock = progress_on(stream, print_freq=2)
    long = "see [bold]/a/b[/bold] :smile: " + "long " * 60
    progress.note(long)
    for epoch, accuracy in ((1, None), (2, 97.5), (3, None)):
        progress.epoch(report(epoch, accuracy), 62.0)
        clock.now += 2.0
    progress.level_done(1, 43.75, 97.5, 3.0, Path("a/ticket"))
    progress.close()
    assert stream.getvalue() == f"  {long}\n{EPOCH_2}\n{DONE}\n"


def test_a_file_gets_a_line_a_second_at_most_and_one_in_thirty_at_least():
    stream = io.StringIO()
    progress, clock = progress_on(stream, print_freq=1)
    times, epoch = [], 1
    seconds = [random.choice([0.02, 0.3, 2.0, 7.0]) for _ in range(400)]
    for number, wait in enumerate(seconds, 1):
        clock.now += wait
        before = stream.tell()
        progress.batch(batch((number - 1) % 40 + 1, epoch=epoch))
        if number % 40 == 0:
            progress.epoch(report(epoch, None), 62.0)
            epoch += 1
        times += [clock.now] * stream.getvalue()[before:].count("\n")
    gaps = [b - a for a, b in pairwise(times)]
    assert len(gaps) > 5
    assert min(gaps) >= 1.0
    assert max(gaps) <= 30.0 + 7.0  # the step that was under way
    assert "\x1b" not in stream.getvalue()
    assert "\r" not in stream.getvalue()


HEADER = ("layer", "[i]plan", "ms")
ROWS = [("features.0", "walk " * 40 + "end", "1.5"), ("[b]", "dense :smile:", "12.25")]


def test_tables_are_complete_when_piped():
    stream = io.StringIO()
    print_table(HEADER, ROWS, stream)
    header, rule, *rows = stream.getvalue().splitlines()
    assert re.split(r"\s{2,}", header.strip()) == list(HEADER)
    assert set(rule) == {"─"}
    assert [tuple(re.split(r"\s{2,}", row.strip())) for row in rows] == ROWS
    assert [row.index(cell[2]) + len(cell[2]) for row, cell in zip(rows, ROWS, strict=True)] == [len(rule)] * 2
    assert all(row.startswith(cell[0]) for row, cell in zip(rows, ROWS, strict=True))  # first column to the left


def test_tables_fold_on_a_narrow_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    stream = Terminal()
    print_table(HEADER, ROWS, stream)
    lines, _ = screen(stream.getvalue())
    assert max(map(len, lines)) <= 40
    text = " ".join(" ".join(lines).split())
    assert text.count("walk") == 40  # nothing is cut
    assert "…" not in text
    assert "[b]" in text


def test_words_wider_than_a_terminal_are_whole(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    stream = Terminal()
    print_table(("layer", "plan"), [("a", "x" * 50)], stream)
    assert "".join(screen(stream.getvalue())[0]).count("x") == 50
    stream = Terminal()
    ConsoleProgress(1, stream=stream).note("see /a path/with spaces/in it")
    assert stream.getvalue() == "  see /a path/with spaces/in it\n"  # the terminal wraps it, so that it can be copied


def test_standard_output_is_the_default(capsys):
    print_table(("a",), [("x",)])
    ConsoleProgress(1).note("y")
    make_console().print("z")
    assert [line.strip() for line in capsys.readouterr().out.splitlines()] == ["a", "─", "x", "y", "z"]


HEAVY = ("rich", "torch", "jinja2", "matplotlib", "numpy")


@pytest.mark.parametrize(
    "code",
    [
        "import snn_sparse",
        *(f"from snn_sparse.cli import main; main({a!r})" for a in (["--help"], ["search", "--help"], ["dance"])),
    ],
)
def test_nothing_heavy_is_imported_to_say_little(code):
    script = f"import sys\ntry:\n    {code}\nexcept SystemExit: pass\n"
    script += f"print('LOADED', [m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED []"
