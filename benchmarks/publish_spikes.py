"""Rows of ``python -m benchmarks spikes`` -> tables and a plot of ``docs/kernels.md``."""

import io
import re

from benchmarks.rows import Row
from benchmarks.spikes import DIRECTIONS, SPIKES

COLOURS = {SPIKES: "#D55E00", "live 75 %": "#9ecae1", "live 90 %": "#4292c6", "live 98 %": "#084594"}
_CASE = re.compile(r"(?P<direction>[a-z ]+) (?P<layer>\d+x\d+x\d+) (?P<rate>[\d.]+) % spikes, (?P<rest>.*)")
Ratios = dict[str, dict[str, dict[str, dict[float, float]]]]  # direction -> layer -> provider -> rate -> times faster


def ratios_of(rows: list[Row]) -> Ratios:
    """Medians of how many times faster than the faster dense way, without the dense ways themselves."""
    found: Ratios = {}
    for row in rows:
        case = _CASE.fullmatch(row.case)
        if row.metric != "times faster" or row.provider.startswith("dense") or case is None:
            continue
        layers = found.setdefault(case["direction"], {})
        layers.setdefault(case["layer"], {}).setdefault(row.provider, {})[float(case["rate"])] = row.median
    return {direction: found[direction] for direction in DIRECTIONS if direction in found}


def _cells(way: dict[str, dict[float, float]], provider: str, rates: list[float]) -> list[str]:
    known = way.get(provider, {})
    return [f"{known[rate]:.1f}x" if rate in known else "" for rate in rates]


def spikes_tables(rows: list[Row]) -> str:
    """One table a direction: a line a layer, from spikes by firing rate, then at live weights (median over rates)."""
    parts = [f"{rows[0].device}; {rows[0].versions}; {rows[0].date}"] if rows else []
    for direction, layers in ratios_of(rows).items():
        rates = sorted({rate for way in layers.values() for of in way.values() for rate in of})
        lives = sorted({name for way in layers.values() for name in way if name != SPIKES})
        rated = direction != "input gradient"  # which does not know what spiked
        heads = [f"from spikes, {rate:g} %" for rate in rates] if rated else ["by Winograd"]
        lines = [f"| {direction} | {' | '.join([*heads, *lives])} |", "|---" * (1 + len(heads) + len(lives)) + "|"]
        for layer, way in layers.items():
            middle = {name: sorted(of.values())[len(of) // 2] for name, of in way.items()}
            first = _cells(way, SPIKES, rates) if rated else [f"{middle[SPIKES]:.1f}x" if SPIKES in middle else ""]
            last = [f"{middle[name]:.1f}x" if name in middle else "" for name in lives]
            lines.append(f"| {layer} | {' | '.join([*first, *last])} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def spikes_plot(rows: list[Row]) -> bytes:
    """Times faster than dense by firing rate, a column a layer, a line of panels a direction, as PNG."""
    from matplotlib.figure import Figure

    found = ratios_of(rows)
    layers = list(dict.fromkeys(layer for of in found.values() for layer in of))
    figure = Figure(figsize=(2.1 * len(layers), 2.1 * len(found) + 0.5), layout="constrained")
    panels = figure.subplots(len(found), len(layers), squeeze=False, sharex=True)
    for line, (direction, of) in zip(panels, found.items(), strict=True):
        for axes, layer in zip(line, layers, strict=True):
            for provider, points in of.get(layer, {}).items():
                by_rate = sorted(points.items())
                axes.plot(*zip(*by_rate, strict=True), marker=".", color=COLOURS.get(provider), label=provider)
            axes.axhline(1, color="#999999", linewidth=0.8, linestyle="--")
            axes.set_yscale("log", base=2)
            axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}x")
            axes.tick_params(labelsize=7)
            axes.spines[["top", "right"]].set_visible(False)
            axes.set_title(f"{direction}, {layer}", fontsize=7)
    for axes in panels[-1]:
        axes.set_xlabel("% of the input that spikes", fontsize=7)
    lines, names = panels[0][0].get_legend_handles_labels()
    names = ["from spikes (input gradient: by Winograd)" if name == SPIKES else name for name in names]
    figure.legend(lines, names, loc="outside upper center", ncols=4, fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()
