"""Runs put together by their size: what may be compared, and points of it by method and sparsity."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from snn_sparse.reports.compare import Point, points
from snn_sparse.reports.groups import Report, by_label
from snn_sparse.reports.story import SAME_WORK
from snn_sparse.reports.summary import summarise
from snn_sparse.tickets.settings import METHODS, Settings, data_name, network_name

NEAR = 1.4  # a level stands for a published sparsity if the weights left differ by less than this factor


@dataclass(frozen=True)
class Size:
    """Runs of the same network, data, epochs and machine.

    Attributes:
        case: all that, but for the machine, in words.
        machine: processor or GPU.
        reports: of the runs.
    """

    case: str
    machine: str
    reports: list[Report]

    def of(self, method: str, finished: bool = False) -> list[Report]:
        """Reports of a method; of those alone whose levels are all done, if asked for."""
        return [r for r in self.reports if r["method"] == method and not (finished and r.get("unfinished"))]

    @property
    def methods(self) -> list[str]:
        """Methods that there are runs of, in the order of :data:`snn_sparse.tickets.settings.METHODS`."""
        return [method for method in METHODS if self.of(method)]

    def at(self, method: str, sparsity: float) -> Point | None:
        """Mean over seeds at the level whose share of weights left is nearest; None if there is none near."""
        every = points(self.of(method))
        if sparsity == 0:
            return next((p for p in every if p.sparsity == 0), None)
        pruned = [p for p in every if 0 < p.sparsity < 100]
        nearest = min(pruned, key=lambda p: _apart(p.sparsity, sparsity), default=None)
        return nearest if nearest is not None and _apart(nearest.sparsity, sparsity) < math.log(NEAR) else None


def _apart(a: float, b: float) -> float:
    """Distance of two sparsities in percent: of the logarithms of the weights left."""
    return abs(math.log((100 - a) / (100 - b)))


def read_reports(paths: Iterable[str | Path]) -> list[Report]:
    """Reports of run directories, and of those inside directories of sweeps; runs without a finished level left out.

    Raises:
        ValueError: a directory is no run and has none inside, or no run has a finished level.
    """
    found: list[Report] = []
    for path in map(Path, paths):
        runs = [path] if (path / "config.json").exists() else sorted(p.parent for p in path.glob("*/config.json"))
        if not runs:
            raise ValueError(f"{path} is no run directory and has none inside")
        found += [{**summarise(run), "run": str(run)} for run in runs if list(run.glob("level_*/ticket.safetensors"))]
    if not found:
        raise ValueError("no run has a finished level yet")
    return found


def machine_of(report: Report) -> str:
    """Processor and threads, or GPU, that a run computed on."""
    there = report["environment"]
    device = str(there["device"])
    return (
        device.replace("cpu", str(there["processor"]), 1)
        if device.startswith("cpu") and "processor" in there
        else device
    )


def case_of(report: Report) -> str:
    """Network, data, timesteps, batch size and epochs of a run, in words."""
    s = Settings().as_dict() | report["settings"]
    what = f"tickets {network_name(s)} on {data_name(s)} T={s['timestep']}"
    return f"{what} batch {s['batch_size']} {s['end_iter']} epochs {s['precision']}"


def sizes(reports: list[Report]) -> list[Size]:
    """Put runs together that may be compared.

    Raises:
        ValueError: two runs of one method and size differ in more than the seed.
    """
    groups: dict[tuple[str, ...], list[Report]] = {}
    for report in reports:
        settings = Settings().as_dict() | report["settings"]
        key = (machine_of(report), *(str(settings[name]) for name in SAME_WORK))
        groups.setdefault(key, []).append(report)
    found = [Size(case_of(group[0]), machine_of(group[0]), group) for group in groups.values()]
    for size in found:
        for method in size.methods:
            labels = by_label([{**r, "timesteps_early": None} for r in size.of(method)])  # which seeds may differ in
            if len(labels) > 1:
                raise ValueError(f"runs differ in more than the seed, give one kind at a time: {', '.join(labels)}")
    return found
