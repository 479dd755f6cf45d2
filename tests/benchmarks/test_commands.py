"""The benchmark commands run, compare equals with equals, and leave complete rows."""

import ast
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import benchmarks.rows
from benchmarks import neuron
from benchmarks.__main__ import CASES, main
from benchmarks.memory import peak_megabytes
from benchmarks.providers import choose_providers, prepare
from benchmarks.rows import SKIPPED, read


@pytest.mark.slow
@pytest.mark.parametrize("case", sorted(CASES.keys() - {"fusing", "levels"}))  # in files of their own
def test_commands_write_rows(case, tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmarks.rows, "RESULTS", tmp_path)
    monkeypatch.setattr("benchmarks.search.load_dataset", lambda name: tiny)
    flags = {
        "neuron": ["--timesteps", "2", "--batch_size", "1"],
        "search": ["--end_iter", "3"],
        "spikes": ["--sizes", "2", "--rates", "10", "--sparsities", "90", "--timesteps", "1", "--batch-size", "8"],
        "train-step": [
            *("--only", "time", "--arch", "vgg_small", "--batch_size", "2", "--timestep", "1", "--providers"),
            *("plain", "fused dense", "fused 95 % uniform", "fused 90 % magnitude"),
        ],
    }
    assert main([case, "--rounds", "1", *flags[case]]) == 0
    rows = read(tmp_path / f"{case}.jsonl")
    assert {"seconds", "times faster"} <= {r.metric for r in rows}
    assert all(r.median > 0 and r.commit and r.versions for r in rows)
    assert "times faster" in capsys.readouterr().out


@pytest.mark.slow
def test_peak_memory_of_a_process_of_its_own():
    provider = choose_providers(["fused 95 % uniform"], "cpu")[-1]
    assert 50 < peak_megabytes(provider, prepare("vgg11", 1, 2, "cpu")) < 1000  # 9 million weights and their gradients


def test_peaks_are_compared(tmp_path, monkeypatch):
    peaks = {"SpikingJelly time loop": 300.0, "fused dense": 30.0}
    monkeypatch.setattr(benchmarks.rows, "RESULTS", tmp_path)
    monkeypatch.setattr("benchmarks.machine.peak_megabytes", lambda provider, images: peaks[provider.name])
    size = ["--arch", "vgg_small", "--batch_size", "1", "--timestep", "1"]
    assert main(["train-step", "--only", "memory", *size, "--providers", "fused dense"]) == 0
    found = read(tmp_path / "train-step.jsonl")
    assert [(r.metric, r.median) for r in found] == [
        *(("peak MB", 300.0), ("peak MB", 30.0)),
        *(("of the reference's memory", 1.0), ("of the reference's memory", 0.1)),
    ]


def test_packed_spikes_are_not_timed_where_none_are(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmarks.rows, "RESULTS", tmp_path)
    size = ["--timesteps", "1", "--batch_size", "1", "--size", "4", "--rounds", "1"]
    assert main(["neuron", *size, "--providers", "fused", "fused packed"]) == 1
    found = [r for r in read(tmp_path / "neuron.jsonl") if r.provider == "fused packed"]
    assert {(r.metric, r.reason) for r in found} == {(SKIPPED, "neuron runs in cpp on cpu, not in triton")}


