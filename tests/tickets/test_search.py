"""Run directories: configurations, divergence, kills by signal, atomic files."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from searching import TINY, make, run, tickets

from snn_sparse.tickets.level import DivergedError, Hooks
from snn_sparse.tickets.run_files import RunExistsError, RunFiles
from snn_sparse.tickets.settings import SPARSITIES, Settings
from snn_sparse.training import load_checkpoint
from snn_sparse.training.data import Dataset, ImageSet


def test_config_holds_every_setting_and_the_environment(tiny, tmp_path):
    make(tiny, tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert Settings(**config["settings"]) == Settings(**TINY)
    assert {"snn_sparse", "torch", "python", "device", "commit"} <= config["environment"].keys()


def test_defaults_are_the_published_settings():
    s = Settings()
    assert (s.method, s.arch, s.dataset, s.timestep, s.batch_size) == ("imp", "vgg16", "cifar10", 5, 128)
    assert (s.end_iter, s.rewinding_epoch, s.prune_percent, s.prune_iterations) == (300, 20, 25.0, 15)
    assert (s.optimizer, s.scheduler, s.learning_rate, s.momentum) == ("sgd", "cosine", 0.1, 0.9)
    assert (s.pruning_scope, s.early_time_threshold, s.seed, s.round) == ("global", 0.6, 1234, 1)
    assert [round(100 * (1 - 0.75**n), 1) for n in range(15)] == pytest.approx(SPARSITIES, abs=0.2)


@pytest.mark.parametrize(
    "changes",
    [
        {"rewinding_epoch": 0},
        {"rewinding_epoch": 2},
        {"method": "eb", "rewinding_epoch": 3},  # without a meaning there
        {"sparsity_round": 14},
        {"method": "imp+et", "timestep": 3, "prune_iterations": 2},
        {"method": "eb+et", "prune_iterations": 1},
        {"momentum": 0.0, "weight_decay": 0.0},
    ],
)
def test_settings_at_their_limits(changes):
    Settings(**{**TINY, **changes})


def test_a_directory_that_is_no_run_or_is_damaged(tiny, tmp_path):
    files = RunFiles(tmp_path / "run")
    with pytest.raises(ValueError, match="is no run directory"):
        files.config()
    make(tiny, tmp_path / "run")
    whole = files.config()
    (tmp_path / "run" / "config.json").write_text("{")
    assert files.config() == whole  # its copy serves, and is put in its place
    assert "config.json is damaged" in files.notes[0]
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == whole
    for name in ("config.json", ".config.json"):
        (tmp_path / "run" / name).write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        files.config()


def test_what_a_ticket_says_of_itself(imp):
    for level, ticket in enumerate(tickets(imp)):
        meta = ticket.meta
        assert (meta["method"], meta["dataset"], meta["level"], meta["seed"]) == ("imp", "digits", level, 5)
        assert (meta["timesteps"], meta["timesteps_early"]) == (4, None)
        assert meta["sparsity"] == pytest.approx((0, 50, 75)[level], abs=0.01)
        assert meta["settings"] == Settings(**TINY, method="imp").as_dict()
        times = [m["seconds"] for m in imp.files.metrics() if m["level"] == level]
        assert 0 < meta["seconds"] <= sum(times)
        assert not imp.files.checkpoint(level).exists()


def test_runs_and_tickets_from_before_there_was_a_precision(tiny, tmp_path):
    search = make(tiny, tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    assert config["settings"].pop("precision") == "fp32"
    path.write_text(json.dumps(config))
    assert Settings(**config["settings"]) == search.settings
    make(tiny, tmp_path / "run")
    with pytest.raises(RunExistsError, match="precision is 'fp32' there, 'bf16' here"):
        make(tiny, tmp_path / "run", precision="bf16")


def test_another_configuration_is_refused(tiny, tmp_path):
    make(tiny, tmp_path / "run")
    make(tiny, tmp_path / "run")
    with pytest.raises(RunExistsError, match="seed is 5 there, 6 here"):
        make(tiny, tmp_path / "run", seed=6)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("mine")
    with pytest.raises(RunExistsError, match="is no run"):
        make(tiny, tmp_path / "other")


def broken(data: Dataset) -> Dataset:
    """Pixels that become infinite: a deviation of zero."""
    train = ImageSet(data.train.images, data.train.labels, data.train.mean, (0.0,))
    return replace(data, train=train)


@pytest.mark.parametrize(
    ("how", "expected"), [("logits", "loss became nan"), ("pixels", r"features\.0\.weight is no longer finite.*")]
)
def test_divergence_names_level_and_epoch_and_keeps_the_last_good_checkpoint(
    tiny, tmp_path, monkeypatch, how, expected
):
    monkeypatch.setattr("snn_sparse.tickets.level.CHECKPOINT_SHARE", 1e9)
    search = make(tiny, tmp_path / "run")
    model = search.new_model()
    from snn_sparse import Mask

    def spoil(done):
        if done == 2 and how == "logits":
            torch.nn.init.constant_(model.classifier.bias, float("inf"))
        elif done == 2:
            search.data = broken(tiny)
        return False

    with pytest.raises(DivergedError, match=expected + r" at level 0, epoch 3; last good checkpoint: .*level_00"):
        search.train(model, Mask.dense(model), 0, 4, hooks=Hooks(spoil))
    saved = load_checkpoint(search.files.checkpoint(0))
    assert saved["result"]["epochs"] == 2
    assert all(v.isfinite().all() for v in saved["model"].values())
    assert [m["epoch"] for m in search.files.metrics()] == [1, 2]


def test_checkpoints_are_rare_when_they_are_dear(tiny, tmp_path, monkeypatch):
    search = make(tiny, tmp_path / "run", end_iter=6)
    written = []

    def slow(level, state):
        written.append(state["result"]["epochs"])
        time.sleep(0.4)

    monkeypatch.setattr(search.files, "save_checkpoint", slow)
    from snn_sparse import Mask

    model = search.new_model()
    search.train(model, Mask.dense(model), 0, 6)
    assert written == [1]


SCRIPT = """
import sys
sys.path[:0] = {folders!r}
import torch
torch.set_num_threads(1)
from searching import run
from tiny_case import tiny_digits
data = tiny_digits()
print("ready", flush=True)
run(data, {out!r}, method="imp", end_iter=4, prune_iterations=3)
"""


@pytest.mark.slow
def test_sigkill_at_any_moment(tmp_path):
    """Killed again and again by a signal that cannot be caught, the search ends with the masks of one that was not."""
    folders = [str(Path(__file__).parents[n]) for n in (0, 1)]

    def start(out):
        code = SCRIPT.format(folders=folders, out=str(tmp_path / out))
        return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env={**os.environ})

    assert start("whole").wait(timeout=200) == 0
    kills = 0
    for seconds in (0.3, 0.8, 0.5, 1.1):
        process = start("killed")
        process.stdout.readline()
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
    assert kills >= 1
    assert start("killed").wait(timeout=200) == 0
    whole, killed = RunFiles(tmp_path / "whole"), RunFiles(tmp_path / "killed")
    assert whole.levels() == killed.levels() == [0, 1, 2]
    for level in range(3):
        a, b = whole.load_ticket(level), killed.load_ticket(level)
        assert a.mask.equal(b.mask)
        assert all(torch.equal(a.trained[n], b.trained[n]) for n in a.trained)
    leftovers = [p for p in (tmp_path / "killed").rglob(".*") if p.is_file()]
    assert len(leftovers) <= kills


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"method": "lottery"}, "method"),
        ({"arch": "alexnet"}, "arch"),
        ({"batch_size": 0}, "batch_size"),
        ({"timestep": 0}, "timestep"),
        ({"timestep": 1001}, "timestep must be at most 1000"),
        ({"method": "imp+et", "timestep": 2}, "timestep must be at least 3"),
        ({"method": "eb+et", "end_iter": 2}, "end_iter"),
        ({"method": "imp+et", "prune_iterations": 1}, "prune_iterations"),
        ({"prune_percent": 0.0}, "prune_percent"),
        ({"prune_percent": 100.0}, "prune_percent"),
        ({"sparsity_round": 15}, "sparsity_round"),
        ({"sparsity_round": -1}, "sparsity_round"),
        ({"rewinding_epoch": 3}, "rewinding_epoch"),
        ({"rewinding_epoch": -1}, "rewinding_epoch"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"optimizer": "lbfgs"}, "optimizer"),
        ({"scheduler": "none"}, "scheduler"),
        ({"pruning_scope": "layer"}, "pruning_scope"),
        ({"neuron": "izhikevich"}, "neuron"),
        ({"bn_statistics": "x"}, "bn_statistics"),
        ({"precision": "fp16"}, "unknown precision 'fp16': choose from fp32, bf16"),
    ],
)
def test_wrong_settings(changes, named):
    with pytest.raises(ValueError, match=named):
        Settings(**{**TINY, **changes})


def test_retraining_a_ticket_repeats_its_level(tiny, tmp_path):
    from snn_sparse.tickets.retrain import retrain

    search = run(tiny, tmp_path / "run", method="imp", prune_iterations=2)
    ticket = tickets(search)[1]
    again = make(tiny, tmp_path / "again", method="train", end_iter=2)
    retrain(again, ticket)
    (found,) = tickets(again)
    assert found.mask.equal(ticket.mask)
    assert all(torch.equal(found.trained[n], ticket.trained[n]) for n in ticket.trained)
