import sys
from pathlib import Path

import pytest
import torch

import snn_sparse as ss

sys.path.insert(0, str(Path(__file__).parent))
from searching import run, same, tickets, under

from snn_sparse.tickets.drivers import DRIVERS, run_search
from snn_sparse.tickets.run_files import RunFiles
from snn_sparse.tickets.settings import METHODS, SPARSITIES


def test_every_method_has_a_driver():
    assert set(DRIVERS) | {"random"} == set(METHODS)


@pytest.mark.parametrize("one", [False, True])
def test_random_masks_copy_densities_start_and_length(imp, tiny, tmp_path, one):
    like = imp.files.ticket(2) if one else imp.files.root
    control = run(tiny, tmp_path / "run", like=like, method="random")
    winners = {t.meta["level"]: t for t in tickets(imp)}
    found = tickets(control)
    assert [t.meta["level"] for t in found] == ([2] if one else [1, 2])
    dense = winners[0].rewind
    for ticket in found:
        winner = winners[ticket.meta["level"]]
        assert ticket.meta["epochs"] == winner.meta["epochs"]
        for name, m in ticket.mask.items():
            assert int(m.sum()) == int(winner.mask[name].sum())
            assert not torch.equal(m, winner.mask[name])
        assert same(ticket.rewind, under(ticket.mask, dense))
        assert same(control.starts[ticket.meta["level"]], dense)  # trained from there, biases and statistics included


def test_random_masks_differ_from_level_to_level_and_from_seed_to_seed(imp, tiny, tmp_path):
    """They are drawn by themselves, not one cut out of the other."""
    first, second = (t.mask for t in tickets(run(tiny, tmp_path / "a", like=imp.files.root, method="random")))
    assert not all(torch.equal(second[n] & m, second[n]) for n, m in first.items())
    other = run(tiny, tmp_path / "b", like=imp.files.ticket(2), method="random", seed=6)
    assert not tickets(other)[0].mask.equal(second)


def test_random_at_another_number_of_timesteps(imp, tiny, tmp_path):
    """As for a ticket that was found at T_early."""
    control = run(tiny, tmp_path / "run", like=imp.files.ticket(1), method="random", timestep=2)
    assert [t.config["timesteps"] for t in tickets(control)] == [2]


def test_a_resumed_control_trains_what_is_left(imp, tiny, tmp_path):
    whole = run(tiny, tmp_path / "run", like=imp.files.root, method="random")
    again = run(tiny, tmp_path / "run", like=imp.files.root, method="random")
    assert again.starts == {}
    whole.files.ticket(2).unlink()
    again = run(tiny, tmp_path / "run", like=imp.files.root, method="random")
    assert list(again.starts) == [2]
    assert [bool(left) for left in again.progress.left] == [True, False]


def test_random_needs_a_run_to_copy(imp, tiny, tmp_path):
    with pytest.raises(ValueError, match="like"):
        run(tiny, tmp_path / "a", method="random")
    with pytest.raises(ValueError, match="like"):
        run(tiny, tmp_path / "b", like=imp.files.root, method="imp")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no finished ticket"):
        run(tiny, tmp_path / "c", like=tmp_path / "empty", method="random")
    with pytest.raises(ValueError, match="another network"):
        run(tiny, tmp_path / "d", like=imp.files.root, method="random", neuron="if")


def test_snip_prunes_at_initialisation(tiny, tmp_path):
    search = run(tiny, tmp_path / "run", method="snip", end_iter=2)
    (ticket,) = tickets(search)
    assert ticket.mask.sparsity == pytest.approx(SPARSITIES[6], abs=0.1)
    initial = search.new_model().state_dict()
    assert same(ticket.rewind, under(ticket.mask, initial))
    assert same(search.starts[1], initial)
    assert ticket.meta["level"] == 1
    assert [left > 0 for left in search.progress.left] == [True, False]
    assert ticket.meta["epochs"] == 2
    images = tiny.train
    x, y = next(iter(images.batches(50, generator=search.generator("snip"))))
    assert ticket.mask.equal(ss.snip_mask(search.new_model(), x, y, SPARSITIES[6]))


def test_transfer_trains_the_spiking_network_under_masks_of_the_conventional_one(tiny, tmp_path):
    search = run(tiny, tmp_path / "run", method="transfer", prune_iterations=2)
    relu = RunFiles(tmp_path / "run" / "relu")
    assert relu.load_ticket(1).config["neuron"] == "relu"
    assert relu.load_ticket(1).config["timesteps"] == 1
    spiking = search.files.load_ticket(1)
    assert spiking.config["neuron"] == "lif"
    assert spiking.config["timesteps"] == 4
    assert spiking.mask.equal(relu.load_ticket(1).mask)
    assert same(spiking.rewind, under(spiking.mask, search.starts[1]))
    run_search(search)  # finished: nothing happens
    assert len(search.files.levels()) == 2
