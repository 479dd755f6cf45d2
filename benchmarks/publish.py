"""``python -m benchmarks publish``: rows -> tables in the README and plots beside the rows."""

import io
import re
from pathlib import Path

from benchmarks.rows import RESULTS, Row, read

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"


def select(rows: list[Row], case: str, metric: str) -> dict[str, Row]:
    """Rows of one case and metric, by provider."""
    return {r.provider: r for r in rows if r.case == case and r.metric == metric}


def tables(rows: list[Row]) -> str:
    """One Markdown table a case: ratios to the first provider, and memory where it was measured."""
    parts = []
    for case in dict.fromkeys(r.case for r in rows):
        faster, memory = select(rows, case, "times faster"), select(rows, case, "of the reference's memory")
        accuracy = select(rows, case, "% accuracy at the last level")
        any_row = next(iter(faster.values()))
        head, rule = "| | times faster | p20 to p80 |", "|---|---|---|"
        head, rule = (head + " peak memory |", rule + "---|") if memory else (head, rule)
        head, rule = (head + " accuracy at the last level |", rule + "---|") if accuracy else (head, rule)
        lines = [f"{case}; {any_row.device}; {any_row.versions}; {any_row.date}", "", head, rule]
        for name, row in faster.items():
            line = f"| {name} | {row.median:.2f}x | {row.p20:.2f} to {row.p80:.2f} |"
            if memory:
                line += f" {100 * memory[name].median:.0f} % |" if name in memory else " |"
            line += f" {accuracy[name].median:.2f} % |" if accuracy else ""
            lines.append(line)
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def readme_with(text: str, rows: list[Row]) -> str:
    """The README with its tables made anew.

    Raises:
        ValueError: the markers are missing.
    """
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"README has no {BEGIN} ... {END}")
    return pattern.sub(lambda _: f"{BEGIN}\n\n{tables(rows)}\n\n{END}", text)


def plot(rows: list[Row]) -> bytes:
    """Times faster than the reference, one panel a case, as PNG."""
    from matplotlib.figure import Figure

    cases = list(dict.fromkeys(r.case for r in rows))
    figure = Figure(figsize=(8, 0.6 + 2.9 * len(cases)), layout="constrained")
    for axes, case in zip(figure.subplots(len(cases), squeeze=False)[:, 0], cases, strict=True):
        found = select(rows, case, "times faster")
        names, medians = list(found), [r.median for r in found.values()]
        low = [r.median - r.p20 for r in found.values()]
        high = [r.p80 - r.median for r in found.values()]
        axes.barh(names, medians, xerr=[low, high], color=["#56B4E9" if "fused" in n else "#999999" for n in names])
        for y, value in enumerate(medians):
            axes.text(value + max(high[y], 0) + 0.1, y, f"{value:.1f}x", va="center", fontsize=8)
        axes.invert_yaxis()
        axes.tick_params(labelsize=8)
        axes.set_title(f"{case}: times faster than {names[0]}", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.1)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def published_rows() -> list[Row]:
    """The rows that the README shows: training steps and the whole search."""
    return [row for name in ("train-step", "search") for row in read(RESULTS / f"{name}.jsonl")]


def publish() -> None:
    """Write the README's tables and the plot of the training step."""
    README.write_text(readme_with(README.read_text(), published_rows()))
    (RESULTS / "train-step.png").write_bytes(plot(read(RESULTS / "train-step.jsonl")))
