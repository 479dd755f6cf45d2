"""The command line as a user meets it: exit statuses, single lines of error, files left behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from snn_sparse.cli import build_parser, common, main
from snn_sparse.cli.flags import ARCHITECTURES, DATASETS, METHOD_HELP
from snn_sparse.ops.backend import library_path

GOLDEN = Path(__file__).parents[1] / "golden" / "run_snip"
TICKET = str(GOLDEN / "level_01" / "ticket.safetensors")
FAST = ["--end_iter", "2", "--rewinding_epoch", "1", "--prune_percent", "60", "--prune_iterations", "2"]
SEARCH = ["search", "--dataset", "digits", "--batch-size", "256", "--timestep", "3", *FAST]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("cli") / "imp"
    assert main([*SEARCH, "--method", "imp", "--out", str(out)]) == 0
    return out


def lines(capsys):
    out, err = capsys.readouterr()
    return out, err.strip().splitlines()


def test_search_leaves_everything_behind(finished, capsys):
    names = {p.relative_to(finished).as_posix() for p in finished.rglob("*") if p.is_file()}
    assert names == {
        ".config.json",
        ".lock",
        "config.json",
        "plans.jsonl",
        "metrics.jsonl",
        "memory.pt",
        "report.json",
        "report.html",
        "accuracy.png",
        "density.png",
        "time.png",
        "level_00/ticket.safetensors",
        "level_01/ticket.safetensors",
    }
    report = json.loads((finished / "report.json").read_text())
    assert [level["sparsity"] for level in report["levels"]] == pytest.approx([0, 60], abs=0.01)
    assert [level["epochs"] for level in report["levels"]] == [2, 1]
    assert report["search_seconds"] == report["levels"][0]["seconds"] > 0
    assert main([*SEARCH, "--method", "imp", "--out", str(finished)]) == 0
    out, _ = lines(capsys)
    assert "level 1: finished before" in out
    assert f"report: {finished}/report.html" in out
    assert "60.00 %" in out


def test_evaluate_train_and_report(finished, tmp_path, capsys):
    ticket = str(finished / "level_01" / "ticket.safetensors")
    assert main(["evaluate", "--ticket", ticket]) == 0
    out, _ = lines(capsys)
    accuracy = json.loads((finished / "report.json").read_text())["levels"][1]["accuracy"]
    assert f"test accuracy {accuracy:.2f} %" in out
    assert main(["evaluate", "--ticket", ticket, "--timestep", "1"]) == 0
    assert "T = 1:" in lines(capsys)[0]
    assert main(["train", "--ticket", ticket, "--out", str(tmp_path / "train")]) == 0
    out, _ = lines(capsys)
    assert f"{accuracy:.2f} %" in out  # same rewound weights, same random numbers, same result
    assert main(["report", str(finished), str(tmp_path / "train"), "--out", str(tmp_path / "both")]) == 0
    assert (tmp_path / "both" / "report.html").exists()


def test_plan_of_a_ticket(finished, capsys):
    ticket = str(finished / "level_01" / "ticket.safetensors")
    assert main(["plan", "--ticket", ticket, "--batch_size", "8", "--image_size", "8"]) == 0
    table = lines(capsys)[0].splitlines()
    assert [row.split()[0] for row in table[2:]] == ["features.0", "features.4", "features.8", "classifier"]
    assert all(any(word in row for word in ("dense", "live", "spikes")) for row in table[2:])
    assert all(row.count("%") == 4 for row in table[2:])  # density, and the unions of 8, 16 and 32 filters
    assert main(["plan", "--ticket", ticket, "--batch_size", "0"]) == 2
    assert "batch_size" in lines(capsys)[1][0]


def test_doctor_says_what_runs_and_why_not_faster(capsys, monkeypatch):
    assert main(["doctor"]) == 0
    first, *table = capsys.readouterr().out.splitlines()
    assert first == f"C++ operators: {library_path()}"
    rows = {tuple(line.split()[:3]): line.split()[3:] for line in table if line}
    for operator in ("neuron", "convolution", "live"):
        assert rows[operator, "cpu", "float32"] == ["cpp"]
        implementation, *reason = rows[operator, "cpu", "bfloat16"]
        assert implementation == "plain"
        assert "bfloat16" in " ".join(reason)
    monkeypatch.setattr("snn_sparse.ops.backend.library_problem", lambda: "there is no compiler")
    assert main(["doctor"]) == 0
    first, *table = capsys.readouterr().out.splitlines()
    assert first == "C++ operators: none. there is no compiler: a CPU runs plain PyTorch, which is slow"
    assert "".join(table).count("there is no compiler") == 6  # three operators in float32 and float64


def test_random_control_of_a_run(finished, tmp_path):
    arguments = [*SEARCH, "--method", "random", "--like", str(finished), "--out", str(tmp_path / "random")]
    assert main(arguments) == 0
    report = json.loads((tmp_path / "random" / "report.json").read_text())
    assert report["levels"][0]["sparsity"] == pytest.approx(60, abs=0.1)


BAD = [
    ["search", "--dataset", "imagenet"],
    ["search", "--arch", "vgg17"],
    ["search", "--method", "lottery"],
    ["search", "--method", "imp+et", "--timestep", "2"],
    ["search", "--dataset", "cifar10", "--data_dir", "/nonexistent"],
    ["search", "--dataset", "imagefolder", "--data_dir", "/nonexistent"],
    ["search", "--prune_percent", "0"],
    ["search", "--prune_percent", "100"],
    ["search", "--prune_percent", "abc"],
    ["search", "--method", "eb", "--sparsity_round", "15"],
    ["search", "--method", "eb", "--sparsity_round", "-1"],
    ["search", "--batch_size", "0"],
    ["search", "--precision", "fp16"],
    ["train", "--ticket", __file__, "--precision", "half"],
    ["search", "--rewinding_epoch", "300"],
    ["search", "--print_freq", "0"],
    ["search", "--device", "cuda:99"],
    ["search", "--device", "abacus"],
    ["search", "--arch", "vgg16", "--dataset", "digits"],
    ["search", "--method", "random"],
    ["search", "--method", "imp", "--like", "somewhere"],
    ["search", "--method", "random", "--like", "/nonexistent"],
    ["search", "--no-such-flag"],
    ["evaluate", "--ticket", "/nonexistent"],
    ["train", "--ticket", __file__],
    ["evaluate", "--ticket", __file__, "--precision", "half"],
    ["evaluate", "--ticket", TICKET, "--timestep", "0"],
    ["train", "--ticket", TICKET, "--timestep", "0"],
    ["train", "--ticket", TICKET, "--end_iter", "0"],
    ["train", "--ticket", TICKET, "--learning_rate", "-1"],
    ["train", "--ticket", TICKET, "--print_freq", "0"],
    ["plan", "--ticket", "/nonexistent"],
    ["report", "/nonexistent"],
    ["report", str(GOLDEN), "--out", __file__],
    ["dance"],
    [],
]


@pytest.mark.parametrize("arguments", BAD, ids=lambda a: " ".join(map(os.path.basename, a)))
def test_bad_input_is_one_line_and_status_2(arguments, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        status = main(arguments)
    except SystemExit as stop:
        status = stop.code
    out, err = lines(capsys)
    assert status == 2
    assert len(err) == 1
    assert err[0].startswith("snn-sparse")
    assert "error: " in err[0]
    assert out == ""
    assert not list(tmp_path.rglob("config.json"))


def test_another_configuration_in_out(finished, capsys):
    assert main([*SEARCH, "--method", "imp", "--out", str(finished), "--seed", "9"]) == 2
    _, err = lines(capsys)
    assert len(err) == 1
    assert "seed is 1234 there, 9 here" in err[0]


def test_divergence_is_status_1(tmp_path, capsys):
    arguments = [*SEARCH, "--method", "imp", "--learning_rate", "1e38", "--out", str(tmp_path / "run")]
    assert main(arguments) == 1
    _, err = lines(capsys)
    assert len(err) == 1
    assert "level 0, epoch 1" in err[0]


def test_published_flags_names_and_defaults():
    """Those of the published config_lth.py; data set and network default to what runs without a download."""
    args = build_parser().parse_args(["search"])
    published = {
        "exp_name": "snn_pruning",
        "data_dir": "dataset/",
        "seed": 1234,
        "timestep": 5,
        "batch_size": 128,
        "optimizer": "sgd",
        "scheduler": "cosine",
        "learning_rate": 1e-1,
        "momentum": 0.9,
        "prune_percent": 25,
        "prune_iterations": 15,
        "round": 1,
        "pruning_scope": "global",
        "end_iter": 300,
        "valid_freq": 50,
        "print_freq": 50,
        "rewinding_epoch": 20,
        "sparsity_round": 0,
    }
    common.follow_up(args)
    assert {k: getattr(args, k) for k in published} == published
    for name in [*published, "dataset", "arch", "weight_decay"]:
        value = {"dataset": "cifar10", "arch": "vgg16", "optimizer": "adam", "scheduler": "step"}.get(name, "3")
        value = "local" if name == "pruning_scope" else value
        for spelling in (name, name.replace("_", "-")):
            build_parser().parse_args(["search", f"--{spelling}", value])
    command = "search --method eb --dataset cifar10 --arch vgg16 --optimizer sgd --sparsity_round 4 --batch_size 128"
    build_parser().parse_args([*command.split(), "--learning_rate", "3e-1", "--round", "1"])


def test_help_lists_agree_with_the_package():
    from snn_sparse import models
    from snn_sparse.tickets.settings import METHODS
    from snn_sparse.training import DATASETS as KNOWN

    assert dict(METHOD_HELP) == METHODS
    assert set(ARCHITECTURES) == set(models.ARCHITECTURES)
    assert set(DATASETS) == set(KNOWN)


@pytest.mark.parametrize(
    "command", [[], ["search"], ["train"], ["evaluate"], ["explain"], ["plan"], ["report"], ["demo"]]
)
def test_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    assert len(capsys.readouterr().out) > 100


def test_interrupt_says_how_to_go_on(tmp_path):
    script = (
        "import snn_sparse.training.loop as loop, sys\n"
        "import snn_sparse.tickets.level as level\n"
        "def interrupted(*a): raise KeyboardInterrupt\n"
        "level.train_epoch = interrupted\n"
        "from snn_sparse.cli import main\n"
        f"sys.exit(main({[*SEARCH, '--out', str(tmp_path / 'run')]!r}))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 130
    assert "goes on from here" in done.stderr
    assert "Traceback" not in done.stderr
