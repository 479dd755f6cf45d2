"""Whole sweeps as a user runs them: one search after the other, side by side on Ray, killed and taken up again."""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import snn_sparse as ss
from snn_sparse.sweep.workers import has_ray

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(ss.__file__).parents[1]
NAMES = ["imp-seed1", "imp-seed2", "eb-seed1", "eb-seed2"]
FILE = """\
out: {out}
common: {{dataset: digits, batch_size: 256, timestep: 3, end_iter: 6, rewinding_epoch: 1, prune_percent: 60,
  prune_iterations: 2, sparsity_round: 4, backend: plain}}
grid: {{method: [imp, eb], seed: [1, 2]}}
{more}
"""


def start(folder, out, *flags, more=""):
    """A sweep of four searches as a process; plain layers on one thread, so that every run gives the same masks."""
    folder.mkdir(exist_ok=True)
    (folder / "sweep.yaml").write_text(FILE.format(out=out, more=more))
    command = [sys.executable, "-m", "snn_sparse", "sweep", "sweep.yaml", "--cpus-per-search", "1", *flags]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process):
    out, err = process.communicate()
    return process.returncode, out, err


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Where four searches ran one after the other with one that cannot succeed; status and output."""
    folder = tmp_path_factory.mktemp("sweep")
    more = "searches: [{name: astray, learning_rate: 1e38}, {name: control, method: random, seed: 1, like: imp-seed1}]"
    return folder, ended(start(folder, "runs", more=more))


def masks(out):
    found = {}
    for path in sorted(Path(out).glob("*/level_*/ticket.safetensors")):
        found[path.relative_to(out).as_posix()] = ss.Ticket.load(path).mask
    return {name: mask for name, mask in found.items() if name.split("/")[0] in NAMES}


def table(out, header):
    """Cells of the table under a header, as far as the next empty line."""
    lines = out.splitlines()
    first = next(i for i, line in enumerate(lines) if line.split() == header)
    rows = []
    for line in lines[first + 2 :]:
        if not line.strip():
            break
        rows.append(line)
    return rows


def test_one_after_the_other(undisturbed):
    folder, (status, out, err) = undisturbed
    assert (status, err) == (1, "")
    rows = [row.split(maxsplit=2) for row in table(out, ["search", "state", "why"])]
    assert [row[:2] for row in rows] == [[n, "done"] for n in NAMES] + [["astray", "failed"], ["control", "done"]]
    assert "level 0, epoch 1" in rows[4][2]
    assert sorted(masks(folder / "runs")) == sorted(f"{n}/level_0{k}/ticket.safetensors" for n in NAMES for k in (0, 1))
    assert (folder / "runs" / "control" / "level_01" / "ticket.safetensors").exists()


def test_the_report_of_all_against_statistics(undisturbed):
    folder, (_, out, _) = undisturbed
    runs = folder / "runs"
    page = (runs / "report.html").read_text()
    assert f"report: {Path('runs')}/report.html" in out
    for method in ("imp", "eb"):
        reports = [json.loads((runs / f"{method}-seed{s}" / "report.json").read_text()) for s in (1, 2)]
        for level in (0, 1):
            values = [report["levels"][level]["accuracy"] for report in reports]
            cell = f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f} %"
            assert cell in out
            assert f"<td>2</td><td>{reports[0]['levels'][level]['sparsity']:.2f} %</td><td>{cell}</td>" in page
    assert "astray" not in page


def test_finished_searches_are_not_run_again(undisturbed):
    folder, _ = undisturbed
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*.safetensors")}
    logs = {name: (folder / "runs" / f"{name}.log").read_text() for name in NAMES}
    status, out, _ = ended(start(folder, "runs"))  # without the one that failed
    assert status == 0
    assert [line for line in out.splitlines() if "finished before" in line and line.startswith("[")] == [
        f"[{i}/4] {name} done: finished before" for i, name in enumerate(NAMES, 1)
    ]
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*.safetensors")} == before
    assert {name: (folder / "runs" / f"{name}.log").read_text() for name in NAMES} == logs


def searches_of(folder):
    """Processes that work below a folder."""
    found = []
    for proc in Path("/proc").glob("[0-9]*"):
        try:
            command, cwd = (proc / "cmdline").read_bytes(), os.readlink(proc / "cwd")
        except OSError:
            continue
        if b"\0search\0" in command and cwd == str(folder):
            found.append(proc.name)
    return found


def wait_for(condition, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


needs_ray = pytest.mark.skipif(not has_ray(), reason="needs ray")
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@needs_ray
@linux
def test_on_ray_killed_and_taken_up_again(undisturbed, tmp_path):
    sweep = start(tmp_path, "runs", "--workers", "2")
    wait_for(lambda: len(list(tmp_path.glob("runs/*/level_*/checkpoint.pt"))) == 2, sweep)  # both in the middle
    assert len(searches_of(tmp_path)) == 2
    sweep.send_signal(signal.SIGKILL)
    sweep.communicate()
    wait_for(lambda: not searches_of(tmp_path), None, 30)
    assert len(list(tmp_path.glob("runs/*.done"))) < 4
    status, out, err = ended(start(tmp_path, "runs", "--workers", "2"))
    assert (status, err) == (0, ""), out
    assert "going on after epoch" in "".join(p.read_text() for p in tmp_path.glob("runs/*.log"))
    expected, found = masks(undisturbed[0] / "runs"), masks(tmp_path / "runs")
    assert found.keys() == expected.keys()
    for path, mask in expected.items():
        assert all(torch.equal(mask[name], found[path][name]) for name in mask), path


@linux
@pytest.mark.parametrize(
    ("flags", "number"),
    [([], signal.SIGINT), pytest.param(["--workers", "2"], signal.SIGTERM, marks=needs_ray)],
    ids=["one after the other", "on Ray"],
)
def test_a_signal_stops_the_searches_first(flags, number, tmp_path):
    sweep = start(tmp_path, "runs", *flags)
    wait_for(lambda: len(list(tmp_path.glob("runs/*/metrics.jsonl"))) == (2 if flags else 1), sweep)
    sweep.send_signal(number)
    status, out, err = ended(sweep)
    assert status == 128 + number
    assert err.strip() == "snn-sparse: stopped; the same command goes on from here"
    assert [row.split()[:2] for row in table(out, ["search", "state", "why"])] == [[n, "stopped"] for n in NAMES]
    assert not searches_of(tmp_path)


@needs_ray
def test_more_gpus_than_there_are_is_one_line(tmp_path):
    status, out, err = ended(start(tmp_path, "runs", "--workers", "2", "--gpus-per-search", "99"))
    assert (status, out.splitlines()) == (2, ["4 searches in runs"])
    assert err.splitlines()[0].startswith("snn-sparse: error: --gpus_per_search is 99, this machine has ")
    assert not list(tmp_path.glob("runs/*/config.json"))
