"""Plots of one or more runs: accuracy against sparsity, density by layer, search time; PNG files, SVG in pages."""

import io
import math
import re
import statistics
from collections.abc import Callable
from typing import Any

from snn_sparse.reports.compare import mean_seconds, points, sparsest
from snn_sparse.reports.groups import Report, by_label

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
OTHER = "#8A8A8A"
PALEST = 0.65  # share of white in the last of several labels of one method
MARKERS = "os^Dv"
MARKED = 40  # longer lines are drawn without markers
TICKS = 10  # labels on an axis of sparsity
LISTED = 10  # labels that fit beside each other: longer legends stand outside, in small print
INK = "#010203"  # of text and axes in an SVG; the page's colour takes its place
UNITS = ((3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))
SHORT_UNITS = {"hours": "h", "minutes": "min", "seconds": "s"}
Plot = Callable[[Any, list[Report]], None]


def looks(groups: dict[str, list[Report]]) -> dict[str, tuple[Any, str]]:
    """Colour and marker of each label: the method's colour, paler and paler where a method has several labels."""
    from matplotlib.colors import to_rgb

    of_method: dict[str, list[str]] = {}
    for label, group in groups.items():
        of_method.setdefault(group[0]["method"], []).append(label)
    found: dict[str, tuple[Any, str]] = {}
    for method, labels in of_method.items():
        for i, label in enumerate(labels):
            white = PALEST * i / max(1, len(labels) - 1)
            colour = tuple(white + (1 - white) * part for part in to_rgb(COLOURS.get(method, OTHER)))
            found[label] = (colour, MARKERS[i % len(MARKERS)])
    return found


def _legend(axes: Any, entries: int, **options: Any) -> None:
    outside = {"loc": "upper left", "bbox_to_anchor": (1.01, 1), "fontsize": "xx-small"} if entries > LISTED else {}
    axes.legend(frameon=False, **outside, **options)


def accuracy_against_sparsity(axes: Any, reports: list[Report]) -> None:
    """Mean over seeds as a line, deviation as a band; x: weights left, logarithmic, sparser to the right."""
    left: set[float] = set()
    groups = by_label(reports)
    look = looks(groups)
    for label, group in groups.items():
        line = [p for p in points(group) if p.sparsity < 100]  # a logarithm shows no weights left nowhere
        x = [100 - p.sparsity for p in line]
        left.update(float(f"{v:.3g}") for v in x)
        colour, marker = look[label]
        seeds = len({report["seed"] for report in group})
        style = {"marker": marker, "markersize": 5} if len(line) <= MARKED else {}
        axes.plot(x, [p.accuracy for p in line], "-", label=f"{label} ({seeds})", color=colour, **style)
        low, high = ([p.accuracy + sign * (p.deviation or 0) for p in line] for sign in (-1, 1))
        axes.fill_between(x, low, high, alpha=0.15, color=colour, linewidth=0)
    axes.set_xscale("log")
    axes.invert_xaxis()
    ticks = _spread(sorted(left))
    axes.set_xticks(ticks, [_pruned(v) for v in ticks])
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_formatter(_percent)
    axes.set_xlabel("weights pruned (%)")
    axes.set_ylabel("test accuracy, mean ± standard deviation")
    _legend(axes, len(groups), title="method (seeds)")


def _percent(value: float, _place: int = 0) -> str:
    """Label of a percent axis: ``92.5 %``, ``0.1 %``."""
    return f"{value:.6g} %"


def _pruned(left: float) -> str:
    """Percent pruned where ``left`` percent are left, with the digits that tell it from 100."""
    digits = max(2, 2 - math.ceil(math.log10(left)))
    return f"{100 - left:.{digits}f}".rstrip("0").rstrip(".")


def _spread(values: list[float]) -> list[float]:
    """Values far enough apart for their labels on a logarithmic axis: a factor 1.35, more where they would be many."""
    if not values:
        return []
    step = max(1.35, (values[-1] / values[0]) ** (1 / TICKS))
    kept: list[float] = []
    for value in values:
        if not kept or value >= step * kept[-1]:
            kept.append(value)
    return kept


def density_by_layer(axes: Any, reports: list[Report]) -> None:
    """Live weights of each layer at the sparsest last level, mean over runs."""
    groups = by_label(reports)
    look = looks(groups)
    width = 0.8 / len(groups)
    names: dict[str, int] = {}  # layer to place on the axis; other networks have other layers
    for i, (label, group) in enumerate(groups.items()):
        last = [report["levels"][-1]["layers"] for report in sparsest(group)]
        place = [names.setdefault(layer["name"], len(names)) for layer in last[0]]
        density = [statistics.fmean(layer["density"] for layer in one) for one in zip(*last, strict=True)]
        x = [k + (i - (len(groups) - 1) / 2) * width for k in place]
        axes.bar(x, density, width, label=label, color=look[label][0])
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    low = min((v for bars in axes.containers for v in bars.datavalues if v > 0), default=100.0)
    axes.set_ylim(10.0 ** (math.ceil(math.log10(low)) - 1), 100)  # whole powers of ten, which have round labels
    axes.set_yscale("log")
    axes.yaxis.set_minor_formatter("")
    axes.yaxis.set_major_formatter(_percent)
    axes.set_ylabel("live weights at the last level")
    _legend(axes, len(groups))


