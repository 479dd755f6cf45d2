"""``report.html``: one self-contained page with tables and plots."""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from snn_sparse.reports.compare import HEADER, Report, duration, table_rows
from snn_sparse.reports.plots import PLOTS, draw
from snn_sparse.training.files import write_atomic

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1f24; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid #d8dee4; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; height: auto; } .wide { overflow-x: auto; }
summary { cursor: pointer; margin: .4rem 0; } .quiet { color: #57606a; }
"""


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _levels(report: Report) -> str:
    header = ("level", "sparsity", "accuracy", "T", "epochs", "time", "dead filters", "dead channels")
    rows = [
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
    return _table(header, rows)


def _layers(report: Report) -> str:
    last = report["levels"][-1]["layers"]
    header = ("layer", "live weights", "dead filters", "dead channels")
    rows = [(r["name"], f"{r['density']:.2f} %", str(r["dead_filters"]), str(r["dead_channels"])) for r in last]
    return _table(header, rows)


def _run(report: Report) -> str:
    title = f"{report['method']}, seed {report['seed']}"
    settings = ", ".join(f"{k} {v}" for k, v in report["settings"].items() if v is not None)
    versions = ", ".join(f"{k} {v}" for k, v in report["environment"].items() if v is not None)
    return (
        f"<details><summary>{escape(title)}</summary>{_levels(report)}<p>Layers at the last level:</p>{_layers(report)}"
        f'<p class="quiet">Settings: {escape(settings)}</p>'
        f'<p class="quiet">Environment: {escape(versions)}</p></details>'
    )


def render(reports: list[Report], plots: dict[str, bytes]) -> str:
    """The page as a string; ``plots`` are PNG files by name."""
    first = reports[0]
    title = f"Winning tickets: {first['arch']} on {first['dataset']}"
    figures = "".join(
        f'<h2>{escape(PLOTS[name][0])}</h2><img alt="{escape(PLOTS[name][0])}" '
        f'src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        for name, png in plots.items()
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head><body>'
        f"<h1>{escape(title)}</h1><p>T = {first['timesteps']} timesteps; {escape(first['device'])}. "
        "Accuracy is of the test set, after the last epoch, mean over seeds. Times are wall time of training and "
        "evaluation.</p>"
        f"{_table(HEADER, table_rows(reports))}{figures}<h2>Runs</h2>{''.join(map(_run, reports))}</body></html>\n"
    )


def write_report(reports: list[Report], out: str | Path) -> Path:
    """Write ``report.html`` and the plots as PNG files into ``out``; returns the page's path."""
    out = Path(out)
    plots = {name: draw(name, reports) for name in PLOTS}
    for name, png in plots.items():
        write_atomic(out / f"{name}.png", png)
    write_atomic(out / "report.html", render(reports, plots).encode())
    return out / "report.html"
