"""``python -m benchmarks publish``: rows -> tables in the README and docs, and plots there and beside the rows."""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.floor import FLOOR
from benchmarks.kernel_classes import CLASSES
from benchmarks.projection import PUBLISHED_CASE, PUBLISHED_HOURS
from benchmarks.publish_spikes import spikes_plot, spikes_tables
from benchmarks.rows import RESULTS, SKIPPED, Row, read

ROOT = Path(__file__).resolve().parents[1]
README, FUSING, ALL, KERNELS = (
    ROOT / name for name in ("README.md", "docs/fusing.md", "docs/benchmarks.md", "docs/kernels.md")
)
PICTURE, WAYS = (ROOT / "docs" / "images" / name for name in ("train-step.png", "spikes.png"))
# The first table and picture that somebody sees: this case, and of its providers those without "uniform".
NARROW = 5.4  # inches: the letters are readable on a telephone
FIRST_CASE, FIRST_DEVICE = "train-step vgg16 3x32x32 T=5 batch 16", "threads"

BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"


Found = dict[str, dict[str, Row]]  # metric -> provider -> row


def groups(rows: list[Row]) -> dict[tuple[str, str], Found]:
    """Rows by case and device, in the order of their first rows; in each by metric and provider."""
    found: dict[tuple[str, str], Found] = {}
    for row in rows:
        found.setdefault((row.case, row.device), {}).setdefault(row.metric, {})[row.provider] = row
    return found


@dataclass(frozen=True)
class _Column:
    head: str
    metric: str
    cell: Callable[[Row], str]
    needs: str = ""  # a metric without which the column is left out


# Times by themselves, and memory in bytes, are shown for GPUs only: a processor's depend on who else uses it.
_COLUMNS = (
    _Column("step", "seconds", lambda r: f"{1e3 * r.median:.2f} ms", "images/s"),
    _Column("images/s", "images/s", lambda r: f"{r.median:.0f}"),
    _Column("times faster", "times faster", lambda r: f"{r.median:.2f}x"),
    _Column("p20 to p80", "times faster", lambda r: f"{r.p20:.2f} to {r.p80:.2f}"),
    _Column("than the best multi-step", "times faster than multi-step", lambda r: f"{r.median:.2f}x"),
    _Column("than the best not fused", "times faster than the best other", lambda r: f"{r.median:.2f}x"),
    _Column("times the floor", "times the floor", lambda r: f"{r.median:.1f}"),
    _Column("peak", "peak MB", lambda r: f"{r.median / 1024:.2f} GiB", "images/s"),
    _Column("not zero", "% of activations not zero", lambda r: f"{r.median:.0f} %"),
    _Column("peak memory", "of the reference's memory", lambda r: f"{100 * r.median:.0f} %"),
    _Column("kernels", "kernels", lambda r: f"{r.median:.0f}"),
    _Column("whole search", "projected search hours", lambda r: f"{r.median:.2f} h"),
    _Column("accuracy at the last level", "% accuracy at the last level", lambda r: f"{r.median:.2f} %"),
)


def markdown_table(head: list[str], lines: list[list[str]]) -> str:
    """A table in Markdown."""
    return "\n".join([_line(head), "|" + "---|" * len(head), *map(_line, lines)])


def _line(cells: list[str]) -> str:
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"


def _main_table(case: str, found: Found) -> str:
    columns = [c for c in _COLUMNS if found.get(c.metric) and (not c.needs or found.get(c.needs))]
    if not columns:
        return ""
    providers = dict.fromkeys(name for c in columns for name in found[c.metric])
    lines = [
        [name, *(c.cell(found[c.metric][name]) if name in found[c.metric] else "" for c in columns)]
        for name in providers
    ]
    published = found.get("projected search hours") and case.startswith(PUBLISHED_CASE)
    if published:
        lines.append(
            ["published, one RTX 2080 Ti", *(f"{PUBLISHED_HOURS:.0f} h" * (c.head == "whole search") for c in columns)]
        )
    return markdown_table(["", *(c.head for c in columns)], lines)


def _kernel_table(found: Found) -> str:
    """Microseconds of a step by what its kernels are for, and the floor below."""
    kernels = found.get("kernels", {})
    classes = [name for name in CLASSES if f"us {name}" in found]
    if not classes:
        return ""
    times = [[found[f"us {c}"][p].median if p in found[f"us {c}"] else 0.0 for c in classes] for p in kernels]
    lines = [[p, *(f"{t:.0f}" for t in row), f"{sum(row):.0f}"] for p, row in zip(kernels, times, strict=True)]
    return markdown_table(["us in kernels", *classes, "together"], lines)


def _floor_line(found: Found) -> str:
    """The least microseconds of a step, and with which chip's figures they were computed."""
    parts = {m: next(iter(found[m].values())) for m in found if m.startswith(FLOOR)}
    times = ", ".join(f"{metric.removeprefix(FLOOR)} {row.median:.0f}" for metric, row in parts.items())
    return f"Floor in us, {next(iter(parts.values())).provider}: {times}" if parts else ""


def _skipped_line(found: Found) -> str:
    """Who was left out, and why."""
    return "; ".join(f"{name} left out: {row.reason}" for name, row in found.get(SKIPPED, {}).items())


