"""Files of a run, damaged at random: every command refuses them in one line, or gives what it gave before."""

import json
import random
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.survival.searches import Outcome, carry_out, command, differences
from snn_sparse.tickets.run_files import RunFiles


@dataclass(frozen=True)
class Damaged:
    """What a command made of one damaged file.

    Attributes:
        file: relative to the run directory.
        how: it was damaged.
        action: the command.
        refused: whether it ended with one line of error.
        wrong: what it did that it must not; empty: nothing.
    """

    file: str
    how: str
    action: str
    refused: bool
    wrong: str


@dataclass(frozen=True)
class Runs:
    """Runs to damage, and what a sound one gives.

    Attributes:
        whole: a finished search.
        half: the same, stopped in its middle: a finished level, and one with two checkpoints.
        other: another search, stopped likewise, whose files are put in the place of theirs.
    """

    whole: Path
    half: Path
    other: Path

    @classmethod
    def make(cls, root: Path, deterministic: bool = False) -> "Runs":
        """Search three times."""
        runs = cls(root / "whole", root / "half", root / "other")
        _succeed(carry_out(command("imp", runs.whole, deterministic=deterministic)))
        for out, seed in ((runs.half, 5), (runs.other, 6)):
            with _dying_at_the_end_of(1):
                carry_out(command("imp", out, deterministic=deterministic, seed=seed))
            assert RunFiles(out).earlier_checkpoint(1).exists()
        return runs


def _succeed(outcome: Outcome) -> Outcome:
    assert outcome.status == 0, outcome.err
    return outcome


@contextmanager
def _dying_at_the_end_of(dying: int) -> Iterator[None]:
    """Stop searches before the ticket of a level is written."""
    usual = RunFiles.finish_level

    def finish_level(self: RunFiles, level: int, ticket: Any) -> None:
        if level == dying:
            raise KeyboardInterrupt
        usual(self, level, ticket)

    RunFiles.finish_level = finish_level  # type: ignore[method-assign]
    try:
        yield
    finally:
        RunFiles.finish_level = usual  # type: ignore[method-assign]


def _cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content))]


def _flip(content: bytes, draw: random.Random) -> bytes:
    place, found = draw.randrange(8 * len(content)), bytearray(content)
    found[place // 8] ^= 1 << place % 8
    return bytes(found)


DAMAGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "cut": _cut,
    "emptied": lambda _content, _draw: b"",
    "a bit flipped": _flip,
}


def damage(run: Path, other: Path, draw: random.Random) -> tuple[str, str]:
    """Damage one file of ``run``; returns which and how."""
    files = sorted(p for p in run.rglob("*") if p.is_file() and p.stat().st_size)
    file = draw.choice(files)
    name = file.relative_to(run).as_posix()
    alike = [p for p in files if p.name == file.name and p != file]
    ways = [*DAMAGES, *(["another level's"] if alike else []), *(["another run's"] if (other / name).exists() else [])]
    how = draw.choice(ways)
    if how in DAMAGES:
        file.write_bytes(DAMAGES[how](file.read_bytes(), draw))
    else:
        shutil.copy(draw.choice(alike) if how == "another level's" else other / name, file)
    return name, how


def _fault(outcome: Outcome, sound: Callable[[], str]) -> str:
    """What is wrong with how a command ended; empty: it refused in one line, or its result is sound."""
    lines = outcome.err.strip().splitlines()
    if "Traceback" in outcome.err or outcome.status not in (0, 2):
        return f"status {outcome.status}: {outcome.err[-800:]}"
    if outcome.status == 2:
        return "" if len(lines) == 1 else f"{len(lines)} lines of error: {outcome.err}"
    return sound()


def _told(outcome: Outcome, wrong: list[str]) -> str:
    """The differences that the command did not tell of."""
    if "damaged line(s) left out" in outcome.out or re.search(r"line\(s\) of level \d+ are lost", outcome.out):
        wrong = [what for what in wrong if not what.endswith("metrics")]
    return ", ".join(wrong)


def resume(run: Path, runs: Runs, deterministic: bool) -> tuple[str, Outcome, str]:
    """Go on with a search; it must end as the one that nobody damaged."""
    outcome = carry_out(command("imp", run, deterministic=deterministic))
    return "search", outcome, _fault(outcome, lambda: _told(outcome, differences(runs.whole, run)))


def report(run: Path, runs: Runs) -> tuple[str, Outcome, str]:
    """Report on a finished run; it must say what it said of the one that nobody damaged."""
    outcome = carry_out(["report", str(run), "--out", str(run.with_name("page"))])

    def sound() -> str:
        found, expected = (json.loads((r / "report.json").read_text()) for r in (run, runs.whole))
        return "" if found == expected else "another report"

    return "report", outcome, _fault(outcome, sound)


def evaluate(run: Path, runs: Runs, draw: random.Random) -> tuple[str, Outcome, str]:
    """Evaluate a ticket of a finished run; it must be as good as the one that nobody damaged."""
    level = draw.choice(RunFiles(runs.whole).levels())
    found, expected = (
        carry_out(["evaluate", "--ticket", str(RunFiles(r).ticket(level)), "--device", "cpu"])
        for r in (run, runs.whole)
    )
    misplaced = RunFiles(run).ticket(level).read_bytes() != RunFiles(runs.whole).ticket(level).read_bytes()
    # a whole ticket of another level is a ticket all the same: only whoever knows the run can tell
    return (
        "evaluate",
        found,
        _fault(found, lambda: "" if found.out == expected.out or misplaced else "another accuracy"),
    )


def try_damages(number: int, root: Path, seed: int, deterministic: bool = False) -> list[Damaged]:
    """Damage runs at random places and look what commands make of them.

    Args:
        number: of damages.
        root: where the runs lie.
        seed: of the places.
        deterministic: whether layers are planned by rule, and not by the machine's measurements.
    """
    draw, runs, found = random.Random(seed), Runs.make(root, deterministic), []
    for n in range(number):
        half = draw.random() < 0.5
        run = Path(shutil.copytree(runs.half if half else runs.whole, root / f"damaged{n}"))
        file, how = damage(run, runs.other, draw)
        if half:
            action, outcome, wrong = resume(run, runs, deterministic)
        else:
            actions = (
                lambda run=run: report(run, runs),
                lambda run=run: resume(run, runs, deterministic),
                lambda run=run: evaluate(run, runs, draw),
            )
            action, outcome, wrong = draw.choice(actions)()
        found.append(Damaged(file, how, action, outcome.status != 0, wrong))
        shutil.rmtree(run)
    return found
