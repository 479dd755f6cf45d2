"""``--width`` and ``--train_images``: they reach the search, belong to its configuration, and reports name them."""

import json

import pytest
import torch

from snn_sparse.cli import main
from snn_sparse.tickets import Ticket
from snn_sparse.training import load_dataset

FAST = [f"--{k}={v}" for k, v in {"end_iter": 2, "prune_iterations": 2, "prune_percent": 75, "batch_size": 64}.items()]
FAST += ["--timestep=2", "--device=cpu", "--deterministic"]
SIZE = ["--width", "0.25", "--train_images", "100"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main(["search", *FAST, *SIZE, "--out", str(out)]) == 0
    return out


def test_a_search_has_them(run):
    settings = json.loads((run / "config.json").read_text())["settings"]
    assert (settings["width"], settings["train_images"]) == (0.25, 100)
    ticket = Ticket.load(run / "level_01" / "ticket.safetensors")
    assert ticket.config["width"] == 0.25
    assert ticket.mask["features.0.weight"].shape[0] == 8  # a quarter of 32
    assert "vgg_small width 0.25 on digits (100 images)" in (run / "report.html").read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--train_images", "100"], "--width is 0.25 there, 1.0 here"),
        (["--width", "0.5", "--train_images", "100"], "--width is 0.25 there, 0.5 here"),
        (["--width", "0.25"], "--train_images is 100 there, None here"),
    ],
)
def test_another_size_is_another_search(run, capsys, flags, message):
    assert main(["search", *FAST, *flags, "--out", str(run)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_the_same_size_goes_on(run, capsys):
    assert main(["search", *FAST, *SIZE, "--out", str(run)]) == 0
    assert "level 1: finished before" in capsys.readouterr().out


def test_train_and_evaluate_take_them_from_the_ticket(run, tmp_path, capsys):
    ticket = str(run / "level_01" / "ticket.safetensors")
    out = tmp_path / "again"
    assert main(["train", "--ticket", ticket, "--end_iter", "1", "--device", "cpu", "--out", str(out)]) == 0
    settings = json.loads((out / "config.json").read_text())["settings"]
    assert (settings["width"], settings["train_images"]) == (0.25, 100)
    assert main(["evaluate", "--ticket", ticket, "--device", "cpu"]) == 0
    assert "vgg_small width 0.25 on digits" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--width", "0"], "--width must lie above 0"),
        (["--width", "nan"], "--width must lie above 0"),
        (["--train_images", "1"], "--train_images must be at least 2"),
        (["--train_images", "1438"], "--train_images must lie between 1 and the 1437 of digits"),
    ],
)
def test_sizes_that_make_no_sense(flags, message, tmp_path, capsys):
    assert main(["search", *FAST, *flags, "--out", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "run").exists()


def test_fewer_images_are_some_of_all_and_always_the_same():
    data = load_dataset("digits")
    few, again, more = data.fewer(300), data.fewer(300), data.fewer(len(data.train))
    assert torch.equal(few.train.images, again.train.images)
    assert torch.equal(more.train.images, data.train.images)
    assert few.test is data.test
    pairs = {(x.numpy().tobytes(), int(y)) for x, y in zip(data.train.images, data.train.labels, strict=True)}
    drawn = [(x.numpy().tobytes(), int(y)) for x, y in zip(few.train.images, few.train.labels, strict=True)]
    assert set(drawn) <= pairs
    assert len(drawn) == 300
    assert few.train.labels.bincount(minlength=10).min() >= 10  # no matter how the data are ordered
    for wrong in (0, -1, len(data.train) + 1):
        with pytest.raises(ValueError, match="train_images must lie between"):
            data.fewer(wrong)
