"""Rows of finished searches -> the tables of ``docs/experiments.md``."""

from pathlib import Path

from benchmarks.publish import ROOT, Found, groups, markdown_table, with_tables
from benchmarks.rows import RESULTS, Row, read
from benchmarks.tickets.published import COLUMNS, PUBLISHED
from benchmarks.tickets.result_rows import ACCURACY, EARLY, FINDING, SEARCH, SEEDS
from snn_sparse.reports.compare import duration

PAGE = ROOT / "docs" / "experiments.md"


def ticket_tables(rows: list[Row]) -> str:
    """Markdown: for each case and machine accuracy by sparsity, one line a level, then masks, then the findings."""
    parts = [_published()]
    for (case, machine), found in groups(rows).items():
        any_row = next(iter(next(iter(found.values())).values()))
        parts.append(f"**{case}**; {machine}; {any_row.versions}; {any_row.date}")
        parts += [_accuracies(found), _masks(found), _findings(found)]
    return "\n\n".join(part for part in parts if part)


def _accuracies(found: Found) -> str:
    """Table of accuracy, one line a level and one column a method; below them T_early and time of search."""
    levels = sorted((metric for metric in found if metric.startswith(ACCURACY)), key=_sparsity)
    methods = list(dict.fromkeys(method for metric in levels for method in found[metric]))
    lines = []
    for metric in levels:
        cells = [f"{found[metric][m].median:.2f}" if m in found[metric] else "" for m in methods]
        lines.append([f"{_sparsity(metric):.2f} %", *cells])
    for name, metric in (("seeds", SEEDS), ("T_early", EARLY), ("search", SEARCH)):
        by = found.get(metric, {})
        tell = duration if metric == SEARCH else "{:g}".format
        lines.append([name, *(tell(by[m].median) if m in by else "" for m in methods)])
    return markdown_table(["pruned", *methods], lines)


def _sparsity(metric: str) -> float:
    return float(metric.rpartition(" at ")[2].removesuffix(" %"))


def _published() -> str:
    lines = [
        [f"{p.network} {p.method}", *(f"{accuracy:.2f}" for accuracy in p.accuracies), f"{p.hours:.2f} h"]
        for p in PUBLISHED
    ]
    return markdown_table(["published", *(f"{column:.2f} %" for column in COLUMNS), "search at 98.13 %"], lines)


def _masks(found: Found) -> str:
    """Table of what IMP's masks are like, one line a level."""
    kinds = [m for m in dict.fromkeys(m.rpartition(" at ")[0] for m in found) if m and not ACCURACY.startswith(m)]
    levels = sorted({_sparsity(m) for m in found if m.rpartition(" at ")[0] in kinds})
    lines = []
    for level in levels:
        rows = [found.get(f"{kind} at {level:.1f} %", {}).get("imp") for kind in kinds]
        lines.append([f"{level:.1f} %", *("" if row is None else f"{row.median:.1f}" for row in rows)])
    return markdown_table(["pruned by imp", *kinds], lines) if lines else ""


def _findings(found: Found) -> str:
    return "\n".join(
        "- {}. **{}**: {}".format(name, *row.reason.split(": ", 1)) for name, row in found.get(FINDING, {}).items()
    )


def publish_tickets(rows: Path = RESULTS / "tickets.jsonl") -> None:
    """Write the tables of ``docs/experiments.md`` from a file of rows."""
    PAGE.write_text(with_tables(PAGE.read_text(), ticket_tables(read(rows))))
