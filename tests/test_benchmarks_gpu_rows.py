"""A whole run of the GPU benchmark with a made-up device, and how its rows are shown."""

import argparse
import dataclasses
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import benchmarks.__main__
import snn_sparse as ss
import snn_sparse.kernels
from benchmarks import gpu_train_step, publish, train_step
from benchmarks.__main__ import CASES, main, table
from benchmarks.floor import floor
from benchmarks.gpu_providers import COMPILED, FUSED_DENSE, MULTI_STEP, PROVIDERS, REFERENCE
from benchmarks.gpu_train_step import HOURS, build_all, hours
from benchmarks.masks import masks_of
from benchmarks.projection import PUBLISHED_CASE, search_hours
from benchmarks.rows import Row, read, write
from benchmarks.timing import Timing

sys.path.insert(0, str(Path(__file__).parent))
from gpu_benchmark_case import StandIn, small_args, ticket_file


def test_hours_follow_masks_of_one_kind():
    model = ss.build_model("vgg_small")
    sparse = ["fused 90 % uniform bf16", "fused 98 % uniform bf16", "fused 90 % magnitude bf16"]
    masks = masks_of(model, sparse)
    seconds = {REFERENCE: 10.0, FUSED_DENSE: 4.0, sparse[0]: 2.0, sparse[1]: 1.0, sparse[2]: 3.0}
    found = hours({name: Timing([s, s]) for name, s in seconds.items()}, masks, 50_000)
    means = {name: timing.seconds for name, timing in found.items()}
    assert means[REFERENCE] == [pytest.approx(10 * 4220 / 3600)] * 2
    uniform, magnitude = (f"fused bf16, {kind} masks, level by level" for kind in ("uniform", "magnitude"))
    assert set(means) == {REFERENCE, FUSED_DENSE, uniform, magnitude}
    assert means[FUSED_DENSE][0] > means[magnitude][0] > means[uniform][0]
    known = {0.0: 4.0, masks[sparse[0]].sparsity: 2.0, masks[sparse[1]].sparsity: 1.0}
    assert means[uniform][0] == pytest.approx(search_hours(known, 50_000))


def test_providers_that_fail_are_left_out_in_one_line(capsys):
    def broken():
        raise RuntimeError("CUDA out of memory.\nTried to allocate 2 GiB")

    def breaks_later():
        raise KeyError

    makers = {"good": lambda: lambda: None, "broken": broken, "late": lambda: breaks_later}
    steps, peaks, kernels = build_all(makers, StandIn([0], [2**21]))
    assert list(steps) == list(peaks) == list(kernels) == ["good"]
    assert peaks["good"].seconds == [2.0]
    assert capsys.readouterr().err.splitlines() == [
        "left out: broken: CUDA out of memory. Tried to allocate 2 GiB",
        "left out: late: KeyError",
    ]


def test_without_a_profiler_times_are_still_taken(capsys):
    gpu = StandIn()
    gpu.profile = lambda run: []
    steps, _, kernels = build_all({"good": lambda: lambda: None}, gpu)
    assert list(steps) == ["good"]
    assert kernels == {}
    assert capsys.readouterr().err == "kernels not counted: good: the profiler saw no kernels\n"


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Arguments, masks' sparsity and rows of a whole run, with the clock and the device made up."""
    path, mask = ticket_file(tmp_path_factory.mktemp("tickets"))
    readings = iter(range(1, 1000))

    def clock(run):
        run()
        return next(readings) / 1000

    args = small_args(ticket=[path])
    rows = gpu_train_step.run(args, train_step.prepare, StandIn([0], [3 * 2**20]), clock)
    return args, mask.sparsity, rows