def test_a_backward_pass_in_a_graph_is_both_less_the_forward(monkeypatch):
    readings = iter([9.0, 9.0, 1.0, 2.0, 9.0, 9.0, 4.0, 7.0])  # a round to warm up, then one that counts; twice
    seen = []
    monkeypatch.setattr(neuron, "graph_clock", lambda run: seen.append(run()) or next(readings))
    x = torch.ones(3, requires_grad=True)
    found = neuron.time_passes({"a": lambda x: 2 * x, "b": lambda x: 3 * x}, x, 1, graphs=True)
    assert {way: {p: t.seconds for p, t in timings.items()} for way, timings in found.items()} == {
        "forward": {"a": [1.0], "b": [2.0]},
        "backward": {"a": [3.0], "b": [5.0]},
    }
    assert isinstance(seen[0], torch.Tensor)
    assert isinstance(seen[-1], tuple)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ["neuron", "--providers", "nobody"],
            "unknown provider 'nobody': choose from SpikingJelly multi-step, ",
        ),
        (["train-step", "--providers", "nobody"], "unknown provider 'nobody': choose from SpikingJelly time loop, "),
        (["train-step", "--ticket", "some/file"], "--ticket needs --device cuda"),
        (["train-step", "--device", "cuda", "--providers", "plain"], "unknown provider 'plain': choose from "),
        (["train-step", "--device", "cuda", "--ticket", "no/such/file"], "no ticket file at no/such/file"),
        (["train-step", "--device", "cuda", "--batch_size", "0"], "--batch_size must be at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_one_line_and_status_2(flags, said, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(SystemExit) as stop:
        main(flags)
    assert stop.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith(f"benchmarks: error: {said}")
    assert line.count("\n") == 1


def test_without_a_gpu_one_line_and_status_2(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stop:
        main(["train-step", "--device", "cuda"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "benchmarks: error: --device cuda, but torch sees no GPU\n"


def test_compiled_kernels_are_rows_those_that_spill_too(tmp_path, monkeypatch, capsys):
    triton = pytest.importorskip("triton")
    spills = {"conv": 0, "backward": 8}
    asked = []

    def jobs(names, architectures, timesteps, dtypes):
        asked.append((names, architectures, timesteps, dtypes))
        return [SimpleNamespace(case=name, timesteps=5, dtype=torch.bfloat16, arch=90) for name in names]

    def compile_job(job):
        used = {"registers": 99, "spills": spills[job.case], "shared": 1024}
        return SimpleNamespace(kernel=f"{job.case}_kernel", tile="32x64", warps=4, job=job, **used)

    lists = {"QUICK": list(spills), "CASES": dict(spills), "TIMESTEPS": (1, 5), "ARCHITECTURES": (80, 90), "DTYPES": {}}
    stand_in = SimpleNamespace(jobs=jobs, compile_job=compile_job, **lists)
    monkeypatch.setitem(sys.modules, "benchmarks.compile_kernels", stand_in)
    monkeypatch.delattr("benchmarks.compile_kernels", raising=False)
    monkeypatch.setattr(benchmarks.rows, "RESULTS", tmp_path)
    assert main(["compile", "--quick"]) == 0
    spills["conv"] = 16
    assert main(["compile", "--only", "conv", "--arch", "90", "--timesteps", "8"]) == 0
    assert asked == [(["conv", "backward"], (80, 90), (5, 8), [torch.bfloat16]), (["conv"], [90], [8], [])]
    assert "conv_kernel (conv, 32x64, 4 warps, T=5, bfloat16, sm_90): 16 bytes spilled" in capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "compile.jsonl").read_text().splitlines()]
    assert [(r["kernel"], r["spills"]) for r in rows] == [("conv_kernel", 16), ("backward_kernel", 8)]
    assert rows[0] == {
        "kernel": "conv_kernel",
        "variant": "conv, 32x64, 4 warps, T=5",
        "dtype": "bfloat16",
        "arch": 90,
        "registers": 99,
        "spills": 16,
        "shared": 1024,
        "triton": triton.__version__,
    }


def test_no_module_imports_itself_over_others():
    """Imports inside functions count too."""
    files = {p.stem: p for p in Path(benchmarks.rows.__file__).parent.glob("*.py")}
    needed = {}
    for name, path in files.items():
        nodes = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, (ast.Import, ast.ImportFrom))]
        words = {f"{getattr(n, 'module', None) or ''}.{a.name}".strip(".") for n in nodes for a in n.names}
        needed[name] = {w.split(".")[1] for w in words if w.startswith("benchmarks.")} & files.keys()
    assert needed["train_step"] >= {"machine", "providers", "rows"}
    while leaves := [name for name, found in needed.items() if not found & needed.keys()]:
        for name in leaves:
            del needed[name]
    assert not needed
