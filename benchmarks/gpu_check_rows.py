"""Rows that are written as soon as they are measured, and read back as a table."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.rows import SKIPPED, Row, read

SHOWN = {"seconds": (1e3, "ms"), "times the floor": (1.0, "times the floor"), "copy TB/s": (1.0, "TB/s copied")}
SHOWN |= {"kernels": (1.0, "kernels"), "peak MB": (1.0, "MB"), "of the copy bandwidth": (1.0, "of the copy bandwidth")}


def append(rows: Sequence[Row], file: Path) -> None:
    """Add rows to a file, one JSON object a line."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as lines:
        lines.writelines(json.dumps(asdict(row)) + "\n" for row in rows)


def table(file: Path) -> list[str]:
    """Lines that show the rows of a file, a provider and case each."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in read(file):
        said = found.setdefault((row.case, row.provider), [])
        if row.metric == SKIPPED:
            said.append(f"LEFT OUT: {row.reason}")
        elif row.metric in SHOWN:
            factor, unit = SHOWN[row.metric]
            said.append(f"{row.median * factor:.3f} {unit}")
    return [f"  {case} | {provider}: {', '.join(said)}" for (case, provider), said in found.items() if said]
