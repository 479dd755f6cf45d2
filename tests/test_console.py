"""Terminal output: what a reader sees on a screen, and what a pipe or file holds."""

import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

from snn_sparse.console import ConsoleProgress, make_console, print_table
from snn_sparse.tickets.progress import EpochReport

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


def report(epoch, accuracy):
    return EpochReport(1, epoch, 3, 0.25, accuracy, 43.75, 5, 0.1, 1.0)


EPOCH_2 = "  level 1/2  43.75 % pruned  epoch 2/3  T=5  loss 0.2500  accuracy 97.50 %  left 1:02"
DONE = "  level 1: 43.75 % pruned, accuracy 97.50 %, 3.0 s -> a/ticket"


def test_a_line_moves_on_a_terminal():
    stream = Terminal()
    progress = ConsoleProgress(3, print_freq=2, stream=stream)
    progress.epoch(report(1, None), 62.0)
    assert screen(stream.getvalue())[0] == [EPOCH_2.replace("2/3", "1/3").replace("97.50 %", "      -")]
    progress.note("something to know")
    kept, moving = screen(stream.getvalue())[0]
    assert kept == "  something to know"
    assert "epoch 1/3" in moving
    progress.epoch(report(2, 97.5), 62.0)
    assert screen(stream.getvalue())[0] == [kept, EPOCH_2]
    progress.epoch(report(3, None), 1.0)
    assert screen(stream.getvalue())[0][2] == EPOCH_2.replace("2/3", "3/3").replace("1:02", "1.0 s")
    progress.level_done(1, 43.75, 97.5, 3.0, Path("a/ticket"))
    assert screen(stream.getvalue()) == ([kept, EPOCH_2, DONE], True)
    progress.epoch(report(1, None), 62.0)
    assert screen(stream.getvalue())[0][-1].endswith("accuracy       -  left 1:02")  # the last level's is forgotten


def test_a_search_that_stops_leaves_the_terminal_as_it_was():
    stream, before = Terminal(), (sys.stdout, sys.stderr)
    progress = ConsoleProgress(3, print_freq=50, stream=stream)
    progress.epoch(report(1, None), 62.0)
    progress.close()
    assert screen(stream.getvalue()) == ([], True)
    assert (sys.stdout, sys.stderr) == before
    progress.close()


def test_plain_lines_elsewhere():
    stream = io.StringIO()
    progress = ConsoleProgress(3, print_freq=2, stream=stream)
    long = "see [bold]/a/b[/bold] :smile: " + "long " * 60
    progress.note(long)
    for epoch, accuracy in ((1, None), (2, 97.5), (3, None)):
        progress.epoch(report(epoch, accuracy), 62.0)
    progress.level_done(1, 43.75, 97.5, 3.0, Path("a/ticket"))
    progress.close()
    assert stream.getvalue() == f"  {long}\n{EPOCH_2}\n{DONE}\n"


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