def tables(rows: list[Row]) -> str:
    """Markdown tables, one a case and device: ratios to the first provider, and what else was measured."""
    parts = []
    for (case, device), found in groups(rows).items():
        any_row = next(iter(next(iter(found.values())).values()))
        parts.append(f"{case}; {device}; {any_row.versions}; {any_row.date}")
        texts = (_main_table(case, found), _kernel_table(found), _floor_line(found), _skipped_line(found))
        parts += [text for text in texts if text]
    return "\n\n".join(parts)


def with_tables(text: str, made: str) -> str:
    """A page with its tables made anew.

    Raises:
        ValueError: the markers are missing.
    """
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"the page has no {BEGIN} ... {END}")
    return pattern.sub(lambda _: f"{BEGIN}\n\n{made}\n\n{END}", text)


def first_rows(rows: list[Row]) -> list[Row]:
    """Rows of the README's table and picture: one network on a CPU, under masks as a search would draw them."""
    chosen = [r for r in rows if r.case == FIRST_CASE and FIRST_DEVICE in r.device]
    return [r for r in chosen if "uniform" not in r.provider]


def readme_with(text: str, rows: list[Row]) -> str:
    """The README with its table made anew.

    Raises:
        ValueError: the markers are missing.
    """
    return with_tables(text, tables(first_rows(rows)))


def plot(rows: list[Row], width: float = 8) -> bytes:
    """Times faster than the reference, one panel a case and device, as PNG ``width`` inches wide."""
    from matplotlib.figure import Figure

    panels = {key: found["times faster"] for key, found in groups(rows).items() if "times faster" in found}
    devices = {device for _, device in panels}
    figure = Figure(figsize=(width, 0.6 + 2.9 * len(panels)), layout="constrained")
    all_axes = figure.subplots(len(panels), squeeze=False)[:, 0]
    for axes, ((case, device), found) in zip(all_axes, panels.items(), strict=True):
        names, medians = list(found), [r.median for r in found.values()]
        low = [r.median - r.p20 for r in found.values()]
        high = [r.p80 - r.median for r in found.values()]
        axes.barh(names, medians, xerr=[low, high], color=["#56B4E9" if "fused" in n else "#999999" for n in names])
        for y, value in enumerate(medians):
            axes.text(value + max(high[y], 0) + 0.1, y, f"{value:.1f}x", va="center", fontsize=8)
        axes.invert_yaxis()
        axes.tick_params(labelsize=8)
        where = f"{case}, {device}" if len(devices) > 1 else case
        colon = ":\n" if width <= NARROW else ": "
        axes.set_title(f"{where}{colon}times faster than {names[0]}", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.1)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def published_rows() -> list[Row]:
    """The rows that ``docs/benchmarks.md`` shows: training steps, those of a search's levels, and a whole search."""
    return [row for name in ("train-step", "levels", "search") for row in read(RESULTS / f"{name}.jsonl")]


def publish() -> None:
    """Write the tables of the README and of ``docs/``, and the plots of the training step."""
    rows = published_rows()
    README.write_text(readme_with(README.read_text(), rows))
    ALL.write_text(with_tables(ALL.read_text(), tables(rows)))
    PICTURE.write_bytes(plot(first_rows(rows), NARROW))
    (RESULTS / "train-step.png").write_bytes(plot(read(RESULTS / "train-step.jsonl")))
    publish_fusing()
    publish_spikes()


def _fusing_line(case: str, found: Found) -> list[str]:
    """Cells of one network."""
    value = {metric: next(iter(of.values())).median for metric, of in found.items()}
    name, _, style = case.partition(": ")
    note = " (float32)" if "float32 only" in value else ""
    return [
        name,
        style,
        f"{value['neurons fused']:.0f} of {value['neurons']:.0f}",
        f"{value['difference of outputs']:.0e}{note}",
        f"{value['difference of gradients']:.0e}{note}",
        f"{value['ms before']:.1f}",
        f"{value['ms after']:.1f}",
        f"{value['times faster']:.2f}x",
    ]


def fusing_table(rows: list[Row]) -> str:
    """One table a device, one line a network; then what was left of each and why."""
    head = ["network", "style", "neurons fused", "outputs", "gradients", "ms before", "ms after", "times faster"]
    parts: list[str] = []
    left: dict[tuple[str, str], str] = {}
    for device in dict.fromkeys(r.device for r in rows):
        here = [r for r in rows if r.device == device]
        parts.append(f"{device}; {here[0].versions}; {here[0].date}")
        parts.append(markdown_table(head, [_fusing_line(case, found) for (case, _), found in groups(here).items()]))
        left |= {(r.case.partition(": ")[0], r.provider): r.reason for r in here if r.reason}
    if left:
        parts += ["Left as it was written:", "\n".join(f"- {net}, {what}: {why}" for (net, what), why in left.items())]
    return "\n\n".join(parts)


def publish_fusing() -> None:
    """Write the table of ``docs/fusing.md``."""
    FUSING.write_text(with_tables(FUSING.read_text(), fusing_table(read(RESULTS / "fusing.jsonl"))))


def publish_spikes() -> None:
    """Write the tables and the plot of ``docs/kernels.md``."""
    rows = read(RESULTS / "spikes.jsonl")
    KERNELS.write_text(with_tables(KERNELS.read_text(), spikes_tables(rows)))
    WAYS.write_bytes(spikes_plot(rows))
