"""Story of a report, in words: the best method at each sparsity, what searches cost, what their tickets save."""

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from snn_sparse.reports.compare import Point, duration, mean_and_deviation, mean_seconds, points
from snn_sparse.reports.groups import Report, by_label
from snn_sparse.reports.summary import NO_SEARCH
from snn_sparse.tickets.settings import Settings

WHAT_A_TICKET_IS = (
    "A ticket is a network with most of its weights pruned, together with early values of the weights that are left: "
    "trained from those, the small network is to be about as accurate as the whole one."
)
SAME_LEFT = 1.25  # sparsities are compared where the weights left differ by less than this factor
CLOSE = 1.0  # points of accuracy within which a ticket counts as good as the dense network
SAME_WORK = (
    *("arch", "width", "dataset", "train_images", "timestep"),
    *("device", "backend", "batch_size", "end_iter", "precision"),
)
BEST_HEADER = ("pruned", "best", "accuracy", "others")
COST_HEADER = ("method", "epochs", "time", "operations, of dense", "energy, of dense")


@dataclass
class Rivals:
    """Points of several labels at about one sparsity.

    Attributes:
        points: one of each label.
    """

    points: dict[str, Point]

    @property
    def ranked(self) -> list[tuple[str, Point]]:
        """Labels and points, the most accurate first."""
        return sorted(self.points.items(), key=lambda item: -item[1].accuracy)

    @property
    def best(self) -> list[str]:
        """The most accurate label, and those whose distance to it is below the larger of their deviations."""
        (first, top), *others = self.ranked
        return [first, *(name for name, p in others if top.accuracy - p.accuracy < _spread(top, p))]

    @property
    def sparsity(self) -> str:
        """Percent pruned, as a number or a range."""
        low, high = (choose(p.sparsity for p in self.points.values()) for choose in (min, max))
        return f"{low:.2f} %" if high - low < 0.1 else f"{low:.2f} - {high:.2f} %"


def _spread(a: Point, b: Point) -> float:
    return max(a.deviation or 0.0, b.deviation or 0.0)


def rivals(reports: list[Report]) -> list[Rivals]:
    """Points of all labels, put together where their sparsity is about the same: the sparser, the later."""
    every = sorted(
        ((label, point) for label, group in by_label(reports).items() for point in points(group)),
        key=lambda item: item[1].sparsity,
    )
    found: list[Rivals] = []
    for label, point in every:
        last = found[-1].points if found else {}
        first = next(iter(last.values()), None)
        if first is None or label in last or 100 - first.sparsity >= SAME_LEFT * (100 - point.sparsity):
            found.append(Rivals({label: point}))
        else:
            last[label] = point
    return found


def best_rows(reports: list[Report]) -> list[tuple[str, ...]]:
    """Rows under :data:`BEST_HEADER`: one for each sparsity, but 0, at which two labels or more can be compared."""
    rows: list[tuple[str, ...]] = []
    for together in rivals(reports):
        if len(together.points) > 1 and all(point.sparsity for point in together.points.values()):
            others = (f"{n} {mean_and_deviation(p)}" for n, p in together.ranked if n not in together.best)
            accuracy = mean_and_deviation(together.ranked[0][1])
            rows.append((together.sparsity, " \N{ALMOST EQUAL TO} ".join(together.best), accuracy, ", ".join(others)))
    return rows


def finished(reports: list[Report]) -> list[Report]:
    """The runs all of whose levels are done."""
    return [report for report in reports if not report.get("unfinished")]


def epochs(reports: list[Report]) -> float:
    """Epochs of a whole run, mean over runs."""
    return statistics.fmean(sum(level["epochs"] for level in report["levels"]) for report in reports)


def baseline(group: list[Report], reports: list[Report]) -> list[Report]:
    """Finished runs of ``imp`` that a group of another search is to be measured against; of the same work."""
    if not group or group[0]["method"] in ("imp", *NO_SEARCH):
        return []
    work = _work(group[0])
    return [r for r in finished(reports) if r["method"] == "imp" and _work(r) == work]


def _work(report: Report) -> list[Any]:
    settings = Settings().as_dict() | report["settings"]  # an older run knew fewer
    return [settings[key] for key in SAME_WORK]


def less(value: float, than: float, word: str) -> str:
    """Say how ``value`` compares, in percent: ``56 % fewer``, ``12 % more``, ``the same``."""
    change = round(100 * (value / than - 1))
    return f"{-change} % {word}" if change < 0 else f"{change} % more" if change else "the same"


