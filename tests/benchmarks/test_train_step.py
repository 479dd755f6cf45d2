"""A whole run of the training step's benchmark, with a made-up GPU, and what becomes of providers that fail."""

import argparse
import sys
from pathlib import Path

import pytest
import torch

import snn_sparse as ss
from benchmarks import machine, providers, publish, rows, train_step
from benchmarks.__main__ import main, table
from benchmarks.floor import floor
from benchmarks.machine import WARMUP_STEPS, Cpu
from benchmarks.projection import search_hours
from benchmarks.providers import choose_providers, prepare
from benchmarks.step_rows import HOURS, hours, speed_rows
from benchmarks.timing import Timing

sys.path.insert(0, str(Path(__file__).parent))
from benchmark_case import COMPILED, FUSED_DENSE, MULTI_STEP, REFERENCE, StandIn, pretend_gpu, small_args, ticket_file

MASKED = ["fused 95 % uniform bf16", "fused 98 % uniform bf16", "fused 98 % magnitude bf16"]
SOME = [REFERENCE, MULTI_STEP, COMPILED, "plain bf16", "fused dense fp32", FUSED_DENSE, *MASKED]


def on_this_cpu(patch):
    """What would be on the GPU is here, and fused networks may run on plain PyTorch."""
    pretend_gpu(patch, peaks=[3 * 2**20])
    patch.setattr(train_step, "prepare", lambda *size: prepare(*size[:-1], "cpu"))
    patch.setattr(providers, "insist", lambda *operators, **where: None)
    patch.setattr(rows, "device_name", lambda device: "NVIDIA H100")
    patch.setattr("benchmarks.step_rows.device_name", lambda device: "NVIDIA H100")


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Sparsity of a ticket, and the rows of a whole run."""
    path, mask = ticket_file(tmp_path_factory.mktemp("tickets"))
    with pytest.MonkeyPatch.context() as patch:
        on_this_cpu(patch)
        return mask.sparsity, train_step.run(small_args(ticket=[path], rounds=1, providers=SOME), StandIn())


def test_a_run_leaves_all_rows(measured):
    sparsity, found_rows = measured
    found = next(iter(publish.groups(found_rows).values()))
    assert list(found[rows.SKIPPED]) == [MULTI_STEP, COMPILED]  # they need a GPU
    names = [name for name in SOME if name not in found[rows.SKIPPED]] + [f"fused {sparsity:.2f} % ticket bf16"]
    for metric in ("seconds", "images/s", "times faster", "times the floor", "peak MB", "kernels", "us neuron"):
        assert list(found[metric]) == names
    assert "times faster than multi-step" not in found
    kinds = ("uniform", "magnitude", "ticket")
    assert list(found[HOURS])[-3:] == [f"fused bf16, {kind} masks, level by level" for kind in kinds]
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
    shown = table(measured[1])
    assert len([line for line in shown.splitlines() if line.startswith(f"| {FUSED_DENSE} |")]) == 2
    assert "Floor in us, dense bf16 on H100: convolution" in shown
    assert f"{MULTI_STEP} left out: " in shown


def test_the_peak_is_that_of_one_step_without_what_was_there_and_what_was_tried_out(monkeypatch):
    calls = []
    pretend_gpu(monkeypatch, calls, used=[100 * 2**20], peaks=[450 * 2**20])
    monkeypatch.setattr(machine, "make_step", lambda *_: calls.append("make") or (lambda: calls.append("step")))
    assert StandIn().build(None, None, True)[1] == 350
    turn = ["reset_peak_memory_stats", *["step"] * WARMUP_STEPS, "synchronize"]
    assert calls == ["empty_cache", "memory_allocated", "make", *turn, *turn, "max_memory_allocated"]


def test_without_a_profiler_times_are_still_taken(monkeypatch, capsys):
    on_this_cpu(monkeypatch)
    found = train_step.run(small_args(providers=[FUSED_DENSE], rounds=1), StandIn(kernels=()))
    assert {r.provider for r in found if r.metric == "seconds"} == {REFERENCE, FUSED_DENSE}
    assert not [r for r in found if r.metric == "kernels"]
    assert capsys.readouterr().err.splitlines() == [
        f"kernels not counted: {name}: the profiler saw no kernels" for name in (REFERENCE, FUSED_DENSE)
    ]


def test_a_fused_network_that_falls_back_is_a_row_without_time_and_a_failure(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    monkeypatch.setenv("SNN_SPARSE_LIBRARY", str(tmp_path / "none.so"))
    monkeypatch.setattr("snn_sparse.ops.backend.library_problem", lambda: "the C++ operators do not load")
    size = ["--arch", "vgg_small", "--batch_size", "2", "--timestep", "1", "--rounds", "1", "--only", "time"]
    assert main(["train-step", *size, "--providers", "plain"]) == 0
    assert main(["train-step", *size, "--providers", "plain", "fused dense"]) == 1
    found = rows.read(tmp_path / "train-step.jsonl")
    assert [(r.metric, r.reason) for r in found if r.provider == "fused dense"] == [
        (rows.SKIPPED, "neuron would run on plain PyTorch: the C++ operators do not load")
    ]
    assert "skipped: neuron would run on plain PyTorch" in capsys.readouterr().out
    assert main(["train-step", *size, "--providers", "plain"]) == 0
    assert not [r for r in rows.read(tmp_path / "train-step.jsonl") if r.reason]


def test_nothing_is_compared_without_the_reference(monkeypatch):
    on_this_cpu(monkeypatch)

    def too_small():
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")

    monkeypatch.setattr(torch.cuda, "memory_allocated", too_small)
    message = f"{REFERENCE} was left out, and .*: CUDA out of memory. Tried to allocate 2 GiB"
    with pytest.raises(ValueError, match=message):
        train_step.run(small_args(providers=[FUSED_DENSE]), StandIn())


def test_the_better_multi_step_network_is_compared_with(monkeypatch):
    monkeypatch.setattr(rows, "device_name", lambda device: "NVIDIA H100")
    timings = {MULTI_STEP: Timing([4.0]), COMPILED: Timing([2.0]), REFERENCE: Timing([8.0]), FUSED_DENSE: Timing([1.0])}
    found = speed_rows("case", timings, REFERENCE, 10, "cuda")
    faster = {r.provider: r.median for r in found if r.metric == "times faster than multi-step"}
    assert faster == {MULTI_STEP: 0.5, COMPILED: 1.0, REFERENCE: 0.25, FUSED_DENSE: 2.0}


def test_hours_follow_masks_of_one_kind():
    sparse = ["fused 90 % uniform bf16", "fused 98 % uniform bf16", "fused 90 % magnitude bf16"]
    masks = {p.name: p.mask(ss.build_model("vgg_small")) for p in choose_providers(sparse, "cuda")[1:]}
    seconds = {REFERENCE: 10.0, FUSED_DENSE: 4.0, sparse[0]: 2.0, sparse[1]: 1.0, sparse[2]: 3.0}
    found = hours({name: Timing([s, s]) for name, s in seconds.items()}, masks, 50_000)
    means = {name: timing.seconds for name, timing in found.items()}
    assert means[REFERENCE] == [pytest.approx(10 * 4220 / 3600)] * 2
    uniform, magnitude = (f"fused bf16, {kind} masks, level by level" for kind in ("uniform", "magnitude"))
    assert set(means) == {REFERENCE, FUSED_DENSE, uniform, magnitude}
    assert means[FUSED_DENSE][0] > means[magnitude][0] > means[uniform][0]
    known = {0.0: 4.0, masks[sparse[0]].sparsity: 2.0, masks[sparse[1]].sparsity: 1.0}
    assert means[uniform][0] == pytest.approx(search_hours(known, 50_000))


def test_defaults_follow_the_device(monkeypatch):
    seen = []
    monkeypatch.setattr(train_step, "_compare", lambda args, chosen, *_: seen.append((args.batch_size, chosen)) or [])
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    train_step.add_flags(parser)
    for flags in ([], ["--device", "cuda:0"], ["--device", "cuda", "--batch_size", "3", "--providers", FUSED_DENSE]):
        train_step.run(parser.parse_args([*flags, "--arch", "vgg_small"]), Cpu())
    assert [size for size, _ in seen] == [16, 128, 3]
    assert [chosen for _, chosen in seen] == [
        choose_providers((), "cpu"),
        choose_providers((), "cuda"),
        choose_providers([FUSED_DENSE], "cuda"),
    ]
