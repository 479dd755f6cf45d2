"""Tickets and runs that an earlier version wrote, when masks were packed by hand: see tests/golden/README.md."""

import json
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from safetensors import safe_open

import snn_sparse as ss
from snn_sparse.cli import main
from snn_sparse.reports import summarise

GOLDEN = Path(__file__).parents[1] / "golden"
OLD = GOLDEN / "ticket_format1.safetensors"
SHAPES = {"odd.weight": (3, 5, 3, 3), "bytes.weight": (2, 8), "one.weight": (1, 1), "dead.weight": (2, 3)}


def draw(name, shape):
    return torch.from_numpy(np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape))


def expected_mask():
    return {n: (draw(f"mask/{n}", s) > 0.5) & (n != "dead.weight") for n, s in SHAPES.items()}


def bits_on_disk(path):
    with safe_open(path, framework="np") as f:
        return {n: f.get_tensor(f"mask/{n}").tobytes() for n in SHAPES}


def test_an_old_ticket_is_read_as_it_was_meant():
    ticket = ss.Ticket.load(OLD)
    mask = expected_mask()
    assert ticket.mask.keys() == mask.keys()
    assert all(torch.equal(ticket.mask[n], mask[n]) for n in mask)
    assert ticket.meta == {"level": 3, "accuracy": 91.25}
    assert ticket.config == {"arch": "vgg_small", "num_classes": 10, "in_channels": 1, "timesteps": 4}
    for group, state, batches in (("trained", ticket.trained, 7), ("rewind", ticket.rewind, 2)):
        weights = {n: draw(f"{group}/{n}", s).float() * mask[n] for n, s in SHAPES.items()}
        others = {"bn.bias": draw(f"{group}/bn.bias", (3,)).float(), "bn.num_batches_tracked": torch.tensor(batches)}
        assert state.keys() == weights.keys() | others.keys()
        assert all(torch.equal(state[n], v) for n, v in {**weights, **others}.items())


def test_the_bits_on_disk_are_the_old_ones(tmp_path):
    assert bits_on_disk(OLD)["one.weight"] in (b"\x00", b"\x80")  # padded at the end
    ss.Ticket.load(OLD).save(tmp_path / "new.safetensors")
    assert bits_on_disk(tmp_path / "new.safetensors") == bits_on_disk(OLD)
    old, new = OLD.read_bytes(), (tmp_path / "new.safetensors").read_bytes()
    for name, value in safetensors.numpy.load(old).items():
        assert safetensors.numpy.load(new)[name].tobytes() == value.tobytes()
    header = int.from_bytes(new[:8], "little")
    assert len(new) - header == len(old) - int.from_bytes(old[:8], "little")  # the header alone has grown


def test_an_old_run_is_reported_as_then():
    assert summarise(GOLDEN / "run_snip") == json.loads((GOLDEN / "run_snip" / "report.json").read_text())


def test_an_old_ticket_still_computes(capsys):
    ticket = GOLDEN / "run_snip" / "level_01" / "ticket.safetensors"
    assert main(["evaluate", "--ticket", str(ticket), "--device", "cpu", "--backend", "plain"]) == 0
    accuracy = float(capsys.readouterr().out.split("test accuracy ")[1].split()[0])
    assert accuracy == pytest.approx(84.44, abs=0.6)  # two images: a sum near a threshold may round the other way


def test_an_old_run_goes_on(tmp_path, capsys):
    run = shutil.copytree(GOLDEN / "run_snip", tmp_path / "run")
    command = "search --method snip --dataset digits --sparsity_round 14 --end_iter 12 --valid_freq 6 --timestep 3"
    assert main([*command.split(), "--batch_size", "64", "--device", "cpu", "--out", str(run)]) == 0
    assert "level 1: finished before, 84.44 %" in capsys.readouterr().out
