"""One search of a sweep as a process: a shell script stands in for Python, so that it can end in every way."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from snn_sparse.sweep import process, workers
from snn_sparse.sweep.planned import Plan, PlannedSearch
from snn_sparse.sweep.process import is_finished, lock_file, run_search_process
from snn_sparse.sweep.run import run_sweep
from snn_sparse.sweep.workers import Workers

ROOT = Path(process.__file__).parents[2]


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """Makes a search whose process is a shell script; ``$run`` is its directory."""
    monkeypatch.chdir(tmp_path)
    Path("out").mkdir()

    def make(script="exit 0", name="one", after=None):
        Path("stand-in").write_text('#!/bin/sh\nfor last; do :; done\nrun=${last#--out=}\n. "$run.sh"\n')
        Path("stand-in").chmod(0o755)
        Path(f"out/{name}.sh").write_text(script)
        monkeypatch.setattr(sys, "executable", str(tmp_path / "stand-in"))
        return PlannedSearch(name, f"out/{name}", ("search", "--seed=1", f"--out=out/{name}"), after)

    return make


FINISH = 'mkdir -p "$run"; echo {} > "$run/config.json"'


def end(search, asked=lambda: None, threads=None):
    outcome = run_search_process(search, threads, asked)
    return outcome.state, outcome.reason


@pytest.mark.parametrize(
    ("script", "state", "reason"),
    [
        ("exit 0", "done", ""),
        ("echo 'snn-sparse: error: the loss is nan' >&2; echo; exit 1", "failed", "the loss is nan"),
        ("echo Traceback; echo 'KeyError: 3'; exit 1", "failed", "KeyError: 3"),
        ("kill -9 $$", "failed", "killed by SIGKILL"),
        ("exit 143", "stopped", "the same command goes on"),
        ("exit 130", "stopped", "the same command goes on"),
        ("kill -15 $$", "stopped", "the same command goes on"),
    ],
)
def test_how_a_search_ends(script, state, reason, planned):
    assert end(planned(script)) == (state, reason)


def test_the_last_line_is_that_of_a_long_log(planned):
    assert end(planned("seq 10000; exit 3")) == ("failed", "10000")


def test_command_log_and_threads(planned, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    search = planned('echo "$@ with $OMP_NUM_THREADS"')
    end(search)
    end(search, threads=3)
    lines = Path("out/one.log").read_text().splitlines()
    command = "-m snn_sparse search --seed=1 --out=out/one"
    assert lines[0] == lines[2] == f"$ {sys.executable} {command}"
    assert (lines[1], lines[3]) == (f"{command} with 5", f"{command} with 3")


def test_finished_is_the_same_command_with_its_run(planned):
    search = planned(FINISH)
    assert not is_finished(search)
    end(search)
    assert is_finished(search)
    assert json.loads(Path("out/one.done").read_text()) == list(search.arguments)
    other = PlannedSearch(search.name, search.run, ("search", "--seed=2", "--out=out/one"))
    assert not is_finished(other)
    Path("out/one/config.json").unlink()
    assert not is_finished(search)
    Path("out/one.done").write_text("half a li")
    assert not is_finished(search)


def test_a_failure_leaves_no_mark(planned):
    search = planned(FINISH + "; exit 1")
    end(search)
    assert not is_finished(search)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_passed_on_and_waited_for(number, planned):
    script = "trap 'sleep 0.5; echo saved; exit 9' TERM INT; echo ready; while :; do sleep 0.05; done"
    search = planned(script)
    log = Path("out/one.log")
    assert end(search, lambda: number if "ready" in log.read_text() else None)[0] == "stopped"
    assert log.read_text().endswith("saved\n")


def test_two_processes_never_share_a_directory(planned, monkeypatch):
    monkeypatch.setattr(process, "PATIENCE", 0.3)
    search = planned("echo ready; sleep 1.5")
    first = threading.Thread(target=end, args=(search,))
    first.start()
    while "ready" not in (Path("out/one.log").read_text() if Path("out/one.log").exists() else ""):
        time.sleep(0.01)
    assert end(search) == ("failed", "another process still runs this search")
    monkeypatch.setattr(process, "PATIENCE", 30)
    assert end(search) == ("done", "")  # once the first one is gone
    first.join()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_a_killed_sweep_leaves_no_search_running(planned):
    search = planned('echo $$ > "$run.pid"; while :; do sleep 0.05; done')
    code = (
        "import sys; from snn_sparse.sweep.planned import PlannedSearch\n"
        "from snn_sparse.sweep.process import run_search_process\n"
        f"sys.executable = {sys.executable!r}\n"
        f"run_search_process({search!r}, None, lambda: None)\n"
    )
    python = Path(sys.prefix) / "bin" / "python"
    sweep = subprocess.Popen([python, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)})
    pid_file = Path("out/one.pid")
    while not (pid_file.exists() and pid_file.read_text().strip()):
        assert sweep.poll() is None
        time.sleep(0.05)
    sweep.kill()
    sweep.wait()
    proc = Path("/proc") / pid_file.read_text().strip() / "cmdline"
    deadline = time.monotonic() + 10
    while proc.exists() and b"stand-in" in proc.read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def sweep(*searches, count=None):
    told = []
    outcomes, number = run_sweep(Plan(Path("out"), searches, 0), Workers(count), told.append)
    return [(o.name, o.state, o.reason) for o in outcomes], number, told


def test_a_failure_stops_nothing_but_what_needs_it(planned):
    searches = [
        planned("echo broken; exit 1", "bad"),
        planned(FINISH, "good"),
        planned(FINISH, "like-bad", after="bad"),
        planned(FINISH, "like-good", after="good"),
    ]
    outcomes, number, told = sweep(*searches)
    assert outcomes == [
        ("bad", "failed", "broken"),
        ("good", "done", ""),
        ("like-bad", "failed", "bad, which it is like, is failed"),
        ("like-good", "done", ""),
    ]
    assert number is None
    assert told[0] == "[1/4] bad failed: broken"
    outcomes, _, told = sweep(*searches)
    assert told[:2] == ["[1/4] good done: finished before", "[2/4] like-good done: finished before"]
    assert [state for _, state, _ in outcomes] == ["failed", "done", "failed", "done"]
    assert len(Path("out/good.log").read_text().splitlines()) == 1


def test_after_a_signal_nothing_more_starts(planned):
    handler = signal.getsignal(signal.SIGTERM)
    stopping = "trap 'exit 143' TERM; kill -TERM $PPID; while :; do sleep 0.05; done"
    outcomes, number, _ = sweep(planned(stopping, "a"), planned(FINISH, "b"), planned(FINISH, "c", after="a"))
    assert outcomes == [
        ("a", "stopped", "the same command goes on"),
        ("b", "stopped", "not started"),
        ("c", "stopped", "not started"),
    ]
    assert number == signal.SIGTERM
    assert not Path("out/b").exists()
    assert signal.getsignal(signal.SIGTERM) is handler


def test_one_sweep_a_directory(planned):
    search = planned(FINISH)
    with Path("out/sweep.lock").open("ab") as other:
        assert lock_file(other, 0)
        with pytest.raises(ValueError, match="out out: another sweep runs there"):
            sweep(search)
    assert sweep(search)[0] == [("one", "done", "")]


def test_without_ray_one_after_the_other(planned, monkeypatch):
    monkeypatch.setattr(workers, "has_ray", lambda: False)
    outcomes, _, told = sweep(planned(FINISH, "a"), planned(FINISH, "b"), count=2)
    assert [state for _, state, _ in outcomes] == ["done", "done"]
    assert told[0].startswith("ray is not installed (pip install 'snn_sparse[sweep]'): the searches run one after")
    assert sum("ray" in line for line in told) == 1
    with pytest.raises(ValueError, match="ray is not installed: pip install"):
        Workers(ray="local")


def test_a_ray_worker_needs_no_torch():
    python = Path(sys.prefix) / "bin" / "python"
    code = "import sys, snn_sparse.sweep.on_ray; assert 'torch' not in sys.modules"
    subprocess.run([python, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
