import sys
from pathlib import Path

import pytest
import torch

import snn_sparse as ss

sys.path.insert(0, str(Path(__file__).parent))
from searching import make, run, same, tickets, under

from snn_sparse.tickets.early_bird import early_bird
from snn_sparse.tickets.level import Hooks, Level
from snn_sparse.tickets.search import Search, snapshot
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

    search.train(model, ss.Mask.dense(model), 0, 3, 0.2, Hooks(draw))
    assert len(drawn) == 3
    assert tickets(unsettled)[1].mask.equal(drawn[-1])
    assert tickets(unsettled)[1].meta["early_bird_epoch"] == 2


def test_ticket_trains_the_initial_weights(unsettled):
    initial = snapshot(unsettled.new_model())
    ticket = tickets(unsettled)[1]
    assert ticket.mask.sparsity == pytest.approx(SPARSITIES[6], abs=0.1)
    assert same(ticket.rewind, under(ticket.mask, initial))
    assert same(unsettled.starts[1], initial)
    assert same(unsettled.starts[0], initial)
    assert ticket.meta["epochs"] == 3


def test_stops_when_five_masks_agree(tiny, tmp_path):
    """At a learning rate of next to nothing the mask does not move: five draws, so four epochs, and then the ticket."""
    search = run(tiny, tmp_path / "run", method="eb", learning_rate=1e-7, end_iter=6)
    dense, ticket = tickets(search)
    assert dense.meta["epochs"] == 4
    assert ticket.meta["early_bird_epoch"] == 4
    assert ticket.meta["epochs"] == 6
    assert any("settled after epoch 4" in note for note in search.progress.notes)


class Scripted(Search):
    """Level 0 does not train: before each epoch it sets weights whose mask lies at a given distance from the first."""

    def train(self, model, mask, level, epochs, rate=None, hooks=None):
        done = 0
        while level == 0 and done < epochs:
            self.set_weights(model, self.distances[done])
            if hooks.before_epoch(done):
                break
            done += 1
        return Level(done, 50.0, 1.0)

    def set_weights(self, model, distance):
        weights = ss.tickets.prunable(model)
        size = sum(p.numel() for p in weights.values())
        pruned = int(size / (100 / SPARSITIES[self.settings.sparsity_round]))
        small = torch.arange(size) < pruned
        moved = round(distance * size / 2)  # as many in one direction as in the other
        small[:moved], small[size - moved :] = False, True
        for p, part in zip(weights.values(), small.split([p.numel() for p in weights.values()]), strict=True):
            p.data.copy_(torch.where(part, 0.5, 1.0).view(p.shape))


NEAR, FAR = 0.0198, 0.0202  # 2 % of the entries is the limit


@pytest.mark.parametrize(
    ("distances", "epochs"),
    [
        ([0] * 10, 4),  # five equal masks
        ([NEAR, 0, 0, 0, 0, 0, 0, 0, 0, 0], 4),
        ([0, NEAR / 2, NEAR, NEAR / 2, 0, 0, 0, 0, 0, 0], 4),
        # the farthest of the four before counts, not their mean, nor the nearest, the last or the first ...
        ([FAR, 0, 0, 0, 0, 0, 0, 0, 0, 0], 5),
        ([0, FAR, 0, 0, 0, 0, 0, 0, 0, 0], 6),
        ([0, 0, FAR, 0, 0, 0, 0, 0, 0, 0], 7),
        ([0, 0, 0, FAR, 0, 0, 0, 0, 0, 0], 8),
        # ... and not the steps between them either
        ([k * FAR / 4 for k in range(5)] + [FAR] * 5, 5),
        ([FAR / 2 * (k % 2) for k in range(10)], 4),
        ([FAR * (k % 2) for k in range(10)], 10),  # never
    ],
)
def test_a_mask_settles_when_the_farthest_of_four_earlier_ones_is_within_two_percent(tiny, tmp_path, distances, epochs):
    plain = make(tiny, tmp_path / "run", method="eb", end_iter=10)
    search = Scripted(plain.settings, plain.data, plain.files, plain.progress)
    search.distances = distances
    early_bird(search)
    dense, ticket = tickets(search)
    assert dense.meta["epochs"] == epochs
    drawn = min(epochs, 9)
    assert ticket.meta["early_bird_epoch"] == drawn
    model = search.new_model()
    search.set_weights(model, distances[drawn])
    assert ticket.mask.equal(ss.magnitude_mask(model, SPARSITIES[6]))
    assert search.planned_epochs == epochs + 10


def test_early_time_only_in_the_search(tiny, tmp_path):
    search = run(tiny, tmp_path / "run", method="eb+et", end_iter=4, timestep=5, early_time_threshold=1.1)
    assert [t for _, _, t in search.progress.epochs] == [5, 5, 2, 2, 5, 5, 5, 5]


def test_round_zero_is_dense(tiny, tmp_path):
    search = run(tiny, tmp_path / "run", method="eb", sparsity_round=0, end_iter=2)
    assert tickets(search)[1].mask.sparsity == 0
