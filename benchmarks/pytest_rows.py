"""Rows of what ``pytest benchmarks --benchmark-json FILE`` has timed: seconds of each provider, no ratios."""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.rows import Row, write
from benchmarks.timing import Timing

FILE = "pytest"  # in benchmarks/results/


def read_json(path: str) -> list[Row]:
    """Make the rows of a JSON file of pytest-benchmark: those of ``pytest benchmarks`` say all that a row has.

    Raises:
        ValueError: no such file, no JSON, not of ``pytest benchmarks``, or without the single readings.
    """
    try:
        found = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    try:
        machine, date = found["machine_info"], found["datetime"][:10]
        where = machine["device"], machine["versions"], found["commit_info"]["commit"], date
        return [_row(one, *where) for one in found["benchmarks"]]
    except (KeyError, TypeError) as error:
        wanted = "pytest benchmarks --benchmark-json FILE, or --benchmark-save NAME --benchmark-save-data"
        raise ValueError(f"{path} has no {error}: it must come from {wanted}") from error


def _row(one: dict[str, Any], device: str, versions: str, commit: str, date: str) -> Row:
    timing = Timing(one["stats"]["data"])
    figures = timing.median, timing.quantile(0.2), timing.quantile(0.8)
    return Row(one["group"], one["extra_info"]["provider"], "seconds", *figures, device, versions, commit, date)


def run(args: argparse.Namespace) -> int:
    """Write the rows of a file."""
    rows = read_json(args.file)
    print(f"{len(rows)} rows: {write(rows, FILE)}")
    return 0


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of this command."""
    parser.add_argument("file", metavar="FILE", help="JSON of pytest-benchmark")
