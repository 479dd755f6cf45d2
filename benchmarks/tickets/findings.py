"""The paper's findings as checks that can fail, each with the figures that it was judged by."""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from benchmarks.tickets.runs import Size
from snn_sparse.reports.compare import Point, mean_seconds

SHOWN, NOT_SHOWN, TOO_SHORT = "shown", "not shown", "run too short to show it"
Verdict = Literal["shown", "not shown", "run too short to show it"]
DENSE, AT_90, AT_95, AT_98 = 0.0, 89.91, 95.69, 98.13
ONE_SEED = 3.0  # points of accuracy within which single seeds count as equal; short runs scatter by more than one
LEAST_NOISE = 0.5  # points; so much ten thousand test images leave open, whatever a few seeds say
CLOSE = 1.0  # points below the dense network within which a ticket matches it
LITTLE = 1.5  # points that Early-Time may cost; published: 0.7 (VGG16) and 1.1 (ResNet19) at 98.13 %
HEADS = ("classifier", "fc1", "fc2")  # layers that are no convolutions


@dataclass(frozen=True)
class Finding:
    """One finding, judged.

    Attributes:
        name: what the paper says.
        verdict: :data:`SHOWN`, :data:`NOT_SHOWN` or :data:`TOO_SHORT`.
        figures: what it was judged by, in words.
        value: the figure that decided.
    """

    name: str
    verdict: Verdict
    figures: str
    value: float = 0.0


def noise(a: Point, b: Point) -> float:
    """Points of accuracy that two means may differ by through the seeds alone: two standard errors."""
    if a.deviation is None or b.deviation is None:
        return ONE_SEED
    errors = (p.deviation**2 / len(p.by_seed) for p in (a, b) if p.deviation is not None)
    return max(LEAST_NOISE, 2 * math.sqrt(sum(errors)))


def judge(margin: float, need: float, against: float) -> Verdict:
    """Judge a margin: shown from ``need`` on, not shown from ``-against`` down, between them too short to tell."""
    return "shown" if margin >= need else "not shown" if margin <= -against else "run too short to show it"


def worst(*verdicts: Verdict) -> Verdict:
    """Combine the verdicts of the parts of a finding: it is shown if all are."""
    order: tuple[Verdict, ...] = ("not shown", "run too short to show it", "shown")
    return min(verdicts, key=order.index)


def _said(name: str, point: Point) -> str:
    return f"{name} {point.accuracy:.2f} % at {point.sparsity:.2f} %"


def _missing(name: str, size: Size, *wanted: tuple[str, float]) -> Finding:
    """Say which points a finding lacks."""
    lacking = [f"{m} at {s:.2f} %" if s else f"dense {m}" for m, s in wanted if size.at(m, s) is None]
    return Finding(name, "run too short to show it", f"no {', no '.join(lacking)}")


def as_good_as_dense(size: Size) -> Finding:
    """Judge whether IMP's ticket at 90 % is within a point of the dense network."""
    name = "tickets match the dense network within a point at 90 %"
    dense, ticket = size.at("imp", DENSE), size.at("imp", AT_90)
    if dense is None or ticket is None:
        return _missing(name, size, ("imp", DENSE), ("imp", AT_90))
    margin = CLOSE - (dense.accuracy - ticket.accuracy)
    figures = f"{_said('imp', ticket)}, dense {dense.accuracy:.2f} %"
    return Finding(name, judge(margin, 0, noise(dense, ticket)), figures, margin)


def above_random(size: Size) -> Finding:
    """Judge whether IMP is above random masks of the same layer densities at 95 %, and more so at 98 %."""
    name = "IMP is above random masks at 95 %, and more so at 98 %"
    a, b, c, d = (size.at(m, s) for s in (AT_95, AT_98) for m in ("imp", "random"))
    if a is None or b is None or c is None or d is None:
        return _missing(name, size, *((m, s) for s in (AT_95, AT_98) for m in ("imp", "random")))
    at_95, at_98 = a.accuracy - b.accuracy, c.accuracy - d.accuracy
    parts = [judge(at_95, noise(a, b), noise(a, b)), judge(at_98, noise(c, d), noise(c, d))]
    parts.append(judge(at_98 - at_95, 0, math.hypot(noise(a, b), noise(c, d))))
    figures = f"{_said('imp', a)}, random {b.accuracy:.2f} %; {_said('imp', c)}, random {d.accuracy:.2f} %"
    return Finding(name, worst(*parts), figures, at_98)


