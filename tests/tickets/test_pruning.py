"""Pruning against the published procedure, written anew in numpy."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import snn_sparse as ss


def network(seed, sizes=(3, 5, 4)):
    torch.manual_seed(seed)
    layers = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Conv2d(a, b, 3), nn.BatchNorm2d(b)]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], 7))


def oracle(weights, masks, percent, scope):
    """Published rule on float arrays whose pruned entries are zero."""
    live = [np.abs(w[w != 0]) for w in weights]
    if scope == "global":
        every = np.sort(np.concatenate(live))
        threshold = [every[int(float(every.shape[0]) / float(100.0 / percent))]] * len(weights)
    else:
        threshold = [np.percentile(v, percent) for v in live]
    return [np.where(np.abs(w) < t, False, m) for w, m, t in zip(weights, masks, threshold, strict=True)]


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    percent=st.floats(0.5, 99.5),
    scope=st.sampled_from(["global", "local"]),
    rounds=st.integers(1, 4),
)
def test_rounds_of_pruning_follow_the_published_rule_and_nest(seed, percent, scope, rounds):
    model = network(seed)
    mask = ss.Mask.dense(model)
    before = [p.clone() for p in model.parameters()]
    masks = [m.numpy() for m in mask.values()]
    for _ in range(rounds):
        weights = [p.detach().numpy() * m for p, m in zip(ss.tickets.prunable(model).values(), masks, strict=True)]
        if not all(w.any() for w in weights):
            break
        new = ss.prune_magnitude(model, mask, percent, scope)
        masks = oracle(weights, masks, percent, scope)
        assert all(np.array_equal(m.numpy(), e) for m, e in zip(new.values(), masks, strict=True))
        assert all(torch.equal(new[n] & mask[n], new[n]) for n in new)
        mask = new
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_percent_is_of_the_live_weights():
    model = network(0, (8, 16, 16))
    mask = ss.Mask.dense(model)
    for k in range(1, 5):
        mask = ss.prune_magnitude(model, mask, 25.0)
        assert mask.live == pytest.approx(mask.size * 0.75**k, abs=k)


@pytest.mark.parametrize("percent", [25.04, 89.91, 98.13])
def test_one_shot_mask_looks_at_all_weights(percent):
    model = network(1, (8, 16, 16))
    mask = ss.magnitude_mask(model, percent)
    weights = [p.detach().numpy() for p in ss.tickets.prunable(model).values()]
    expected = oracle(weights, [np.ones_like(w, dtype=bool) for w in weights], percent, "global")
    assert all(np.array_equal(m.numpy(), e) for m, e in zip(mask.values(), expected, strict=True))
    assert mask.sparsity == pytest.approx(percent, abs=0.1)


def test_exact_zeros_are_pruned_first():
    model = network(2)
    with torch.no_grad():
        model[0].weight[0] = 0
    mask = ss.magnitude_mask(model, 1.0)
    assert not mask["0.weight"][0].any()


def test_random_mask_keeps_layer_densities_and_differs():
    model = network(3, (8, 16, 16))
    like = ss.magnitude_mask(model, 90.0)
    a = ss.random_mask(like, torch.Generator().manual_seed(1))
    b = ss.random_mask(like, torch.Generator().manual_seed(2))
    again = ss.random_mask(like, torch.Generator().manual_seed(1))
    assert all(int(a[n].sum()) == int(like[n].sum()) for n in like)
    assert a.equal(again)
    assert not a.equal(b)
    assert not a.equal(like)


def test_snip_keeps_the_largest_saliencies_and_leaves_the_model_alone():
    model = ss.build_model("vgg_small", 4, 1, 3)
    x, y = torch.randn(6, 1, 8, 8), torch.randint(0, 4, (6,))
    state = {k: v.clone() for k, v in model.state_dict().items()}
    mask = ss.snip_mask(model, x, y, 90.0)
    assert mask.sparsity == pytest.approx(90.0, abs=0.01)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    ss.temporal_cross_entropy(model(x), y).backward()
    saliency = {n: (p * p.grad).abs().detach() for n, p in ss.tickets.prunable(model).items()}
    kept = torch.cat([saliency[n][mask[n]] for n in mask])
    dropped = torch.cat([saliency[n][~mask[n]] for n in mask])
    assert kept.min() >= dropped.max()


@pytest.mark.parametrize("percent", [0, 100, -3, 250.0, float("nan")])
def test_percent_out_of_range(percent):
    model = network(4)
    for call in (
        lambda: ss.prune_magnitude(model, ss.Mask.dense(model), percent),
        lambda: ss.magnitude_mask(model, percent),
        lambda: ss.snip_mask(
            ss.build_model("vgg_small", 4, 1), torch.zeros(2, 1, 8, 8), torch.zeros(2).long(), percent
        ),
    ):
        with pytest.raises(ValueError, match="percent"):
            call()


def test_wrong_arguments():
    model = network(5)
    mask = ss.Mask.dense(model)
    with pytest.raises(TypeError, match="percent"):
        ss.prune_magnitude(model, mask, "25")
    with pytest.raises(ValueError, match="scope"):
        ss.prune_magnitude(model, mask, 25.0, scope="layer")
    with pytest.raises(ValueError, match="no live weight"):
        ss.prune_magnitude(model, ss.Mask({n: torch.zeros_like(m) for n, m in mask.items()}), 25.0)
    with pytest.raises(ValueError, match="does not fit"):
        ss.prune_magnitude(network(5, (3, 4)), mask, 25.0)
