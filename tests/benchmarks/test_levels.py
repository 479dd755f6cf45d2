"""Training steps of a run's levels: what is compared, on which images and weights, and what is refused."""

import pytest
import torch

import benchmarks.rows
from benchmarks import levels
from benchmarks.__main__ import main
from benchmarks.rows import read
from benchmarks.timing import Timing
from snn_sparse.tickets.drivers import run_search
from snn_sparse.tickets.progress import Progress
from snn_sparse.tickets.run_files import RunFiles
from snn_sparse.tickets.search import Search
from snn_sparse.tickets.settings import Settings

SIZE = {"arch": "vgg_small", "dataset": "digits", "timestep": 2, "batch_size": 8, "learning_rate": 0.1, "seed": 3}
EPOCHS = {"end_iter": 2, "rewinding_epoch": 1, "prune_iterations": 2, "prune_percent": 60.0, "valid_freq": 9}


@pytest.fixture
def run(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(levels, "load_dataset", lambda name, data_dir: tiny)
    monkeypatch.setattr(benchmarks.rows, "RESULTS", tmp_path)
    files = RunFiles(tmp_path / "run")
    files.start(settings := Settings(method="imp", **SIZE, **EPOCHS))
    run_search(Search(settings, tiny, files, Progress()))
    return tmp_path / "run"


def test_levels_and_all_of_them_weighted_by_epochs(run, tmp_path, monkeypatch, capsys):
    seconds = iter([[4.0, 6.0], [2.0, 2.0], [4.0, 4.0], [1.0, 0.5]])
    kept = []

    def interleaved(steps, rounds, warmup, clock):
        assert rounds == 2
        kept.append([float(step()) for step in steps.values()])
        return {name: Timing(next(seconds)) for name in steps}

    monkeypatch.setattr(levels, "interleaved", interleaved)
    assert main(["levels", str(run), "--rounds", "2"]) == 0
    for published, fused in kept:  # the loss of the same images by the same weights
        assert fused == pytest.approx(published, rel=1e-3)
    found = {(r.case, r.metric, r.provider): r.median for r in read(tmp_path / "levels.jsonl")}
    name = "trained imp vgg_small digits batch 8"
    dense, sparse = f"{name}, level 0: 0.00 % pruned, T=2", f"{name}, level 1: 60.00 % pruned, T=2"
    assert found[dense, "times faster", "fused"] == pytest.approx(2.5)
    assert found[sparse, "times faster", "fused"] == pytest.approx(6.0)
    # 2 epochs of level 0 and 1 of level 1: (8 + 4) / (4 + 1) and (12 + 4) / (4 + 0.5)
    assert found[f"{name}, all levels", "times faster", "fused"] == pytest.approx((12 / 5 + 16 / 4.5) / 2)
    assert 0 < found[sparse, "% of activations not zero", "fused"] < 100
    assert "times faster" in capsys.readouterr().out


def test_steps_train_under_the_mask(run):
    ticket = RunFiles(run).load_ticket(1)
    steps = levels.steps_of(ticket, levels.load_dataset("digits", ""), "cpu")
    losses = [[float(step()) for _ in range(3)] for step in steps.values()]
    assert torch.tensor(losses[0]).allclose(torch.tensor(losses[1]), rtol=5e-2)  # rounding decides some spikes


@pytest.mark.parametrize(("what", "message"), [("nowhere", "no run directory"), (".", "has no finished levels")])
def test_what_is_no_run(tmp_path, what, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["levels", str(tmp_path / what)])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