def early_bird_falls_behind(size: Size) -> Finding:
    """Judge whether EB is below IMP at 98 %, and farther than at 90 %."""
    name = "EB falls behind IMP beyond 95 %"
    a, b, c, d = (size.at(m, s) for s in (AT_90, AT_98) for m in ("imp", "eb"))
    if a is None or b is None or c is None or d is None:
        return _missing(name, size, *((m, s) for s in (AT_90, AT_98) for m in ("imp", "eb")))
    at_90, at_98 = a.accuracy - b.accuracy, c.accuracy - d.accuracy
    parts = [judge(at_98, noise(c, d), noise(c, d))]
    parts.append(judge(at_98 - at_90, 0, math.hypot(noise(a, b), noise(c, d))))
    figures = f"{_said('imp', a)}, eb {b.accuracy:.2f} %; {_said('imp', c)}, eb {d.accuracy:.2f} %"
    return Finding(name, worst(*parts), figures, at_98)


def early_time_is_quicker(size: Size) -> Finding:
    """Judge whether IMP+ET searches in less time than IMP, and loses little at 98 %."""
    name = "ET shortens IMP's search at little loss (published: 1.35x VGG16, 1.58x ResNet19)"
    plain, early = size.of("imp", finished=True), size.of("imp+et", finished=True)
    a, b = size.at("imp", AT_98), size.at("imp+et", AT_98)
    if not plain or not early or a is None or b is None:
        missing = _missing(name, size, ("imp", AT_98), ("imp+et", AT_98))
        return (
            missing if a is None or b is None else Finding(name, "run too short to show it", "a search is unfinished")
        )
    ratio = mean_seconds(plain, "search_seconds") / mean_seconds(early, "search_seconds")
    steps = _mean_timesteps(plain) / _mean_timesteps(early)
    loss = a.accuracy - b.accuracy
    chosen = ", ".join(sorted({str(r["timesteps_early"]) for r in early}))
    figures = (
        f"T_early {chosen} of {early[0]['timesteps']}; {ratio:.2f}x in time, {steps:.2f}x in timesteps trained; "
        f"{_said('imp', a)}, imp+et {b.accuracy:.2f} %"
    )
    verdict = worst(judge(ratio - 1, 0.1, 0), judge(LITTLE - loss, 0, noise(a, b)))
    return Finding(name, verdict, figures, ratio)


def _mean_timesteps(reports: list[dict]) -> float:
    """Epochs times timesteps of the searches, which no other user of the machine can change; mean over runs."""
    return statistics.fmean(sum(lv["epochs"] * lv["timesteps"] for lv in r["levels"][:-1]) for r in reports)


def deep_layers_are_pruned_more(size: Size) -> Finding:
    """Judge whether the last third of the convolutions keeps a smaller share of its weights than the first third."""
    name = "deep layers are pruned more"
    ends = [r["levels"][-1] for r in size.of("imp") if r["levels"][-1]["sparsity"] > 0]
    if not ends:
        return Finding(name, "run too short to show it", "no pruned level of imp")
    end = max(ends, key=lambda level: level["sparsity"])
    densities = [row["density"] for row in end["layers"] if row["name"] not in HEADS]
    third = max(1, len(densities) // 3)
    first, last = statistics.fmean(densities[:third]), statistics.fmean(densities[-third:])
    figures = f"imp at {end['sparsity']:.2f} %: first third of the convolutions {first:.2f} % alive, last {last:.2f} %"
    return Finding(name, "shown" if last < first else "not shown", figures, first - last)


def snip_is_no_better_than_random(size: Size) -> Finding:
    """Judge whether SNIP is at or below random masks (with IMP's layer densities) at 98 %."""
    name = "SNIP is at or below random masks at 98 %"
    snip, control = size.at("snip", AT_98), size.at("random", AT_98)
    if snip is None or control is None:
        return _missing(name, size, ("snip", AT_98), ("random", AT_98))
    margin = control.accuracy - snip.accuracy
    figures = f"{_said('snip', snip)}, random {control.accuracy:.2f} %"
    return Finding(name, judge(margin, 0, noise(snip, control)), figures, margin)


CHECKS: tuple[Callable[[Size], Finding], ...] = (
    as_good_as_dense,
    above_random,
    early_bird_falls_behind,
    early_time_is_quicker,
    deep_layers_are_pruned_more,
    snip_is_no_better_than_random,
)


def findings(size: Size) -> list[Finding]:
    """Judge all findings on runs of one size."""
    return [check(size) for check in CHECKS]
