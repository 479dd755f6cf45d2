import sys
from pathlib import Path

import pytest
import torch

import snn_sparse as ss

sys.path.insert(0, str(Path(__file__).parent))
from searching import make, run, tickets

from snn_sparse.tickets.search import snapshot
from snn_sparse.tickets.settings import SPARSITIES


@pytest.fixture(scope="module")
def unsettled(tiny, tmp_path_factory):
    return run(tiny, tmp_path_factory.mktemp("eb") / "run", method="eb", end_iter=3)


def test_dense_run_doubles_the_learning_rate(unsettled):
    rates = {level: [m["learning_rate"] for m in unsettled.files.metrics() if m["level"] == level] for level in (0, 1)}
    assert rates[0] == pytest.approx([0.2, 0.15, 0.05])
    assert rates[1] == pytest.approx([0.1, 0.075, 0.025])


def test_a_mask_that_never_settles_is_taken_as_last_drawn(unsettled, tiny, tmp_path):
    search = make(tiny, tmp_path / "again", method="eb", end_iter=3)
    model, drawn = search.new_model(), []

    def draw(_done):
        drawn.append(ss.magnitude_mask(model, SPARSITIES[6]))
        return False

    search.train(model, ss.Mask.dense(model), 0, 3, 0.2, before_epoch=draw)
    assert len(drawn) == 3
    assert tickets(unsettled)[1].mask.equal(drawn[-1])
    assert tickets(unsettled)[1].meta["early_bird_epoch"] == 2


def test_ticket_trains_the_initial_weights(unsettled):
    initial = snapshot(unsettled.new_model())
    ticket = tickets(unsettled)[1]
    assert ticket.mask.sparsity == pytest.approx(SPARSITIES[6], abs=0.1)
    for name, value in ticket.rewind.items():
        assert torch.equal(value, initial[name] * ticket.mask[name] if name in ticket.mask else initial[name])
    assert ticket.meta["epochs"] == 3


def test_stops_when_five_masks_agree(tiny, tmp_path):
    """At a learning rate of next to nothing the mask does not move: five draws, so four epochs, and then the ticket."""
    search = run(tiny, tmp_path / "run", method="eb", learning_rate=1e-7, end_iter=6)
    dense, ticket = tickets(search)
    assert dense.meta["epochs"] == 4
    assert ticket.meta["early_bird_epoch"] == 4
    assert ticket.meta["epochs"] == 6
    assert any("settled after epoch 4" in note for note in search.progress.notes)


def test_early_time_only_in_the_search(tiny, tmp_path):
    search = run(tiny, tmp_path / "run", method="eb+et", end_iter=4, timestep=5, early_time_threshold=1.1)
    assert [t for _, _, t in search.progress.epochs] == [5, 5, 2, 2, 5, 5, 5, 5]


def test_round_zero_is_dense(tiny, tmp_path):
    search = run(tiny, tmp_path / "run", method="eb", sparsity_round=0, end_iter=2)
    assert tickets(search)[1].mask.sparsity == 0
