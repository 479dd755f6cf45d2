"""TensorBoard events of a search: every figure against metrics and tickets; no doubles where a search goes on."""

import builtins
import json
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from snn_sparse.cli import main
from snn_sparse.tensorboard import TensorBoardProgress
from snn_sparse.tickets import Ticket
from snn_sparse.tickets.drivers import run_search
from snn_sparse.tickets.progress import Together

sys.path.insert(0, str(Path(__file__).parent / "tickets"))
from searching import KillAfter, Killed, Recorder, make

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def events(folder):
    """Scalars by tag, as (step, value), and histograms by tag, as (step, count, smallest, largest)."""
    read = EventAccumulator(str(folder), size_guidance={"scalars": 0, "histograms": 0})
    read.Reload()
    scalars = {tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}
    histograms = {tag: read.Histograms(tag) for tag in read.Tags()["histograms"]}
    shown = {t: [(e.step, e.histogram_value) for e in found] for t, found in histograms.items()}
    return scalars, {t: [(step, h.num, h.min, h.max) for step, h in found] for t, found in shown.items()}


def metrics(root):
    return [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]


def start(data, root, *others, **changes):
    search = make(data, root, **changes)
    search.progress = Together(*others, TensorBoardProgress(root / "events", root))
    return search


def close(left, right):
    return [(step, pytest.approx(value, rel=1e-6)) for step, value in right] == left


def check_against_the_run(root, levels):
    scalars, histograms = events(root / "events")
    lines = metrics(root)
    for name in ("loss", "accuracy", "sparsity", "learning_rate", "timesteps", "seconds"):
        expected = [(i, line[name]) for i, line in enumerate(lines, 1) if line[name] is not None]
        assert close(scalars[f"epoch/{name}"], expected), name
    tickets = [Ticket.load(root / f"level_{level:02d}" / "ticket.safetensors") for level in levels]
    for name in ("accuracy", "sparsity", "seconds", "epochs", "timesteps"):
        assert close(scalars[f"level/{name}"], [(t.meta["level"], t.meta[name]) for t in tickets]), name
    for name, first in tickets[0].mask.items():
        layer = name.removesuffix(".weight")
        live = [(t.meta["level"], t.trained[name][t.mask[name]]) for t in tickets]
        expected = [(level, len(w), pytest.approx(float(w.min())), pytest.approx(float(w.max()))) for level, w in live]
        assert histograms[f"weights/{layer}"] == expected
        assert expected[0][1] == int(first.count_nonzero())
    rates = {row["name"]: row["firing_rate"] for row in tickets[-1].meta["profile"]["layers"]}
    firing = {layer: rate for layer, rate in rates.items() if rate is not None}
    assert {tag.removeprefix("firing_rate/") for tag in scalars if tag.startswith("firing_rate/")} == firing.keys()
    for layer, rate in firing.items():
        assert scalars[f"firing_rate/{layer}"][-1] == (levels[-1], pytest.approx(rate, rel=1e-5))


def test_all_figures_of_a_search(tiny, tmp_path):
    search = start(tiny, tmp_path / "run", method="imp")
    run_search(search)
    search.progress.close()
    check_against_the_run(tmp_path / "run", [0, 1, 2])


@pytest.mark.parametrize("after", [1, 3, 5, 7])
def test_a_search_that_goes_on_writes_nothing_twice(after, tiny, tmp_path):
    """Killed before the checkpoint of an epoch is written: that epoch is trained, and told of, again."""
    root = tmp_path / "run"
    listener = TensorBoardProgress(root / "events", root)
    search = make(tiny, root, method="imp")
    search.progress = Together(listener, KillAfter(after))
    with pytest.raises(Killed):
        run_search(search)
    search.progress.close()
    again = start(tiny, root, method="imp")
    run_search(again)
    again.progress.close()
    assert len(list((root / "events").iterdir())) == 2
    check_against_the_run(root, [0, 1, 2])


def test_a_finished_search_adds_nothing(tiny, tmp_path):
    root = tmp_path / "run"
    for _ in range(2):
        search = start(tiny, root, method="snip")
        run_search(search)
        search.progress.close()
    assert len(list((root / "events").iterdir())) == 1
    check_against_the_run(root, [1])


def test_both_searches_of_a_transfer(tiny, tmp_path):
    root = tmp_path / "run"
    search = start(tiny, root, method="transfer", prune_iterations=2, end_iter=2)
    run_search(search)
    search.progress.close()
    scalars, histograms = events(root / "events")
    both = [*metrics(root / "relu"), *metrics(root)]
    assert close(scalars["epoch/loss"], [(i, line["loss"]) for i, line in enumerate(both, 1)])
    for prefix, run in (("relu/", root / "relu"), ("", root)):
        tickets = [Ticket.load(run / f"level_{level:02d}" / "ticket.safetensors") for level in (0, 1)]
        assert close(scalars[f"{prefix}level/accuracy"], [(t.meta["level"], t.meta["accuracy"]) for t in tickets])
        assert [step for step, *_ in histograms[f"{prefix}weights/classifier"]] == [0, 1]


FEW = ["--end_iter", "2", "--prune_iterations", "1", "--batch_size", "512", "--timestep", "2", "--device", "cpu"]


@pytest.mark.parametrize("given", ["auto", "elsewhere"])
def test_the_flag(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["search", *FEW, "--tensorboard", given, "--out", "run"]) == 0
    folder = tmp_path / ("run/tensorboard" if given == "auto" else given)
    assert [step for step, _ in events(folder)[0]["epoch/loss"]] == [1, 2]
    assert main(["train", "--ticket", "run/level_00/ticket.safetensors", "--tensorboard", "auto", "--out", "t"]) == 0
    assert [step for step, _ in events(tmp_path / "t" / "tensorboard")[0]["epoch/loss"]] == [1, 2]


def test_it_is_missing(tmp_path, monkeypatch, capsys):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == "tensorboard" or name == "torch.utils.tensorboard":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert main(["search", *FEW, "--tensorboard", "auto", "--out", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install 'snn_sparse[tensorboard]'" in line
    assert not (tmp_path / "run" / "level_00").exists()


def test_everybody_hears_everything(tiny, tmp_path):
    one, two = Recorder(), Recorder()
    search = make(tiny, tmp_path / "run", method="eb", end_iter=2)
    search.progress = Together(one, two)
    run_search(search)
    assert one.epochs == two.epochs != []
    assert (one.notes, one.left) == (two.notes, two.left)
