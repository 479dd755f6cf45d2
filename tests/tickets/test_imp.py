"""Iterative magnitude pruning by what it does: nested masks, rewound survivors, zeros that stay zero."""

import itertools
import sys
from pathlib import Path

import pytest
import torch

import snn_sparse as ss

sys.path.insert(0, str(Path(__file__).parent))
from searching import KillAfter, Killed, make, run, same, tickets, under

from snn_sparse.tickets.imp import iterative_magnitude_pruning
from snn_sparse.tickets.level import Hooks
from snn_sparse.tickets.search import snapshot


def test_masks_are_nested_and_follow_the_schedule(imp):
    masks = [t.mask for t in tickets(imp)]
    assert [round(m.sparsity) for m in masks] == [0, 50, 75]
    for earlier, later in itertools.pairwise(masks):
        assert all(torch.equal(later[n] & earlier[n], later[n]) for n in later)


def test_each_mask_is_pruned_from_the_level_before(imp):
    levels = tickets(imp)
    for earlier, later in itertools.pairwise(levels):
        assert later.mask.equal(ss.prune_magnitude(earlier.build(), earlier.mask, 50.0))


@pytest.fixture(scope="module")
def dense(tiny, tmp_path_factory):
    """What level 0 goes through, by the number of epochs done."""
    search = make(tiny, tmp_path_factory.mktemp("dense") / "run", method="imp")
    model = search.new_model()
    kept = {0: snapshot(model)}
    search.train(
        model, ss.Mask.dense(model), 0, 3, hooks=Hooks(after_epoch=lambda n: kept.setdefault(n, snapshot(model)))
    )
    return kept


def test_survivors_start_from_their_values_after_the_rewinding_epoch(imp, dense):
    """Weights, biases and running statistics are those after one epoch of level 0, at every later level."""
    moved = [n for n, v in dense[1].items() if not torch.equal(v, dense[0][n]) and not torch.equal(v, dense[3][n])]
    assert {"features.0.weight", "features.1.bias", "features.1.running_var", "classifier.bias"} <= set(moved)
    assert same(imp.starts[0], dense[0])
    assert same(imp.starts[1], dense[1])
    assert same(imp.starts[2], dense[1])
    for ticket in tickets(imp):
        assert same(ticket.rewind, under(ticket.mask, dense[1]))
    assert same(tickets(imp)[0].trained, dense[3])


def test_pruned_weights_are_exactly_zero_after_training(imp):
    for ticket in tickets(imp):
        for name, alive in ticket.mask.items():
            assert torch.count_nonzero(ticket.trained[name][~alive]) == 0
            assert torch.count_nonzero(ticket.trained[name] != ticket.rewind[name]) > 0


def test_epochs_metrics_and_time_left(imp):
    metrics = imp.files.metrics()
    assert [(m["level"], m["epoch"]) for m in metrics] == [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (2, 1), (2, 2)]
    assert [m["accuracy"] is not None for m in metrics] == [False, True, True, False, True, False, True]
    assert [t.meta["epochs"] for t in tickets(imp)] == [3, 2, 2]
    assert imp.progress.left[-1] == 0
    assert imp.progress.left[0] > 0
    for ticket in tickets(imp):
        last = [m for m in metrics if m["level"] == ticket.meta["level"]][-1]
        assert last["accuracy"] == ticket.meta["accuracy"]


def test_learning_rate_is_fresh_at_every_level_and_falls_to_zero_by_cosine(imp):
    rates = {}
    for m in imp.files.metrics():
        rates.setdefault(m["level"], []).append(m["learning_rate"])
    assert rates[0] == pytest.approx([0.1, 0.075, 0.025])
    assert rates[1] == rates[2] == pytest.approx([0.1, 0.05])


def test_same_seed_same_masks_and_weights(imp, tiny, tmp_path):
    torch.rand(7)  # the global random state must not matter
    again = run(tiny, tmp_path / "again", method="imp")
    for a, b in zip(tickets(imp), tickets(again), strict=True):
        assert a.mask.equal(b.mask)
        assert all(torch.equal(a.trained[n], b.trained[n]) for n in a.trained)
    other = run(tiny, tmp_path / "other", method="imp", round=2)
    assert not tickets(other)[1].mask.equal(tickets(imp)[1].mask)


def test_rewinding_to_the_initial_weights(tiny, tmp_path):
    search = run(tiny, tmp_path / "run", method="imp", rewinding_epoch=0, prune_iterations=2, end_iter=1)
    initial = search.new_model().state_dict()
    dense, ticket = tickets(search)
    assert same(dense.rewind, initial)
    assert same(search.starts[1], initial)
    assert same(ticket.rewind, under(ticket.mask, initial))
    assert ticket.meta["epochs"] == 1


def test_local_scope_prunes_every_layer_alike(tiny, tmp_path):
    search = run(tiny, tmp_path / "run", method="imp", pruning_scope="local", prune_iterations=2, end_iter=2)
    mask = tickets(search)[1].mask
    assert all(m.float().mean() == pytest.approx(0.5, abs=0.01) for m in mask.values())