def cost_rows(reports: list[Report]) -> list[tuple[str, ...]]:
    """Rows under :data:`COST_HEADER`: one for each label, of its finished runs.

    Operations and energy are of one image on the sparsest ticket, as a share of the dense network's; ``-`` where
    tickets have no profile or no dense network of the same T is there to compare with.
    """
    rows: list[tuple[str, ...]] = []
    for label, every in by_label(reports).items():
        group = finished(every)
        if not group:
            rows.append((label, "unfinished", *("",) * 3))
            continue
        base, count, seconds = baseline(group, reports), epochs(group), mean_seconds(group, "seconds")
        more = ("", "")
        if base:
            more = (
                f" ({less(count, epochs(base), 'fewer')})",
                f" ({less(seconds, mean_seconds(base, 'seconds'), 'less')})",
            )
        shares = [share(group, reports, counted) for counted in (operations, energy)]
        shown = ("-" if part is None else f"{part:.1f} %" for part in shares)
        rows.append((label, f"{count:.0f}{more[0]}", f"{duration(seconds)}{more[1]}", *shown))
    return rows


def operations(profile: dict[str, Any]) -> float:
    """Synaptic operations of an image: those that happen, accumulations and multiply-accumulations."""
    return profile["Effective_ACs"] + profile["Effective_MACs"]


def energy(profile: dict[str, Any]) -> float:
    """Energy of an image in pJ."""
    return profile["energy_pj"]


def share(group: list[Report], reports: list[Report], counted: Callable[[dict[str, Any]], float]) -> float | None:
    """Cost of the sparsest tickets of ``group``, in percent of dense networks of the same T; None if unknown."""
    own = [r["levels"][-1]["profile"] for r in group if r["levels"][-1].get("profile")]
    steps = {profile["timesteps"] for profile in own}
    dense = [
        level["profile"]
        for report in reports
        for level in report["levels"][:1]
        if level["sparsity"] == 0 and level.get("profile") and level["profile"]["timesteps"] in steps
    ]
    if len(steps) != 1 or not dense:
        return None
    whole = statistics.fmean(map(counted, dense))
    return 100 * statistics.fmean(map(counted, own)) / whole if whole else None


def sentences(reports: list[Report]) -> list[str]:
    """Say what a reader wants to know first; of one network and data set, only what the runs show."""
    groups = by_label(reports)
    parts: Iterable[str | None] = (
        *_how_far(groups),
        _against_random(groups),
        _fastest(groups, reports),
        _saves(groups, reports),
    )
    return [part for part in parts if part]


def _how_far(groups: dict[str, list[Report]]) -> list[str]:
    """For each label with a dense level: the sparsest ticket about as accurate as it."""
    found = []
    for label, group in groups.items():
        line = points(group)
        if line[0].sparsity or len(line) < 2 or group[0]["method"] in ("eb", "eb+et"):  # whose dense run stops early
            continue
        good = [p for p in line if p.accuracy >= line[0].accuracy - CLOSE]
        text = "no ticket" if len(good) == 1 else f"the ticket with {good[-1].sparsity:.2f} % of the weights pruned"
        reaches = "" if len(good) == 1 else f" (it has {mean_and_deviation(good[-1])})"
        found.append(
            f"{label}: the dense network has {mean_and_deviation(line[0])}; {text} is within a point of that{reaches}."
        )
    return found


def _against_random(groups: dict[str, list[Report]]) -> str | None:
    for together in reversed(rivals([report for group in groups.values() for report in group])):
        methods = {groups[label][0]["method"]: label for label in together.points}
        if {"imp", "random"} <= methods.keys():
            imp, random = (together.points[methods[name]] for name in ("imp", "random"))
            gap = imp.accuracy - random.accuracy
            if abs(gap) <= _spread(imp, random):
                return f"At {imp.sparsity:.2f} % random masks do as well as imp: these are no winning tickets."
            word = "above" if gap > 0 else "below"
            return (
                f"At {imp.sparsity:.2f} % imp's tickets are {abs(gap):.1f} points {word} random masks of the same "
                f"layer densities ({mean_and_deviation(imp)} against {mean_and_deviation(random)})."
            )
    return None


def _fastest(groups: dict[str, list[Report]], reports: list[Report]) -> str | None:
    compared = [(label, finished(group), baseline(finished(group), reports)) for label, group in groups.items()]
    compared = [item for item in compared if item[2]]
    if not compared:
        return None
    label, group, base = min(compared, key=lambda item: mean_seconds(item[1], "seconds"))
    seconds, against = mean_seconds(group, "seconds"), mean_seconds(base, "seconds")
    if seconds >= against:
        return None
    sparsity = points(group)[-1].sparsity
    return (
        f"{label} is the fastest way to a ticket, of {sparsity:.2f} %: {duration(seconds)} and {epochs(group):.0f} "
        f"epochs from start to end, where imp takes {duration(against)} and {epochs(base):.0f} to its sparsest."
    )


def _saves(groups: dict[str, list[Report]], reports: list[Report]) -> str | None:
    """Cost of the most accurate of the sparsest tickets."""
    for label, point in rivals(reports)[-1].ranked:
        group = groups[label]
        parts = [share(group, reports, counted) for counted in (operations, energy)]
        if group[0]["method"] not in NO_SEARCH and parts[0] is not None and parts[1] is not None:
            return (
                f"{label}'s ticket of {point.sparsity:.2f} % needs {parts[0]:.1f} % of the dense network's synaptic "
                f"operations for an image, and an estimated {parts[1]:.1f} % of its energy."
            )
    return None
