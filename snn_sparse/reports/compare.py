"""Several runs side by side: grouped by method, seeds put together."""

from dataclasses import dataclass, field
from typing import Any

Report = dict[str, Any]
SAME_SPARSITY = 0.1  # percent; levels nearer than this are put together


@dataclass
class Point:
    """One method at one level, over seeds.

    Attributes:
        level: number of the level.
        sparsities: one a seed, in percent.
        accuracies: one a seed, in percent.
    """

    level: int
    sparsities: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)

    @property
    def sparsity(self) -> float:
        """Mean over the seeds, in percent."""
        return sum(self.sparsities) / len(self.sparsities)

    @property
    def accuracy(self) -> float:
        """Mean over the seeds, in percent."""
        return sum(self.accuracies) / len(self.accuracies)


def by_method(reports: list[Report]) -> dict[str, list[Report]]:
    """Group the reports by method, methods in the order in which they appear."""
    groups: dict[str, list[Report]] = {}
    for report in reports:
        groups.setdefault(report["method"], []).append(report)
    return groups


def points(reports: list[Report]) -> list[Point]:
    """Accuracy against sparsity of one method; levels of equal number and sparsity (to 0.1 %) are one point."""
    found: list[Point] = []
    for report in reports:
        for level in report["levels"]:
            number, sparsity = level["level"], level["sparsity"]
            same = (p for p in found if p.level == number and abs(p.sparsities[0] - sparsity) < SAME_SPARSITY)
            point = next(same, None)
            if point is None:
                point = Point(number)
                found.append(point)
            point.sparsities.append(sparsity)
            point.accuracies.append(level["accuracy"])
    return sorted(found, key=lambda p: (p.sparsity, p.level))


def mean_seconds(reports: list[Report], key: str) -> float:
    """Mean of ``seconds`` or ``search_seconds``."""
    return sum(r[key] for r in reports) / len(reports)


def duration(seconds: float) -> str:
    """Time as people read it: ``1:02:03``, ``2:03`` or ``4.5 s``."""
    if seconds < 59.95:  # what is nearer to 60.0 s reads 1:00
        return f"{seconds:.1f} s"
    minutes, whole = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{whole:02d}" if hours else f"{minutes}:{whole:02d}"


HEADER = ("method", "seeds", "sparsity", "accuracy", "range", "T search", "search", "total")


def table_rows(reports: list[Report]) -> list[tuple[str, ...]]:
    """Rows under :data:`HEADER`: one for each method and sparsity; times are of the whole run, mean over seeds."""
    rows: list[tuple[str, ...]] = []
    for method, group in by_method(reports).items():
        early = map(str, sorted({r["timesteps_early"] or r["timesteps"] for r in group}))
        times = (duration(mean_seconds(group, "search_seconds")), duration(mean_seconds(group, "seconds")))
        for i, p in enumerate(points(group)):
            spread = f"{min(p.accuracies):.2f}-{max(p.accuracies):.2f}" if len(p.accuracies) > 1 else ""
            rest = (",".join(early), *times) if i == 0 else ("", "", "")
            first = (method if i == 0 else "", str(len(p.accuracies)), f"{p.sparsity:.2f} %", f"{p.accuracy:.2f} %")
            rows.append((*first, spread, *rest))
    return rows