def test_early_time_searches_at_few_timesteps_and_ends_at_all(tiny, tmp_path):
    search = run(tiny, tmp_path / "run", method="imp+et", end_iter=4, timestep=5, early_time_threshold=1.1)
    early = search.memory["timesteps_early"]
    assert early == 2  # every divergence is below 1.1
    assert [t for _, _, t in search.progress.epochs] == [5, 5, 2, 2, 2, 2, 2, 5, 5, 5]
    assert [t.config["timesteps"] for t in tickets(search)] == [2, 2, 5]
    assert any("Early-Time" in note for note in search.progress.notes)


@pytest.mark.parametrize("backend", ["fused", "plain"])
def test_precision(tiny, tmp_path, backend):
    """In bfloat16 weights stay float32 and pruned ones zero; training and evaluation run under autocast."""
    changes = {"method": "imp", "precision": "bf16", "backend": backend}
    seen = set()

    def watch(module, _inputs, output):
        if isinstance(module, torch.nn.Linear):
            seen.add((module.training, output.dtype))

    handle = torch.nn.modules.module.register_module_forward_hook(watch)
    search = run(tiny, tmp_path / "run", **changes)
    handle.remove()
    assert {(True, torch.bfloat16), (False, torch.bfloat16)} <= seen
    for ticket in tickets(search):
        assert ticket.meta["settings"]["precision"] == "bf16"
        for name, value in ticket.trained.items():
            assert value.dtype == (torch.int64 if "tracked" in name else torch.float32)
            assert value.isfinite().all()
        for name, alive in ticket.mask.items():
            assert torch.count_nonzero(ticket.trained[name][~alive]) == 0
    with pytest.raises(Killed):
        run(tiny, tmp_path / "killed", progress=KillAfter(4), **changes)
    resumed = run(tiny, tmp_path / "killed", **changes)
    for a, b in zip(tickets(search), tickets(resumed), strict=True):
        assert a.mask.equal(b.mask)
        assert all(torch.equal(a.trained[n], b.trained[n]) for n in a.trained)


@pytest.mark.parametrize("method", ["imp", "imp+et", "eb", "eb+et", "transfer"])
@pytest.mark.parametrize("after", [1, 3, 5, 7])
def test_a_killed_search_goes_on_and_ends_with_the_same_masks(tiny, tmp_path, method, after):
    changes = {"method": method, "end_iter": 4, "prune_iterations": 2}
    whole = run(tiny, tmp_path / "whole", **changes)
    if after >= len(whole.progress.epochs):
        pytest.skip("shorter than that")
    with pytest.raises(Killed):
        run(tiny, tmp_path / "killed", progress=KillAfter(after), **changes)
    resumed = run(tiny, tmp_path / "killed", **changes)
    assert len(resumed.progress.epochs) < len(whole.progress.epochs) or after == 1
    assert resumed.progress.left[-1] == 0
    assert all(resumed.progress.left[:-1]) or method == "transfer"  # which is two searches
    for a, b in zip(tickets(whole), tickets(resumed), strict=True):
        assert a.mask.equal(b.mask)
        assert all(torch.equal(a.trained[n], b.trained[n]) for n in a.trained)

    def drop_time(lines):
        return [{k: v for k, v in m.items() if k != "seconds"} for m in lines]

    assert drop_time(whole.files.metrics()) == drop_time(resumed.files.metrics())


def test_a_finished_search_does_nothing_more(imp, tiny):
    again = run(tiny, imp.files.root, method="imp")
    assert again.progress.epochs == []


def test_a_resumed_level_goes_on_from_the_level_before(imp, tiny, tmp_path):
    """Killed in level 2, after two finished levels: masks, weights and starts are those of a search that was not."""
    with pytest.raises(Killed):
        run(tiny, tmp_path / "run", progress=KillAfter(6), method="imp")
    resumed = run(tiny, tmp_path / "run", method="imp")
    assert list(resumed.starts) == [2]
    assert same(resumed.starts[2], imp.starts[2])
    for a, b in zip(tickets(imp), tickets(resumed), strict=True):
        assert a.mask.equal(b.mask)
        assert same(a.trained, b.trained)
        assert same(a.rewind, b.rewind)
    assert [left > 0 for left in resumed.progress.left] == [True, False]
    assert len([note for note in resumed.progress.notes if "finished before" in note]) == 2


def test_a_resumed_search_hands_on_the_mask_of_the_finished_level(tiny, tmp_path):
    """A next mask that looks at the last mask alone still nests."""

    def every_other(_level, _model, mask):
        return ss.Mask({n: m & (m.flatten().cumsum(0).view(m.shape) % 2 == 0) for n, m in mask.items()})

    search = make(tiny, tmp_path / "run", KillAfter(3), end_iter=1, rewinding_epoch=0)
    with pytest.raises(Killed):
        iterative_magnitude_pruning(search, every_other)
    iterative_magnitude_pruning(make(tiny, tmp_path / "run", end_iter=1, rewinding_epoch=0), every_other)
    masks = [t.mask for t in tickets(search)]
    assert [m.sparsity for m in masks] == pytest.approx([0, 50, 75], abs=0.01)
    for level in (1, 2):
        assert masks[level].equal(every_other(level, None, masks[level - 1]))
