"""Page of a report: ``report.html``, one self-contained file with tables and plots."""

import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from snn_sparse.reports.compare import HEADER, duration, table_rows
from snn_sparse.reports.groups import Report, by_label
from snn_sparse.reports.plots import PLOTS, draw, draw_svg
from snn_sparse.reports.story import BEST_HEADER, COST_HEADER, WHAT_A_TICKET_IS, best_rows, cost_rows, sentences
from snn_sparse.reports.summary import unfinished
from snn_sparse.tickets.settings import data_name, network_name
from snn_sparse.training.files import write_atomic
from snn_sparse.training.profile_rows import PROFILE_HEADER, profile_notes, profile_section

LEVEL_HEADER = ("level", "sparsity", "accuracy", "T", "epochs", "time", "dead filters", "dead channels")
LAYER_HEADER = ("layer", "live weights", "dead filters", "dead channels")


def level_rows(report: Report) -> list[tuple[str, ...]]:
    """Rows under :data:`LEVEL_HEADER`: one for each finished level of a run."""
    return [
        (
            str(level["level"]),
            f"{level['sparsity']:.2f} %",
            f"{level['accuracy']:.2f} %",
            str(level["timesteps"]),
            str(level["epochs"]),
            duration(level["seconds"]),
            str(sum(layer["dead_filters"] for layer in level["layers"])),
            str(sum(layer["dead_channels"] for layer in level["layers"])),
        )
        for level in report["levels"]
    ]


def layer_rows(report: Report) -> list[tuple[str, ...]]:
    """Rows under :data:`LAYER_HEADER`: one for each layer of a run's last level."""
    last = report["levels"][-1]["layers"]
    return [(r["name"], f"{r['density']:.2f} %", str(r["dead_filters"]), str(r["dead_channels"])) for r in last]


def render(reports: list[Report], plots: dict[str, tuple[str, str]]) -> str:
    """Fill the template ``report.html.jinja``; ``plots`` are SVGs by name, for wide windows and for narrow ones."""
    environment = Environment(
        loader=PackageLoader("snn_sparse.reports", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("report.html.jinja").render(
        reports=[(label, report) for label, group in by_label(reports).items() for report in group],
        kept_together=kept_together,
        unique=lambda key: ", ".join(dict.fromkeys(str(report[key]) for report in reports)),
        title="Winning tickets: {} on {}".format(*(", ".join(names) for names in _names(reports))),
        ticket=WHAT_A_TICKET_IS,
        unfinished=unfinished(reports),
        problems=problems(reports),
        header=HEADER,
        rows=table_rows(reports),
        plots={name: (PLOTS[name][0], *map(Markup, both)) for name, both in plots.items()},
        best_header=BEST_HEADER,
        cost_header=COST_HEADER,
        level_header=LEVEL_HEADER,
        level_rows=level_rows,
        layer_header=LAYER_HEADER,
        layer_rows=layer_rows,
        profile_header=PROFILE_HEADER,
        profile_rows=profile_section,
        profile_notes=profile_notes,
    )


def kept_together(text: str) -> str:
    """The same text, but no line breaks between a number and its unit."""
    return re.sub(r"(?<=\d) (?=(?:%|s)(?!\w))", "\N{NO-BREAK SPACE}", text)


def _names(reports: list[Report]) -> tuple[dict[str, None], dict[str, None]]:
    """Names of the networks, and of the data, each once and in the order of the reports."""
    settings = [report["settings"] for report in reports]
    return dict.fromkeys(map(network_name, settings)), dict.fromkeys(map(data_name, settings))


def problems(reports: list[Report]) -> list[dict[str, Any]]:
    """For each network and data set, which alone can be compared: title, sentences, and rows of the two tables."""
    found: dict[str, list[Report]] = {}
    for report in reports:
        network, data = network_name(report["settings"]), data_name(report["settings"])
        found.setdefault(f"{network} on {data}", []).append(report)
    return [
        {"title": title, "sentences": sentences(own), "best": best_rows(own), "cost": cost_rows(own)}
        for title, own in found.items()
    ]


def write_report(reports: list[Report], out: str | Path) -> Path:
    """Write ``report.html`` and the plots as PNG files into ``out``; returns the page's path."""
    out = Path(out)
    for name in PLOTS:
        write_atomic(out / f"{name}.png", draw(name, reports))
    plots = {name: (draw_svg(name, reports), draw_svg(name, reports, narrow=True)) for name in PLOTS}
    write_atomic(out / "report.html", render(reports, plots).encode())
    return out / "report.html"
