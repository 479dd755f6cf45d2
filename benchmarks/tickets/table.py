"""Accuracy by sparsity and search time of runs, beside the published figures, and what IMP's masks are like."""

import statistics

import torch

from benchmarks.tickets.published import COLUMNS, WHERE, published_for
from benchmarks.tickets.runs import Size
from snn_sparse.ops.convolution.mask_structure import row_order, union_fraction
from snn_sparse.reports.compare import duration, mean_and_deviation, mean_seconds
from snn_sparse.reports.groups import Report
from snn_sparse.tickets import Mask, random_mask
from snn_sparse.tickets.run_files import RunFiles

HEADER = ("method", "seeds", "dense", *(f"{column:.2f} %" for column in COLUMNS), "T search", "search")
ROWS = 16  # filters that a kernel with gathered columns computes at once
INSIDE_HEADER = (
    *("pruned", "first layer", "last convolution", "dead filters", "firing rate"),
    *(f"union of {ROWS}", "of random masks"),
)


def table(size: Size) -> list[tuple[str, ...]]:
    """Rows under :data:`HEADER`: one for each method, then the published ones.

    A cell is the mean accuracy over seeds at the level nearest to the column, and where that is not the column's
    sparsity to half a percent, the level's in brackets. ``search`` is the time of the search alone, mean over the
    runs that reach the last column; finished runs only.
    """
    rows = []
    for method in size.methods:
        seeds = {r["seed"] for r in size.of(method)}
        cells = [_cell(size, method, column) for column in (0.0, *COLUMNS)]
        rows.append((method, str(len(seeds)), *cells, _timesteps(size, method), _search(size, method)))
    for line in published_for(size.reports[0]["arch"]):
        cells = [f"{accuracy:.2f} %" for accuracy in line.accuracies]
        rows.append((f"published {line.network} {line.method}", "", "", *cells, "", f"{line.hours:.2f} h"))
    return rows


def _cell(size: Size, method: str, column: float) -> str:
    point = size.at(method, column)
    if point is None:
        return ""
    where = "" if abs(point.sparsity - column) < 0.5 else f" ({point.sparsity:.2f})"
    return mean_and_deviation(point) + where


def _timesteps(size: Size, method: str) -> str:
    early = {r["timesteps_early"] or r["timesteps"] for r in size.of(method)}
    return ", ".join(map(str, sorted(early)))


def search_runs(size: Size, method: str) -> list[Report]:
    """Finished runs of a method that come as near to the last column as any of them."""
    done = size.of(method, finished=True)
    most = max((r["levels"][-1]["sparsity"] for r in done), default=0.0)
    return [r for r in done if r["levels"][-1]["sparsity"] > most - 0.1]


def _search(size: Size, method: str) -> str:
    runs = search_runs(size, method)
    return duration(mean_seconds(runs, "search_seconds")) if runs else "unfinished"


def caption(size: Size) -> str:
    """Say what the rows of :func:`table` were measured on, and the published ones."""
    return f"{size.case}; {size.machine}; published: {WHERE}"


def unions(mask: Mask) -> float:
    """Share of the input columns that groups of 16 filters use, filters with similar columns together, in percent.

    Mean over the convolutions, each as often as it has weights.
    """
    kernels = [m for m in mask.values() if m.dim() == 4 and m.shape[-1] > 1]
    used = sum(m.numel() * union_fraction(m, ROWS, row_order(m, ROWS)) for m in kernels)
    return 100 * used / sum(m.numel() for m in kernels)


def unions_of_random(mask: Mask) -> float:
    """:func:`unions` of a random mask with the same number of live weights in every layer."""
    return unions(random_mask(mask, torch.Generator().manual_seed(0)))


def firing_rate(level: dict) -> float | None:
    """Percent of neurons and timesteps that spike: mean over the layers; None of a level without a profile."""
    layers = level.get("profile", {}).get("layers", [])
    rates = [row["firing_rate"] for row in layers if row.get("firing_rate") is not None]
    return statistics.fmean(rates) if rates else None


def inside(report: Report) -> list[tuple[str, ...]]:
    """Rows under :data:`INSIDE_HEADER`, one for each level of the run whose directory ``report["run"]`` is."""
    rows: list[tuple[str, ...]] = []
    for level in report["levels"]:
        convolutions = [row for row in level["layers"] if row["name"] not in ("classifier", "fc1", "fc2")]
        rate, ticket = firing_rate(level), RunFiles(report["run"]).load_ticket(level["level"])
        assert ticket is not None  # its level is reported on
        rows.append(
            (
                f"{level['sparsity']:.2f} %",
                f"{convolutions[0]['density']:.2f} %",
                f"{convolutions[-1]['density']:.2f} %",
                str(sum(row["dead_filters"] for row in level["layers"])),
                "-" if rate is None else f"{rate:.2f} %",
                f"{unions(ticket.mask):.1f} %",
                f"{unions_of_random(ticket.mask):.1f} %",
            )
        )
    return rows
