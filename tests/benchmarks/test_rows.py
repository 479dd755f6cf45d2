"""Rows on disk, and how they are shown: the README's tables, the plot."""

import dataclasses
import json
import math
import sys
from pathlib import Path

import pytest

from benchmarks import publish
from benchmarks.rows import RESULTS, SKIPPED, Row, make_rows, read, skipped_rows, write
from benchmarks.tickets.result_rows import FINDING
from benchmarks.timing import EventClock, Timing, interleaved, ratios

sys.path.insert(0, str(Path(__file__).parent))
from benchmark_case import FUSED_DENSE, REFERENCE, row, two_devices


def test_quantiles_and_ratios():
    timing = Timing([4.0, 1.0, 3.0, 2.0, 5.0])
    assert (timing.median, timing.quantile(0), timing.quantile(0.2), timing.quantile(1)) == (3.0, 1.0, 1.8, 5.0)
    faster = ratios({"a": Timing([2.0, 4.0]), "b": Timing([1.0, 1.0])}, "a")
    assert faster["b"].seconds == [2.0, 4.0]
    assert faster["a"].seconds == [1.0, 1.0]


def test_variants_take_turns():
    order = []
    timings = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3, warmup=1)
    assert order == ["a", "b"] * 4
    assert len(timings["a"].seconds) == 3
    with pytest.raises(ValueError, match="rounds"):
        interleaved({}, rounds=0)


class FakeEvent:
    def __init__(self, now):
        self.now, self.at = now, None

    def record(self):
        self.at = self.now()

    def elapsed_time(self, other):
        return other.at - self.at


def test_events_surround_a_batch_of_calls_and_the_host_waits_outside():
    log = []
    clock = EventClock(4, lambda: FakeEvent(lambda: 2.0 * log.count("run")), lambda: log.append("wait"))
    timings = interleaved({"a": lambda: log.append("run")}, rounds=3, warmup=1, clock=clock)
    assert timings["a"].seconds == [2e-3] * 3
    assert log == ["wait", "run", "run", "run", "run", "wait"] * 4


def test_rows_replace_older_ones_of_the_same_case(tmp_path):
    timings = {"ours": Timing([1.0, 2.0, 3.0])}
    first = make_rows("case", "seconds", timings, "cpu")
    write(first, "file", tmp_path)
    other = [dataclasses.replace(first[0], case="other")]
    write(other, "file", tmp_path)
    again = [dataclasses.replace(first[0], median=7.0)]
    assert read(write(again, "file", tmp_path)) == [*other, *again]
    assert json.loads((tmp_path / "file.jsonl").read_text().splitlines()[0]).keys() == {
        f.name for f in dataclasses.fields(Row) if f.name != "reason"
    }
    skipped = skipped_rows("case", {"theirs": "why"}, "cpu")
    assert read(write([*first, *skipped], "file", tmp_path)) == [*other, *first, *skipped]
    assert read(write(again, "file", tmp_path)) == [*other, *again]  # whoever was skipped no longer is


def test_readme_tables_come_from_the_rows():
    text = publish.README.read_text()
    assert publish.readme_with(text, publish.published_rows()) == text
    with pytest.raises(ValueError, match="page"):
        publish.readme_with("no markers", [])


def test_every_row_is_complete():
    files = sorted(set(RESULTS.glob("*.jsonl")) - {RESULTS / f"{name}.jsonl" for name in ("compile", "kernels")})
    assert files
    for one in (r for file in files for r in read(file)):
        assert one.p20 <= one.median <= one.p80
        assert (one.metric in (SKIPPED, FINDING)) == bool(one.reason)
        assert all(getattr(one, f.name) not in ("", None) for f in dataclasses.fields(Row) if f.name != "reason")


def test_each_device_has_its_own_table():
    cpu, gpu = two_devices()
    mixed = [r for pair in zip(cpu, gpu, strict=False) for r in pair] + gpu[len(cpu) :]
    text = publish.tables(mixed)
    assert text.count("versions; 2030-01-01") == 2
    assert publish.tables(cpu) in text
    assert publish.tables(gpu) in text
    assert "0.07" not in publish.tables(cpu)
    assert publish.tables(cpu).splitlines()[2:] == [
        "| | times faster | p20 to p80 |",
        "|---|---|---|",
        "| loop | 1.00x | 1.00 to 1.00 |",
        "| fused | 1.50x | 1.50 to 1.50 |",
    ]


def test_the_gpu_table():
    lines = publish.tables(two_devices()[1]).splitlines()
    assert lines[2].split(" | ")[1:] == [
        *("step", "images/s", "times faster", "p20 to p80", "times the floor"),
        *("peak", "peak memory", "kernels", "whole search |"),
    ]
    assert lines[5].split(" | ") == [
        *(f"| {FUSED_DENSE}", "3.50 ms", "36571", "20.00x", "20.00 to 20.00", "1.7"),
        *("1.50 GiB", "17 %", "80", "1.60 h |"),
    ]
    assert lines[6] == "| fused bf16, ticket masks, level by level | | | | | | | | | 1.20 h |"
    assert lines[7] == "| published, one RTX 2080 Ti | | | | | | | | | 52 h |"
    assert "| us in kernels | convolution (library) | neuron | together |" in lines
    assert f"| {FUSED_DENSE} | 1900 | 1200 | 3100 |" in lines
    assert lines[-1] == "Floor in us, dense bf16 on H100: convolution 1710"
    other = [dataclasses.replace(r, case="train-step resnet19 3x32x32 T=5 batch 128") for r in two_devices()[1]]
    assert "published" not in publish.tables(other)
    left_out = row("theirs", SKIPPED, 0.0, "NVIDIA H100", reason="no such library")
    assert publish.tables([*two_devices()[1], left_out]).splitlines()[-1] == "theirs left out: no such library"
    assert publish.tables([left_out]).count("\n") == 2


def test_rows_of_two_devices_live_side_by_side(tmp_path):
    cpu, gpu = two_devices()
    write(cpu, "train-step", tmp_path)
    write(gpu, "train-step", tmp_path)
    path = write([dataclasses.replace(r, median=r.median * 2) for r in gpu], "train-step", tmp_path)
    found = publish.groups(read(path))
    assert len(found) == 2
    assert found[cpu[0].case, "CPU, 2 threads"]["times faster"]["fused"].median == 1.5
    assert math.isclose(found[cpu[0].case, "NVIDIA H100"]["seconds"][FUSED_DENSE].median, 0.007)


def test_the_plot_has_a_panel_for_each_device(monkeypatch):
    from matplotlib.figure import Figure

    titles = []
    save = Figure.savefig

    def savefig(figure, *args, **options):
        titles.append([axes.get_title() for axes in figure.axes])
        save(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", savefig)
    cpu, gpu = two_devices()
    assert publish.plot([*cpu, *gpu]).startswith(b"\x89PNG")
    publish.plot(cpu)
    assert titles == [
        [
            f"{cpu[0].case}, CPU, 2 threads: times faster than loop",
            f"{cpu[0].case}, NVIDIA H100: times faster than {REFERENCE}",
        ],
        [f"{cpu[0].case}: times faster than loop"],
    ]
