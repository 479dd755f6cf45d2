"""``evaluate --profile``, and ``evaluate`` on other data than the ticket's."""

from pathlib import Path

import pytest

import snn_sparse as ss
from snn_sparse import training
from snn_sparse.cli import main, tickets
from snn_sparse.training.profile_rows import profile_notes, profile_section

TICKET = Path(__file__).parents[1] / "golden" / "run_snip" / "level_01" / "ticket.safetensors"


@pytest.fixture
def evaluate(monkeypatch, tiny, capsys):
    """Runs ``evaluate`` on a few digits, whatever data are asked for: what it printed on both streams."""
    monkeypatch.setattr(
        training,
        "load_dataset",
        lambda name, *_, **__: training.Dataset(name, tiny.train, tiny.test, tiny.num_classes, tiny.augmentation),
    )

    def run(*flags):
        assert main(["evaluate", "--ticket", str(TICKET), "--device", "cpu", *flags]) == 0
        return capsys.readouterr()

    return run


def test_other_data_are_named_and_warned_about(evaluate):
    out, err = evaluate("--dataset", "fmnist")
    assert out.startswith("vgg_small on fmnist, 98.13 % pruned, T = 3: test accuracy")
    assert err == "snn-sparse: warning: evaluated on fmnist, but the ticket is of digits\n"


@pytest.mark.parametrize("flags", [[], ["--dataset", "digits"]])
def test_the_tickets_own_data_are_not_warned_about(evaluate, flags):
    out, err = evaluate(*flags)
    assert out.startswith("vgg_small on digits,")
    assert err == ""


@pytest.mark.parametrize("backend", ["fused", "plain"])
def test_profile(evaluate, tiny, backend):
    files = {p: p.stat().st_mtime_ns for p in TICKET.parents[1].rglob("*")}
    out, err = evaluate("--profile", "--backend", backend, "--timestep", "2")
    assert err == ""
    ticket = ss.Ticket.load(TICKET)
    model = ticket.build()
    model.timesteps = 2
    expected = ss.profile_network(model, tiny.test.normalise(tiny.test.images), ticket.mask).as_dict()
    told = [tuple(line.split("  ")) for line in out.splitlines()]
    cells = {tuple(cell.strip() for cell in line if cell.strip()) for line in told}
    assert set(profile_section(expected)) <= cells
    assert {(note,) for note in profile_notes(expected)} <= cells
    assert {p: p.stat().st_mtime_ns for p in TICKET.parents[1].rglob("*")} == files


def test_a_large_test_set_is_profiled_in_part(evaluate, monkeypatch):
    monkeypatch.setattr(tickets, "PROFILE_IMAGES", 30)
    monkeypatch.setattr(tickets, "PROFILE_BATCH", 8)
    assert "T = 3, mean of 30;" in evaluate("--profile").out
