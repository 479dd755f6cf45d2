"""Searches on two processes that torchrun starts, against one process, and with one of them killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import distributed_search_case as case

from snn_sparse import Ticket

LEVELS = 2
SEARCH = [
    "-m",
    "snn_sparse",
    "search",
    "--method",
    "imp",
    "--dataset",
    "digits",
    "--arch",
    "vgg_small",
    "--timestep",
    "2",
    "--batch-size",
    "128",
    "--end_iter",
    "4",
    "--rewinding_epoch",
    "1",
    "--prune_percent",
    "75",
    "--prune_iterations",
    "2",
    "--valid_freq",
    "2",
    "--deterministic",
    "--device",
    "cpu",
]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=3"]


def start(out, *flags, two=True):
    """A search of its own, on two processes or one."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *(TORCHRUN if two else ()), *SEARCH, "--out", str(out), *flags]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process):
    text, _ = process.communicate(timeout=200)
    assert process.returncode == 0, text
    return text


def metrics(out):
    path = out / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def tickets(out):
    return [Ticket.load(out / f"level_{level:02d}" / "ticket.safetensors") for level in range(LEVELS)]


def worker(agent, rank):
    """Number of the process of a rank."""
    for pid in Path(f"/proc/{agent}/task/{agent}/children").read_text().split():
        if f"RANK={rank}" in Path(f"/proc/{pid}/environ").read_text().split("\0"):
            return int(pid)
    raise AssertionError(f"no process of rank {rank}")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("two") / "run"
    return out, finish(start(out, "--sync_statistics"))


@pytest.mark.slow
def test_two_processes_find_what_one_finds(undisturbed, tmp_path):
    """The first epoch's loss to rounding, which spikes then amplify; accuracy within a few points."""
    two, text = undisturbed
    finish(start(tmp_path / "one", two=False))
    ours, one = metrics(two), metrics(tmp_path / "one")
    assert len(ours) == len(one) == 4 + 3
    assert ours[0]["loss"] == pytest.approx(one[0]["loss"], rel=0.01)
    assert ours[3]["loss"] == pytest.approx(one[3]["loss"], rel=0.2)
    for a, b in zip(tickets(two), tickets(tmp_path / "one"), strict=True):
        assert a.mask.live == b.mask.live
        assert abs(a.meta["accuracy"] - b.meta["accuracy"]) < 10
    assert "on 2 processes" in text
    assert text.count("report:") == text.count("level 0: 0.00 % pruned") == 1  # rank 0 alone prints


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found in /proc")
def test_a_killed_process_changes_nothing(undisturbed, tmp_path):
    process = start(tmp_path / "run", "--sync_statistics")
    until = time.monotonic() + 100
    while len(metrics(tmp_path / "run")) < 2 and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    os.kill(worker(process.pid, 1), signal.SIGKILL)
    text = finish(process)
    assert "level 0: going on after epoch" in text
    for a, b in zip(tickets(undisturbed[0]), tickets(tmp_path / "run"), strict=True):
        assert a.mask.equal(b.mask)
        assert all(torch.equal(v, b.trained[n]) for n, v in a.trained.items())
        assert a.meta["accuracy"] == b.meta["accuracy"]
    assert [m["loss"] for m in metrics(undisturbed[0])] == [m["loss"] for m in metrics(tmp_path / "run")]


def test_a_run_directory_that_only_rank_0_sees(pair, tmp_path):
    first, second = pair(case.run_directory, tmp_path / "run")
    assert first == second
    said, found, nothing, run, arch = first
    assert said[0].startswith("out ROOT holds another configuration: seed is")
    assert said[1:] == ["RunInUseError"]
    assert (found, nothing, arch) == ([0.0, 1.0, 2.0], True, "vgg_small")
    assert run == json.loads((tmp_path / "run" / "config.json").read_text())["run"]
    assert [m["rank"] for m in metrics(tmp_path / "run")] == [0]
    assert (tmp_path / "run" / "relu" / "config.json").exists()