def test_a_run_leaves_all_rows(measured):
    args, sparsity, rows = measured
    assert args.left_out == [MULTI_STEP, COMPILED]  # they need a GPU
    assert not torch.backends.cudnn.benchmark
    found = next(iter(publish.groups(rows).values()))
    providers = [p for p in PROVIDERS if p not in args.left_out] + [f"fused {sparsity:.2f} % ticket bf16"]
    for metric in ("seconds", "images/s", "times faster", "times the floor", "peak MB", "kernels", "us neuron"):
        assert list(found[metric]) == providers
    assert "times faster than multi-step" not in found
    assert list(found[HOURS])[-3:] == [
        f"fused bf16, {kind} masks, level by level" for kind in ("uniform", "magnitude", "ticket")
    ]
    for name, row in found["seconds"].items():
        assert found["images/s"][name].median == pytest.approx(4 / row.median, rel=0.2)
    assert found["times faster"][REFERENCE].median == found["of the reference's memory"][REFERENCE].median == 1
    assert found["peak MB"][FUSED_DENSE].median == 3
    assert found["kernels"][FUSED_DENSE].median == pytest.approx(1 / 3)  # the stand-in shows one kernel in three steps
    assert found["us neuron"][FUSED_DENSE].median == pytest.approx(1000)
    assert {m for m in found if m.startswith("floor us ")} == {
        f"floor us {name}" for name in floor(ss.build_model("vgg_small"), (4, 3, 32, 32), 2)
    }


def test_the_terminal_shows_one_table(measured):
    shown = table(measured[2])
    assert len([line for line in shown.splitlines() if line.startswith(f"| {FUSED_DENSE} |")]) == 2
    assert "Floor in us, dense bf16 on H100: convolution" in shown


def test_the_better_multi_step_network_is_compared_with():
    args = argparse.Namespace(batch_size=10, device="cpu")
    timings = {MULTI_STEP: Timing([4.0]), COMPILED: Timing([2.0]), REFERENCE: Timing([8.0]), FUSED_DENSE: Timing([1.0])}
    rows = gpu_train_step._speed_rows("case", timings, args)
    faster = {r.provider: r.median for r in rows if r.metric == "times faster than multi-step"}
    assert faster == {MULTI_STEP: 0.5, COMPILED: 1.0, REFERENCE: 0.25, FUSED_DENSE: 2.0}


def test_nothing_is_compared_without_the_reference():
    class Small(StandIn):
        def free(self):
            raise torch.OutOfMemoryError("too small")

    with pytest.raises(ValueError, match=f"{REFERENCE} was left out"):
        gpu_train_step.run(small_args(providers=[FUSED_DENSE]), train_step.prepare, Small())


@pytest.mark.parametrize(("left_out", "status"), [([], 0), ([COMPILED], 0), ([COMPILED, FUSED_DENSE], 1)])
def test_fused_networks_that_do_not_run_are_a_failure(left_out, status, monkeypatch, tmp_path, capsys):
    def run(args):
        args.left_out = left_out
        return []

    case = SimpleNamespace(run=run, add_flags=train_step.add_flags, __doc__="A case.")
    monkeypatch.setitem(CASES, "train-step", case)
    monkeypatch.setattr(benchmarks.__main__, "write", lambda rows, name: write(rows, name, tmp_path))
    assert main(["train-step"]) == status


def row(provider, metric, median, device, case=f"{PUBLISHED_CASE} batch 128"):
    return Row(case, provider, metric, median, median, median, device, "versions", "commit", "2030-01-01")


def two_devices():
    gpu = [
        row(name, metric, value, "NVIDIA H100")
        for metric, values in {
            "seconds": (0.07, 0.0035),
            "images/s": (1828.6, 36571.4),
            "times faster": (1.0, 20.0),
            "times the floor": (34.4, 1.72),
            "peak MB": (9216.0, 1536.0),
            "of the reference's memory": (1.0, 1 / 6),
            "kernels": (5000.0, 80.0),
            "us neuron": (0.0, 1200.4),
            "us convolution (library)": (2000.0, 1900.0),
        }.items()
        for name, value in zip((REFERENCE, FUSED_DENSE), values, strict=True)
    ]
    gpu.append(row(FUSED_DENSE, HOURS, 1.6, "NVIDIA H100"))
    gpu.append(row("fused bf16, ticket masks, level by level", HOURS, 1.2, "NVIDIA H100"))
    gpu.append(row("dense bf16 on H100", "floor us convolution", 1710.0, "NVIDIA H100"))
    cpu = [row(name, "times faster", value, "CPU, 2 threads") for name, value in (("loop", 1.0), ("fused", 1.5))]
    cpu += [row(name, "seconds", 1.0, "CPU, 2 threads") for name in ("loop", "fused")]
    return cpu, gpu


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
