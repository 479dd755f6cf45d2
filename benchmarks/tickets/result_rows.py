"""Figures of finished searches as rows: accuracy by sparsity, time of search, T_early, masks, findings."""

import datetime
import statistics
from collections.abc import Sequence

from benchmarks.rows import Row
from benchmarks.tickets.findings import findings
from benchmarks.tickets.runs import Size
from benchmarks.tickets.table import firing_rate, search_runs, unions, unions_of_random
from benchmarks.timing import Timing
from snn_sparse.reports.compare import points
from snn_sparse.tickets.run_files import RunFiles

ACCURACY, FINDING, SEARCH, EARLY, SEEDS = "% accuracy at ", "finding", "search seconds", "T_early", "seeds"


def size_rows(size: Size) -> list[Row]:
    """Rows of runs of one size; the provider is the method, or the finding."""
    rows: list[Row] = []
    for method in size.methods:
        for point in points(size.of(method)):
            rows.append(_row(size, method, f"{ACCURACY}{point.sparsity:.2f} %", point.accuracies))
        rows.append(_row(size, method, SEEDS, [len({r["seed"] for r in size.of(method)})]))
        done = search_runs(size, method)
        rows += [_row(size, method, SEARCH, [r["search_seconds"] for r in done])] if done else []
        early = [r["timesteps_early"] for r in size.of(method) if r["timesteps_early"]]
        rows += [_row(size, method, EARLY, early)] if early else []
    rows += _mask_rows(size)
    rows += [_row(size, f.name, FINDING, [f.value], f"{f.verdict}: {f.figures}") for f in findings(size)]
    return rows


def _mask_rows(size: Size) -> list[Row]:
    """Rows of what IMP's masks are like at each level, over seeds."""
    found: dict[str, list[float]] = {}
    for report in size.of("imp"):
        for level in report["levels"]:
            ticket, rate = RunFiles(report["run"]).load_ticket(level["level"]), firing_rate(level)
            dead = sum(row["dead_filters"] for row in level["layers"])
            values = {"dead filters": dead, "% firing rate": rate}
            if ticket is not None:
                values["% of columns in a union of 16"] = unions(ticket.mask)
                values["% in that of random masks"] = unions_of_random(ticket.mask)
            for metric, value in values.items():
                if value is not None:
                    found.setdefault(f"{metric} at {level['sparsity']:.1f} %", []).append(value)
    return [_row(size, "imp", metric, values) for metric, values in found.items()]


def _row(size: Size, provider: str, metric: str, values: Sequence[float], reason: str = "") -> Row:
    """A row over seeds: the mean, and the quantiles of :class:`Row`; where and with what the first run computed."""
    there, timing = size.reports[0]["environment"], Timing(list(values))
    made = f"snn_sparse {there.get('snn_sparse', '?')}, torch {there.get('torch', '?')}"
    place = (size.machine, made, str(there.get("commit") or "unknown")[:12], datetime.date.today().isoformat())
    mean = statistics.fmean(values)
    return Row(size.case, provider, metric, mean, timing.quantile(0.2), timing.quantile(0.8), *place, reason)