def search_time(axes: Any, reports: list[Report]) -> None:
    """Time of search and of the last training, mean over runs; the quickest on top."""
    groups = by_label(reports)
    look = looks(groups)
    total = {label: mean_seconds(group, "seconds") for label, group in groups.items()}
    names = sorted(groups, key=lambda label: total[label])
    size, unit = time_unit(max(total.values()))
    search = [mean_seconds(groups[name], "search_seconds") / size for name in names]
    rest = [total[name] / size - s for name, s in zip(names, search, strict=True)]
    colours = [look[name][0] for name in names]
    axes.barh(names, search, color=colours, label="search")
    axes.barh(names, rest, left=search, color=colours, alpha=0.35, label="last training")
    for y, name in enumerate(names):
        offset = {"xytext": (4, 0), "textcoords": "offset points"}
        axes.annotate(time_text(total[name]), (total[name] / size, y), va="center", **offset)
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set_xlabel(f"{unit} (full colour: search; light: training of the ticket)")


def time_unit(seconds: float) -> tuple[float, str]:
    """Unit in which to tell so much time: its seconds, and its name."""
    return next((size, unit) for size, unit in UNITS if seconds >= 2 * size or size == 1)


def time_text(seconds: float) -> str:
    """Time in one unit, with three digits or all before the point: ``12.3 s``, ``4.5 min``, ``52 h``."""
    size, unit = time_unit(seconds)
    value = seconds / size
    return f"{value:.{0 if value >= 99.95 else 1}f} {SHORT_UNITS[unit]}"


PLOTS: dict[str, tuple[str, Plot]] = {
    "accuracy": ("Accuracy against sparsity", accuracy_against_sparsity),
    "density": ("Density by layer", density_by_layer),
    "time": ("Search time", search_time),
}


def draw(name: str, reports: list[Report]) -> bytes:
    """One of :data:`PLOTS` as the bytes of a PNG file."""
    buffer = io.BytesIO()
    _figure(name, reports, narrow=False).savefig(buffer, format="png", dpi=140)
    return buffer.getvalue()


def draw_svg(name: str, reports: list[Report], narrow: bool = False) -> str:
    """One of :data:`PLOTS` as an ``<svg>`` to stand in a page: its ink is the text's colour, its ground transparent.

    Args:
        name: of the plot.
        reports: of the runs.
        narrow: made for a telephone, without a title.
    """
    import matplotlib as mpl

    inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color")
    style: Any = {**dict.fromkeys(inked, INK), "svg.fonttype": "none"}
    key = f"{name}-narrow" if narrow else name
    buffer = io.StringIO()
    with mpl.rc_context({**style, "svg.hashsalt": key}):
        figure = _figure(name, reports, narrow)
        figure.axes[0].set_title("")
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{key}-", svg)  # a page holds several
    title = PLOTS[name][0]
    return re.sub(r' width="[\d.]+pt" height="[\d.]+pt"', f' role="img" aria-label="{title}"', svg, count=1)


def _figure(name: str, reports: list[Report], narrow: bool) -> Any:
    from matplotlib.figure import Figure  # not pyplot: no window system, no global state

    title, plot = PLOTS[name]
    rows = len(by_label(reports))
    low = 1.3 + 0.6 * rows if name == "time" else 4.2  # one bar is no wall
    size = (
        (7.2, min(4.2, low)) if rows <= LISTED else (10, min(max(4.2, 0.3 * rows), 40))
    )  # room for the legend, a bar each
    if narrow:
        size = (3.7, min(3.4, low) + 0.2 * rows)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    plot(axes, reports)
    axes.set_title(title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, axis="x" if name == "time" else "both")
    axes.set_axisbelow(True)
    if narrow:
        _for_a_narrow_page(figure, axes)
    return figure


def _for_a_narrow_page(figure: Any, axes: Any) -> None:
    """Break the names of axes, put the legend under the plot."""
    axes.set_xlabel(axes.get_xlabel().replace(" (full", "\n(full").replace("; light", ";\nlight"))
    axes.set_ylabel(axes.get_ylabel().replace(", ", "\n"))
    legend = axes.get_legend()
    if legend is not None:
        entries, title = axes.get_legend_handles_labels(), legend.get_title().get_text()
        legend.remove()
        figure.legend(*entries, loc="outside lower center", ncols=2, frameon=False, title=title or None)
