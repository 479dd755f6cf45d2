"""Event streams at the command line: searched, trained and evaluated like images."""

import json
import sys

import pytest

from snn_sparse.cli import main

SHORT = ["--end_iter", "1", "--rewinding_epoch", "0", "--prune_iterations", "2", "--prune_percent", "50"]
SMALL = ["--image_size", "8", "--backend", "plain", "--device", "cpu"]


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    out = tmp_path_factory.mktemp("events") / "run"
    assert main(["search", "--dataset", "events", "--timestep", "3", *SHORT, *SMALL, "--out", str(out)]) == 0
    return out


def test_search(searched):
    report = json.loads((searched / "report.json").read_text())
    assert (report["dataset"], report["arch"], report["timesteps"]) == ("events", "vgg_small", 3)
    assert [level["sparsity"] for level in report["levels"]] == pytest.approx([0, 50], abs=0.1)


def test_evaluate_and_train(searched, tmp_path, capsys):
    ticket = str(searched / "level_01" / "ticket.safetensors")
    capsys.readouterr()
    assert main(["evaluate", "--ticket", ticket, *SMALL]) == 0
    accuracy = json.loads((searched / "report.json").read_text())["levels"][1]["accuracy"]
    assert f"vgg_small on events, 50.00 % pruned, T = 3: test accuracy {accuracy:.2f} %" in capsys.readouterr().out
    assert main(["evaluate", "--ticket", ticket, *SMALL, "--timestep", "2"]) == 0
    assert "T = 2: test accuracy" in capsys.readouterr().out
    assert main(["train", "--ticket", ticket, *SMALL, "--timestep", "2", "--out", str(tmp_path / "again")]) == 0
    assert json.loads((tmp_path / "again" / "report.json").read_text())["timesteps"] == 2


def test_more_timesteps_than_frames_are_one_line(searched, capsys):
    ticket = str(searched / "level_01" / "ticket.safetensors")
    capsys.readouterr()
    assert main(["evaluate", "--ticket", ticket, *SMALL, "--timestep", "4"]) == 2
    assert capsys.readouterr().err == "snn-sparse: error: --timestep must be between 1 and the data's 3, got 4\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "nmnist"], "N-MNIST needs Train.zip, Test.zip from https://www.garrickorchard.com"),
        (["--dataset", "events", "--image_size", "17"], "image_size must be between 1 and 16"),
        (["--dataset", "digits", "--image_size", "0"], "image_size must be at least 1, got 0"),
    ],
)
def test_complaints_are_one_line(arguments, message, tmp_path, capsys):
    given = ["search", *arguments, "--data_dir", str(tmp_path), "--out", str(tmp_path / "run"), "--device", "cpu"]
    assert main(given) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_missing_library_is_one_line(tmp_path, monkeypatch, capsys):
    for name in ("spikingjelly", "tonic"):
        monkeypatch.setitem(sys.modules, name, None)
    given = ["--dataset", "cifar10dvs", "--data_dir", str(tmp_path), "--out", str(tmp_path / "run"), "--device", "cpu"]
    assert main(["search", *given]) == 2
    error = capsys.readouterr().err
    assert error.startswith("snn-sparse: error: CIFAR10-DVS is read through SpikingJelly or tonic: pip install ")
    assert error.count("\n") == 1
