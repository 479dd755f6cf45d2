"""Flags from a file: the same as on the command line, which goes first; and what is refused."""

import json
import random

import pytest

from snn_sparse.cli import build_parser, main
from snn_sparse.cli.config import with_config
from snn_sparse.cli.flags import switches

FLAGS = {name: switches(parser) for name, parser in build_parser().commands.choices.items()}


def parsed(argv):
    """Arguments of a command line, as ``main`` reads it."""
    return vars(build_parser().parse_args(with_config(argv, FLAGS[argv[0]])))


@pytest.fixture
def write(tmp_path):
    def file(text, name="a.yaml"):
        path = tmp_path / name
        path.write_text(text if isinstance(text, str) else json.dumps(text))
        return str(path)

    return file


def test_a_file_says_what_flags_say(write):
    chosen = {
        "end_iter": random.randrange(1, 99),
        "learning-rate": 10 ** -random.uniform(1, 4),
        "method": random.choice(["imp", "eb"]),
        "like": "a run/of spaces",
        "deterministic": True,
        "download": False,
        "weight_decay": None,
    }
    flags = [f"--{k}={v}" for k, v in chosen.items() if not isinstance(v, bool) and v is not None]
    file = write(chosen)
    assert {**parsed(["search", "--config", file]), "config": None} == parsed(["search", *flags, "--deterministic"])


def test_the_command_line_goes_first(write):
    file = write("end_iter: 7\nbatch-size: 3\ndeterministic: true\nlearning_rate: 1e-2\n")
    given = parsed(["search", "--batch_size", "5", f"--config={file}", "--no-deterministic"])
    assert (given["end_iter"], given["batch_size"], given["deterministic"], given["learning_rate"]) == (
        7,
        5,
        False,
        0.01,
    )
    assert parsed(["search", "--conf", file])["end_iter"] == 7  # argparse takes shortened flags, so they count here


def test_an_empty_file_says_nothing(write):
    assert parsed(["search", "--config", write("# nothing\n")])["end_iter"] == 300


def test_the_ticket_may_stand_in_the_file(write):
    given = parsed(["train", "--config", write("ticket: a/b\nend_iter: 3\n")])
    assert (given["ticket"], given["end_iter"]) == ("a/b", 3)


BAD = [
    ("search", "end_itre: 3", "unknown key 'end_itre'; did you mean end_iter?"),
    ("search", "config: other.yaml", "unknown key 'config'"),
    ("train", "method: imp", "unknown key 'method'"),
    ("search", "seed: [1, 2]", "seed takes one value, got [1, 2]"),
    ("search", "deterministic: 3", "deterministic is true or false, got 3"),
    ("search", "seed: true", "seed takes a value, got True"),
    ("search", "- a\n- b", "must be a mapping"),
    ("search", "a: b: c", "not YAML, line 1"),
    ("search", "seed: 1\nseed: 2", "seed is given twice"),
    ("search", "seed: 1\nbatch-size: 2\nbatch_size: 3", "batch_size is given twice"),
]


@pytest.mark.parametrize(("command", "text", "message"), BAD, ids=range(len(BAD)))
def test_what_is_refused_is_one_line(command, text, message, write, capsys):
    file = write(text)
    assert main([command, "--config", file]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith(f"snn-sparse: error: --config {file}: ")
    assert message in line.replace("--batch_size", "batch_size")


def test_values_are_checked_as_flags_are(write, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["search", "--config", write("method: lottery")])
    assert stop.value.code == 2
    assert "--method" in capsys.readouterr().err
    assert main(["search", "--config", write("end_iter: 3\nrewinding_epoch: 3")]) == 2
    assert "--rewinding_epoch must lie" in capsys.readouterr().err


def test_no_file(tmp_path, capsys):
    assert main(["search", "--config", str(tmp_path / "nowhere.yaml")]) == 2
    assert f"--config {tmp_path / 'nowhere.yaml'}: no such file" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main(["search", "--config"])
    assert stop.value.code == 2


def test_a_run_is_done_again_from_its_own_configuration(tmp_path, capsys):
    few = ["--end_iter", "2", "--prune_iterations", "1", "--batch_size", "512", "--timestep", "2", "--seed", "8"]
    first, second = tmp_path / "a", tmp_path / "b"
    assert main(["search", *few, "--device", "cpu", "--out", str(first)]) == 0
    for source in (first, first / "config.json"):  # the second time it is there already, and the same
        assert main(["search", "--config", str(source), "--out", str(second)]) == 0
    settings = [json.loads((run / "config.json").read_text())["settings"] for run in (first, second)]
    assert settings[0] == settings[1]
    assert main(["search", "--config", str(first), "--seed", "9", "--out", str(second)]) == 2
    assert "seed is 8 there, 9 here" in capsys.readouterr().err
    ticket = str(first / "level_00" / "ticket.safetensors")
    assert parsed(["train", "--ticket", ticket, "--config", str(first)])["timestep"] == 2  # the rest is the ticket's


def test_only_commands_with_the_flag_read_it():
    assert [name for name, flags in FLAGS.items() if "config" in flags] == ["search", "train"]
