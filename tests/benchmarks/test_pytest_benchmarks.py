"""``pytest benchmarks``: every case runs, providers of a case share a group, and the JSON becomes rows."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import benchmarks.rows
from benchmarks import conftest
from benchmarks.__main__ import main
from benchmarks.how_to import EXAMPLE
from benchmarks.pytest_rows import read_json
from benchmarks.rows import read

pytest.importorskip("pytest_benchmark")
ROOT = Path(__file__).parents[2]
QUICK = ["--benchmark-min-rounds=2", "--benchmark-max-time=0.001", "--benchmark-min-time=0.000001"]
TINY = ["--layers=16x4", "--timesteps=1", "--batch-size=8"]


def run(folder, *arguments):
    """Run pytest in a process of its own, in which no other plugin stops timing; its status and output."""
    options = ["-c", ROOT / "pyproject.toml", "--rootdir", ROOT, "-p", "no:cacheprovider", "-p", "no:xdist"]
    command = [
        sys.executable,
        "-m",
        "pytest",
        *map(str, [*options, f"--benchmark-storage=file://{folder}", *arguments]),
    ]
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST")}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def timed(tmp_path_factory):
    """All operators and two steps, timed once: the folder where the run is saved, its JSON being ``bench.json``."""
    folder = tmp_path_factory.mktemp("bench")
    few = ["-k", "not test_step or plain or dense"]  # a race for each masked step would take long
    saved = ["--benchmark-save=before", "--benchmark-save-data", "--benchmark-json=bench.json"]
    status, said = run(folder, ROOT / "benchmarks", *TINY, *QUICK, *few, *saved)
    assert status == 0, said
    return folder


def test_every_operator_becomes_rows(timed, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmarks.rows, "RESULTS", tmp_path)
    file = timed / "bench.json"
    assert main(["rows", str(file)]) == 0
    assert capsys.readouterr().out.strip().endswith(str(tmp_path / "pytest.jsonl"))
    rows, found = read(tmp_path / "pytest.jsonl"), json.loads(file.read_text())
    readings = {(b["group"], b["extra_info"]["provider"]): b["stats"] for b in found["benchmarks"]}
    assert len(rows) == len(readings) == len(found["benchmarks"]) > 40
    for r in rows:
        stats = readings[r.case, r.provider]
        assert r.metric == "seconds"
        assert stats["min"] <= r.p20 <= r.median <= r.p80 <= stats["max"]
        assert r.median == pytest.approx(stats["median"])
        assert (r.date, r.commit) == (found["datetime"][:10], found["commit_info"]["commit"])
        assert "threads" in r.device
        assert "torch" in r.versions
    cases = {}
    for r in rows:
        cases.setdefault(r.case, set()).add(r.provider)
    assert cases["bn_lif backward 16x4x4 T=1 batch 8"] >= {"plain", "fused"}
    assert cases["convolution, weight gradient 16x4x4 T=1 batch 8, 10 % spikes"] >= {"spikes", "live 90 %"}
    assert cases["train-step vgg_small 3x32x32 T=1 batch 8"] == {"plain", "fused dense"}


def test_two_runs_are_compared(timed):
    loss = [ROOT / "benchmarks" / "test_operators.py", "-k", "test_loss"]
    status, said = run(timed, *loss, *TINY, *QUICK, "--benchmark-compare")
    assert status == 0, said
    assert "machine_info is different" not in said
    table = said[said.index("benchmark 'loss T=1 batch 8': 4 tests") :]
    assert table.count("(0001_before)") == table.count("(NOW)") == 2
    (saved,) = timed.rglob("0001_before.json")
    assert {r.provider for r in read_json(str(saved)) if r.case == "loss T=1 batch 8"} == {
        "a timestep at a time",
        "all at once",
    }


def test_the_example_of_how_to_runs(capsys):
    assert main(["how-to"]) == 0
    said = capsys.readouterr().out
    assert all(line.strip() in said for line in EXAMPLE.splitlines())
    for path in ("test_operators.py", "test_masks.py", "test_steps.py", "providers.py", "neuron.py", "__main__.py"):
        assert path in said
        assert (ROOT / "benchmarks" / path).exists()
    names, measured = {}, []
    exec(compile(EXAMPLE, "EXAMPLE", "exec"), names)
    layer = conftest.Layer(3, 5, timesteps=2, images=4)
    for provider in names["PROVIDERS"]:
        names["test_rectifier"](lambda *given: measured.append(given), layer, provider)
    assert [given[:2] for given in measured] == [("rectifier 3x5x5 T=2 batch 4", p) for p in ("relu", "clamp")]
    for _, _, make in measured:
        result = make()()
        assert result.shape == (2, 4, 3, 5, 5)
        assert result.min() == 0


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--layers=16", "--layers must be CHANNELSxSIZE, with commas between, got '16'"),
        ("--layers=16x4,0x4", "got '0x4'"),
        ("--arch=vgg17", "got 'vgg17'"),
        ("--timesteps=0", "--timesteps must be at least 1, got 0"),
        ("--batch-size=-1", "--batch-size must be at least 1, got -1"),
    ],
)
def test_wrong_sizes_are_named(flag, said):
    values = {"--layers": "16x4", "--arch": "vgg_small", "--timesteps": 1, "--batch-size": 1}
    name, _, value = flag.partition("=")
    values[name] = type(values[name])(value)

    config = SimpleNamespace(getoption=values.get)
    read_sizes = conftest._trainings if name == "--arch" else conftest._layers
    with pytest.raises(pytest.UsageError) as error:
        read_sizes(config)
    assert said in str(error.value)


@pytest.mark.parametrize("content", [None, "no JSON", "[]", "{}", '{"machine_info": {}, "datetime": ""}'])
def test_a_file_that_holds_no_rows_is_one_line_and_status_2(content, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmarks.rows, "RESULTS", tmp_path)
    file = tmp_path / "bench.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SystemExit) as stop:
        main(["rows", str(file)])
    assert stop.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith(f"benchmarks: error: {file} ")
    assert line.count("\n") == 1
    assert not (tmp_path / "pytest.jsonl").exists()
