"""Defaults that follow other flags, and errors that name the flag or say what to give instead."""

import json
from pathlib import Path

import pytest

from snn_sparse.cli import build_parser, common, main
from snn_sparse.tickets.settings import Settings

RUN = Path(__file__).parents[1] / "golden" / "run_snip"
TICKET = str(RUN / "level_01" / "ticket.safetensors")


def error(capsys):
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


@pytest.mark.parametrize(
    ("flags", "rewinding", "every"),
    [("--end_iter 1", 0, 1), ("--end_iter 2", 1, 1), ("--end_iter 5", 1, 1), ("--end_iter 30", 2, 5)]
    + [("--end_iter 160 --method imp+et", 10, 26), ("--end_iter 300", 20, 50), ("--end_iter 1000", 20, 50)]
    + [("--end_iter 12 --method snip", 20, 2), ("--end_iter 30 --method transfer", 2, 5)]
    + [("--end_iter 30 --rewinding_epoch 7", 7, 5), ("--end_iter 30 --rewinding_epoch 0", 0, 5)],
)
def test_defaults_follow_the_number_of_epochs(flags, rewinding, every):
    args = build_parser().parse_args(["search", *flags.split()])
    common.follow_up(args)
    assert (args.rewinding_epoch, args.valid_freq, args.print_freq) == (rewinding, every, every)
    Settings(method=args.method, end_iter=args.end_iter, rewinding_epoch=args.rewinding_epoch)  # and they are allowed


def test_some_epochs_alone_are_enough(tmp_path, capsys):
    few = ["--prune_iterations", "2", "--batch_size", "512", "--timestep", "2", "--out", str(tmp_path / "run")]
    assert main(["search", "--end_iter", "2", *few]) == 0
    settings = json.loads((tmp_path / "run" / "config.json").read_text())["settings"]
    assert (settings["rewinding_epoch"], settings["valid_freq"]) == (1, 1)


MESSAGES = [
    (["search", "--method", "imp", "--like", "somewhere"], "error: --like (a run directory"),
    (["search", "--method", "random", "--like", "/nonexistent"], "error: --like /nonexistent does not exist"),
    (
        ["search", "--end_iter", "5", "--rewinding_epoch", "5"],
        "--rewinding_epoch must lie between 0 and --end_iter - 1",
    ),
    (["search", "--sparsity_round", "15"], "error: --sparsity_round must lie"),
    (["search", "--round", "0"], "error: --round must be at least 1"),
    (["search", "--print_freq", "0"], "error: --print_freq must"),
    (["search", "--device", "cuda:99"], "error: --device 'cuda:99' is not available"),
    (["search", "--dataset", "cifar10", "--data_dir", "/nonexistent"], "error: --data_dir /nonexistent does not exist"),
    (["evaluate", "--ticket", TICKET, "--timestep", "0"], "error: --timestep"),
    (["plan", "--ticket", TICKET, "--batch_size", "0"], "error: --batch_size must"),
    (["explain", "a:b", "--input", "0"], "error: --input must"),
    (["explain", "a"], "error: network must"),  # which is no flag
]


@pytest.mark.parametrize(("arguments", "message"), MESSAGES, ids=range(len(MESSAGES)))
def test_errors_name_the_flag(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert message in error(capsys)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("end_iter is 3 there", "--end_iter is 3 there"),
        ("out a/end_iter/b.end_iter holds another", "--out a/end_iter/b.end_iter holds another"),
        ("out of memory in the seed", "--out of memory in the seed"),
        ("the seed and the out of 'end_iter'", "the seed and the out of '--end_iter'"),
        ("name it by --end_iter, not end_iter", "name it by --end_iter, not end_iter"),
        ("end_iters and my_end_iter", "end_iters and my_end_iter"),
    ],
)
def test_which_words_are_flags(message, expected):
    assert common.with_flags_named(message, ["out", "seed", "end_iter"]) == expected


def test_a_run_where_a_ticket_is_wanted_shows_its_tickets(tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    for where, expected in (
        (RUN, f"give one of its tickets, {RUN}/LEVEL/ticket.safetensors; LEVEL: level_01"),
        (RUN / "level_01", f"give its file, {TICKET}"),
        (RUN.parent, f"{RUN.parent}/RUN/level_NN/ticket.safetensors; RUN: "),
        (empty, "is a directory without tickets"),
    ):
        for command in ("train", "evaluate", "plan"):
            assert main([command, "--ticket", str(where)]) == 2
            line = error(capsys)
            assert f"--ticket {where} " in line
            assert expected in line
