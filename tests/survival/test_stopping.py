"""SIGTERM and SIGINT: the step is finished, a checkpoint written, and the same command ends as if nothing had been."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1] / "tickets"))
from searching import make, run, same, tickets

from snn_sparse.cli import main
from snn_sparse.tickets.drivers import run_search
from snn_sparse.training import load_checkpoint
from snn_sparse.training.stopping import Stop, StoppedError

SIZE = {"timestep": 3, "batch_size": 20, "end_iter": 30, "rewinding_epoch": 1, "print_freq": 1, "prune_iterations": 2}
FLAGS = ["search", "--dataset", "digits", "--device", "cpu", "--deterministic"]
FLAGS += [word for name, value in SIZE.items() for word in (f"--{name}", str(value))]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_with_a_checkpoint_and_its_own_status(tmp_path, number, status):
    argv = [sys.executable, "-m", "snn_sparse", *FLAGS, "--out", str(tmp_path / "run")]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ})
    for line in process.stdout:
        if re.search(r"level 0/.* epoch (?!1/)", line):  # of quick epochs not every one has a line
            break
    time.sleep(0.05)  # in the middle of an epoch
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == status
    assert err == f"snn-sparse: stopped by {number.name}; the same command goes on from here\n"
    saved = load_checkpoint(tmp_path / "run" / "level_00" / "checkpoint.pt")
    assert saved["result"]["epochs"] >= 2
    assert not list((tmp_path / "run").rglob("*.tmp"))


def stop_in_the_middle(search, monkeypatch, steps):
    from snn_sparse.training import TrainStep

    usual, done = TrainStep.__call__, []

    def counted(self, x, y):
        done.append(1)
        if len(done) == steps:
            search.stop.signal = signal.SIGTERM
        return usual(self, x, y)

    with monkeypatch.context() as patch:
        patch.setattr(TrainStep, "__call__", counted)
        with pytest.raises(StoppedError, match="stopped by SIGTERM"):
            run_search(search)
    return len(done)


@pytest.mark.parametrize("method", ["imp+et", "eb"])
def test_stopped_inside_an_epoch_it_goes_on_with_the_next_batch(tiny, tmp_path, monkeypatch, method):
    whole = run(tiny, tmp_path / "whole", method=method, deterministic=True)
    for steps in (2, 3, 9):  # of four a batch; each start goes on where the one before stopped
        search = make(tiny, tmp_path / "run", method=method, deterministic=True)
        assert stop_in_the_middle(search, monkeypatch, steps) == steps
    search = make(tiny, tmp_path / "run", method=method, deterministic=True)
    run_search(search)
    assert any("batches" in note for note in search.progress.notes)
    for a, b in zip(tickets(whole), tickets(search), strict=True):
        assert a.mask.equal(b.mask)
        assert same(a.trained, b.trained)
        assert same(a.rewind, b.rewind)
    lines = [[{k: v for k, v in m.items() if k != "seconds"} for m in s.files.metrics()] for s in (whole, search)]
    assert lines[0] == lines[1]


def test_the_second_signal_ends_at_once():
    stop = Stop()
    before = signal.getsignal(signal.SIGINT)
    with stop.on_signals():
        signal.raise_signal(signal.SIGINT)
        assert stop.signal == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_long_epoch_is_saved_in_its_middle(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("snn_sparse.tickets.level.BETWEEN_CHECKPOINTS", 0.0)
    monkeypatch.setattr("snn_sparse.tickets.level.CHECKPOINT_SHARE", 1e9)
    search = make(tiny, tmp_path / "run", method="snip", end_iter=1)
    batches = []
    save = search.files.save_checkpoint
    monkeypatch.setattr(
        search.files,
        "save_checkpoint",
        lambda level, state: batches.append(state["sums"]["batches"]) or save(level, state),
    )
    run_search(search)
    assert batches == [1, 2, 3, 4, 0]


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (OSError(28, "No space left on device", "/x/memory.pt"), 2, "No space left on device: '/x/memory.pt'"),
        (PermissionError(13, "Permission denied", "/x"), 2, "Permission denied: '/x'"),
        (RuntimeError("two\nlines"), 2, "RuntimeError: two lines (SNN_SPARSE_TRACEBACK=1 shows where)"),
        (KeyError("level"), 2, "KeyError: 'level'"),
    ],
)
def test_whatever_fails_is_one_line(tmp_path, monkeypatch, capsys, error, status, said):
    def fails(_search):
        raise error

    monkeypatch.setattr("snn_sparse.tickets.drivers.run_search", fails)
    assert main([*FLAGS, "--out", str(tmp_path / "run")]) == status
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert said in err
    monkeypatch.setenv("SNN_SPARSE_TRACEBACK", "1")
    with pytest.raises(type(error)):
        main([*FLAGS, "--out", str(tmp_path / "run")])
