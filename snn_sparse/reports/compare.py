"""Several runs side by side: those that differ in nothing but the seed are put together."""

import statistics
from dataclasses import dataclass, field

from snn_sparse.reports.groups import Report, by_label

SAME_SPARSITY = 0.1  # percent; levels nearer than this are put together


@dataclass
class Point:
    """Runs of one label at one level, over seeds.

    Attributes:
        level: number of the level.
        sparsities: one a run, in percent.
        by_seed: accuracies in percent of each seed's runs; nearly always one a seed.
    """

    level: int
    sparsities: list[float] = field(default_factory=list)
    by_seed: dict[int, list[float]] = field(default_factory=dict)

    @property
    def sparsity(self) -> float:
        """Mean over the runs, in percent."""
        return statistics.fmean(self.sparsities)

    @property
    def accuracies(self) -> list[float]:
        """One a seed, in percent: a seed that ran twice is no second sample."""
        return [statistics.fmean(runs) for runs in self.by_seed.values()]

    @property
    def accuracy(self) -> float:
        """Mean over the seeds, in percent."""
        return statistics.fmean(self.accuracies)

    @property
    def deviation(self) -> float | None:
        """Standard deviation over the seeds (n - 1), in percent; None of a single seed."""
        return statistics.stdev(self.accuracies) if len(self.by_seed) > 1 else None


def points(reports: list[Report]) -> list[Point]:
    """Accuracy against sparsity of one label; levels of equal number and sparsity (to 0.1 %) are one point."""
    found: dict[int, list[Point]] = {}
    for report in reports:
        for level in report["levels"]:
            sparsity, there = level["sparsity"], found.setdefault(level["level"], [])
            point = next((p for p in there if abs(p.sparsities[0] - sparsity) < SAME_SPARSITY), None)
            if point is None:
                point = Point(level["level"])
                there.append(point)
            point.sparsities.append(sparsity)
            point.by_seed.setdefault(report["seed"], []).append(level["accuracy"])
    return sorted((p for there in found.values() for p in there), key=lambda p: (p.sparsity, p.level))


def sparsest(reports: list[Report]) -> list[Report]:
    """The runs whose last level is as sparse as any of them gets."""
    most = max(report["levels"][-1]["sparsity"] for report in reports)
    return [report for report in reports if abs(report["levels"][-1]["sparsity"] - most) < SAME_SPARSITY]


def mean_seconds(reports: list[Report], key: str) -> float:
    """Mean over runs of ``seconds`` or ``search_seconds``."""
    return statistics.fmean(r[key] for r in reports)


def duration(seconds: float) -> str:
    """Time as people read it: ``1:02:03``, ``2:03`` or ``4.5 s``."""
    if seconds < 59.95:  # what is nearer to 60.0 s reads 1:00
        return f"{seconds:.1f} s"
    minutes, whole = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{whole:02d}" if hours else f"{minutes}:{whole:02d}"


HEADER = ("method", "seeds", "sparsity", "accuracy", "T search", "search", "total")


def mean_and_deviation(point: Point) -> str:
    """Accuracy of a point: ``91.25 ± 0.71 %``, or the mean alone of a single seed."""
    spread = "" if point.deviation is None else f" ± {point.deviation:.2f}"
    return f"{point.accuracy:.2f}{spread} %"


def table_rows(reports: list[Report], most: int | None = None) -> list[tuple[str, ...]]:
    """Rows under :data:`HEADER`: one for each label and sparsity; times are of the whole run, mean over runs.

    Args:
        reports: of the runs.
        most: rows of a label, evenly chosen, its second row says of how many; all if left out.
    """
    rows: list[tuple[str, ...]] = []
    for label, group in by_label(reports).items():
        early = map(str, sorted({r["timesteps_early"] or r["timesteps"] for r in group}))
        times = (duration(mean_seconds(group, "search_seconds")), duration(mean_seconds(group, "seconds")))
        every = points(group)
        shown = every if most is None or len(every) <= most else _evenly(every, most)
        names = [label, "" if len(shown) == len(every) else f"{most} of {len(every)} levels"]
        for i, p in enumerate(shown):
            rest = (",".join(early), *times) if i == 0 else ("", "", "")
            name = names[i] if i < len(names) else ""
            rows.append((name, str(len(p.by_seed)), f"{p.sparsity:.2f} %", mean_and_deviation(p), *rest))
    return rows


def _evenly(values: list[Point], count: int) -> list[Point]:
    """So many of the values, the first and the last among them."""
    return [values[round(i * (len(values) - 1) / (count - 1))] for i in range(count)]
