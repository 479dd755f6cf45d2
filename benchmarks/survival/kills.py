"""Searches killed again and again, in writes and between them, and taken up by the same command."""

import random
import shutil
from dataclasses import dataclass
from pathlib import Path

from benchmarks.survival.searches import METHODS, Death, command, differences, remember_plans, start

DEATHS = 3  # of one search, before it may live


@dataclass(frozen=True)
class Killed:
    """What became of one search that was killed.

    Attributes:
        method: of the search.
        deaths: how often it was killed.
        timed: whether layers were planned by timing, with a cold cache at every start.
        wrong: what differs from a search that nobody disturbed, or went wrong; empty: nothing.
    """

    method: str
    deaths: int
    timed: bool
    wrong: list[str]


def some_death(draw: random.Random) -> Death:
    """Draw a moment: of the first writes, of any write, or a time."""
    kind = draw.choice(("early", "write", "seconds"))
    if kind == "early":
        return Death(event=draw.randint(1, 8))
    return Death(event=draw.randint(1, 60)) if kind == "write" else Death(seconds=draw.uniform(0.01, 3.0))


def kill_and_resume(method: str, whole: Path, out: Path, draw: random.Random, like: Path | None = None) -> Killed:
    """Kill a search some times, let it end, and compare it with one that nobody disturbed.

    Args:
        method: of the search.
        whole: the run that nobody disturbed; layers planned by rule.
        out: where the killed one runs.
        draw: of the moments.
        like: for ``random``.
    """
    argv, deaths = command(method, out, like), 0
    for n in range(DEATHS):
        deaths += start(argv, out.with_name(f"{out.name}.cache{n}"), some_death(draw)).status == -9
    end = start(argv, out.with_name(f"{out.name}.cache"))
    wrong = [end.err] if end.status else differences(whole, out)
    return Killed(method, deaths, False, wrong)


def kill_timed(method: str, out: Path, draw: random.Random) -> Killed:
    """Kill a search whose layers are planned by timing; every start finds a cold cache.

    The undisturbed search that it is compared with gets the killed one's plans.
    """
    argv, deaths = command(method, out, deterministic=False), 0
    for n in range(DEATHS):
        deaths += start(argv, out.with_name(f"{out.name}.cache{n}"), some_death(draw)).status == -9
    end = start(argv, out.with_name(f"{out.name}.cold"))
    if end.status:
        return Killed(method, deaths, True, [end.err])
    warm, whole = out.with_name(f"{out.name}.warm"), out.with_name(f"{out.name}.whole")
    remember_plans(out, warm)
    undisturbed = start(command(method, whole, deterministic=False), warm)
    wrong = [undisturbed.err] if undisturbed.status else differences(whole, out)
    return Killed(method, deaths, True, wrong)


def kill(kills: int, root: Path, seed: int, methods: tuple[str, ...] = METHODS) -> list[Killed]:
    """Kill searches of all methods in turn until there were ``kills`` deaths, every fourth with timed plans."""
    draw, found = random.Random(seed), list[Killed]()
    wholes: dict[str, Path] = {}
    like = root / "imp-whole"
    for number in range(10 * kills):
        if sum(k.deaths for k in found) >= kills:
            break
        method = methods[number % len(methods)]
        for needed in dict.fromkeys(["imp", method] if method == "random" else [method]):
            if needed not in wholes:
                wholes[needed] = root / f"{needed}-whole"
                argv = command(needed, wholes[needed], like if needed == "random" else None)
                first = start(argv, root / "whole.cache")
                assert first.status == 0, first.err
        out = root / f"{method}-{number}"
        if number % 4 == 3 and method != "random":
            found.append(kill_timed(method, out, draw))
        else:
            found.append(kill_and_resume(method, wholes[method], out, draw, like if method == "random" else None))
        if not found[-1].wrong:
            shutil.rmtree(out)
    return found
