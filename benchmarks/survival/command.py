"""Kill searches and damage run directories at random; no rows, but a status of 1 if anything was lost or differs."""

import argparse
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks.survival.damage import Damaged, try_damages
from benchmarks.survival.kills import Killed, kill
from snn_sparse.console import print_table


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of this case."""
    parser.add_argument("--kills", type=int, default=30, help="by SIGKILL, over all methods (default 30)")
    parser.add_argument("--damages", type=int, default=100, help="files damaged, one at a time (default 100)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and places (default 0)")


def run(args: argparse.Namespace) -> int:
    """Kill and damage; print what became of it.

    Returns:
        exit status: 0 if every search ended as one that nobody disturbed and every damage was seen or harmless.
    """
    with tempfile.TemporaryDirectory() as root:
        killed = kill(args.kills, Path(root), args.seed)
        _show_kills(killed)
        damaged = try_damages(args.damages, Path(root), args.seed)
        _show_damages(damaged)
    wrong = [f"{k.method}: {', '.join(k.wrong)}" for k in killed if k.wrong]
    wrong += [f"{d.file}, {d.how}, {d.action}: {d.wrong}" for d in damaged if d.wrong]
    print("\n".join(["", *wrong, f"wrong: {len(wrong)}"]))
    return int(bool(wrong))


def _show_kills(killed: list[Killed]) -> None:
    rows = []
    for method, timed in sorted({(k.method, k.timed) for k in killed}):
        found = [k for k in killed if (k.method, k.timed) == (method, timed)]
        how = "timed, a cold cache at each start" if timed else "by rule"
        same = sum(not k.wrong for k in found)
        rows.append((method, how, str(len(found)), str(sum(k.deaths for k in found)), str(same)))
    print_table(("method", "layers planned", "searches", "killed", "end as undisturbed"), rows, left=2)


def _show_damages(damaged: list[Damaged]) -> None:
    count = Counter(
        (d.file.rpartition("/")[2], "wrong" if d.wrong else "refused" if d.refused else "sound") for d in damaged
    )
    names = sorted({name for name, _ in count})
    rows = [(name, *(str(count[name, what]) for what in ("refused", "sound", "wrong"))) for name in names]
    print_table(("file damaged", "refused in one line", "same result", "wrong"), rows)
