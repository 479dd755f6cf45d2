"""Plots of one or more runs, as PNG: accuracy against sparsity, density by layer, search time."""

import io
from collections.abc import Callable
from typing import Any

from snn_sparse.reports.compare import Report, by_method, mean_seconds, points

# Colour-blind safe (Okabe and Ito); each method keeps its colour in every plot.
COLOURS = {
    "imp": "#0072B2",
    "imp+et": "#56B4E9",
    "eb": "#009E73",
    "eb+et": "#E69F00",
    "random": "#7F7F7F",
    "snip": "#CC79A7",
    "transfer": "#D55E00",
}
Plot = Callable[[Any, list[Report]], None]


def accuracy_against_sparsity(axes: Any, reports: list[Report]) -> None:
    """Mean over seeds as a line, the range as a band; x: weights left, logarithmic, sparser to the right."""
    left: set[float] = set()
    for method, group in by_method(reports).items():
        line = points(group)
        x = [100 - p.sparsity for p in line]
        left.update(round(v, 2) for v in x)
        colour = COLOURS.get(method)
        axes.plot(x, [p.accuracy for p in line], "o-", label=f"{method} ({len(group)})", color=colour, markersize=5)
        low, high = [min(p.accuracies) for p in line], [max(p.accuracies) for p in line]
        axes.fill_between(x, low, high, alpha=0.15, color=colour, linewidth=0)
    axes.set_xscale("log")
    axes.invert_xaxis()
    ticks = _spread(sorted(left))
    axes.set_xticks(ticks, [f"{100 - v:.4g}" for v in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("weights pruned (%)")
    axes.set_ylabel("test accuracy (%)")
    axes.legend(title="method (runs)", frameon=False)


def _spread(values: list[float]) -> list[float]:
    """Values at least a factor 1.35 apart, so that their labels do not overlap on a logarithmic axis."""
    kept: list[float] = []
    for value in values:
        if not kept or value >= 1.35 * kept[-1]:
            kept.append(value)
    return kept


def density_by_layer(axes: Any, reports: list[Report]) -> None:
    """Live weights of each layer at the last level, mean over seeds."""
    groups = by_method(reports)
    width = 0.8 / len(groups)
    names: list[str] = []
    for i, (method, group) in enumerate(groups.items()):
        last = [report["levels"][-1]["layers"] for report in group]
        names = max(names, [layer["name"] for layer in last[0]], key=len)
        density = [sum(layers[k]["density"] for layers in last) / len(last) for k in range(len(last[0]))]
        x = [k + (i - (len(groups) - 1) / 2) * width for k in range(len(density))]
        axes.bar(x, density, width, label=method, color=COLOURS.get(method))
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yscale("log")
    axes.set_ylabel("live weights at the last level (%)")
    axes.legend(frameon=False)


def search_time(axes: Any, reports: list[Report]) -> None:
    """Seconds of search and of the last training, mean over seeds."""
    groups = by_method(reports)
    names = list(groups)
    search = [mean_seconds(group, "search_seconds") for group in groups.values()]
    total = [mean_seconds(group, "seconds") for group in groups.values()]
    colours = [COLOURS.get(name, "#333333") for name in names]
    axes.barh(names, search, color=colours, label="search")
    rest = [t - s for t, s in zip(total, search, strict=True)]
    axes.barh(names, rest, left=search, color=colours, alpha=0.35, label="last training")
    for y, seconds in enumerate(total):
        axes.text(seconds, y, f" {seconds:.0f} s", va="center")
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("seconds (full colour: search; light: last training)")


PLOTS: dict[str, tuple[str, Plot]] = {
    "accuracy": ("Accuracy against sparsity", accuracy_against_sparsity),
    "density": ("Density by layer", density_by_layer),
    "time": ("Search time", search_time),
}


def draw(name: str, reports: list[Report]) -> bytes:
    """One of :data:`PLOTS` as the bytes of a PNG file."""
    from matplotlib.figure import Figure  # not pyplot: no window system, no global state

    title, plot = PLOTS[name]
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    plot(axes, reports)
    axes.set_title(title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=140)
    return buffer.getvalue()
