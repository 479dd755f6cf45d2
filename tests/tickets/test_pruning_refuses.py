"""What pruning must not do in silence: empty masks, weights that are no numbers, ties, another network's masks."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import snn_sparse as ss


def network(sizes=(3, 5, 4)):
    layers = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Conv2d(a, b, 3), nn.BatchNorm2d(b)]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], 7))


def few_values(model, values):
    """Weights drawn from a few magnitudes, so that nearly all tie; some are zero."""
    with torch.no_grad():
        for p in ss.tickets.prunable(model).values():
            sign = torch.randint(0, 2, p.shape) * 2 - 1
            p.copy_(torch.tensor(values)[torch.randint(0, len(values), p.shape)] * sign)


def published(weights, masks, percent):
    """The published rule: its threshold, and what it keeps."""
    magnitudes = [np.abs(w) * m for w, m in zip(weights, masks, strict=True)]
    every = np.sort(np.concatenate([m[m != 0] for m in magnitudes]))
    threshold = every[int(len(every) / (100.0 / percent))]
    return every, threshold, [m & (a >= threshold) for a, m in zip(magnitudes, masks, strict=True)]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    values=st.lists(st.sampled_from([0.0, 0.5, 1.0, 0.1, 3.0, 1e-30, 1e30]), min_size=1, max_size=4),
    percent=st.one_of(st.floats(0.01, 99.99), st.sampled_from([25.0, 50.0, 75.0, math.nextafter(100, 0)])),
    dense=st.booleans(),
)
def test_ties_with_the_threshold_stay(seed, values, percent, dense):
    torch.manual_seed(seed)
    model = network()
    few_values(model, [*values, 2.0])
    mask = ss.Mask({n: (torch.rand(p.shape) < 0.6) | dense for n, p in ss.tickets.prunable(model).items()})
    weights = [p.detach().numpy() for p in ss.tickets.prunable(model).values()]
    every, threshold, expected = published(weights, [m.numpy() for m in mask.values()], percent)
    for found in (ss.prune_magnitude(model, mask, percent), ss.magnitude_mask(model, percent) if dense else None):
        if found is not None:
            assert all(np.array_equal(m.numpy(), e) for m, e in zip(found.values(), expected, strict=True))
            assert found.live == (every >= threshold).sum() >= len(every) - int(len(every) / (100.0 / percent)) > 0


def test_equal_weights_are_not_pruned_at_all():
    model = network()
    few_values(model, [0.25])
    mask = ss.Mask.dense(model)
    for percent in (0.1, 50.0, 99.9):
        assert ss.magnitude_mask(model, percent).equal(mask)
        for scope in ("global", "local"):
            assert ss.prune_magnitude(model, mask, percent, scope).equal(mask)


HIGH = (99.9999, 99.99999999, math.nextafter(100, 0))


@pytest.mark.parametrize("percent", HIGH)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_no_percent_leaves_nothing_alive(percent, dtype):
    model = network((1, 1, 2)).to(dtype)
    largest = max(float(p.detach().abs().max()) for p in ss.tickets.prunable(model).values())
    found = ss.prune_magnitude(model, ss.Mask.dense(model), percent)
    assert found.equal(ss.magnitude_mask(model, percent))
    kept = torch.cat([p.detach()[found[n]].abs() for n, p in ss.tickets.prunable(model).items()])
    assert kept.numel() > 0
    assert float(kept.max()) == largest
    local = ss.prune_magnitude(model, ss.Mask.dense(model), percent, "local")
    assert all(m.any() for m in local.values())
    images = ss.build_model("vgg_small", 4, 1, 2)
    assert ss.snip_mask(images, torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 3]), percent).live >= 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("everywhere", [True, False])
def test_weights_that_are_no_numbers(value, everywhere):
    model = network()
    weight = model[2].weight
    with torch.no_grad():
        flat = weight.view(-1)
        place = slice(None) if everywhere else int(torch.randint(0, weight.numel(), ()))
        flat[place] = value
    dense = ss.Mask.dense(model)
    for scope in ("global", "local"):
        with pytest.raises(ValueError, match=r"'2\.weight' must be finite"):
            ss.prune_magnitude(model, dense, 50.0, scope)
    with pytest.raises(ValueError, match=r"'2\.weight' must be finite"):
        ss.magnitude_mask(model, 50.0)
    live = ss.Mask({n: m & model.get_parameter(n).isfinite() for n, m in dense.items()})
    found = ss.prune_magnitude(model, live, 50.0)  # what is pruned already is not looked at
    assert found.live > 0
    assert not (found["2.weight"] & ~live["2.weight"]).any()


@pytest.mark.parametrize("scope", ["global", "local"])
def test_nothing_alive(scope):
    model = network()
    dead = ss.Mask({n: torch.zeros_like(m) for n, m in ss.Mask.dense(model).items()})
    with pytest.raises(ValueError, match="no live weight"):
        ss.prune_magnitude(model, dead, 25.0, scope)
    few_values(model, [0.0])
    with pytest.raises(ValueError, match="no live weight"):
        ss.prune_magnitude(model, ss.Mask.dense(model), 25.0, scope)
    with pytest.raises(ValueError, match="no live weight"):
        ss.magnitude_mask(model, 25.0)


def test_masks_and_models_of_another_kind():
    model = network()
    mask = ss.Mask.dense(model)
    for wrong in (ss.Mask({}), ss.Mask.dense(network((3, 4))), ss.Mask.dense(network((3, 5, 6)))):
        with pytest.raises(ValueError, match="does not fit"):
            ss.prune_magnitude(model, wrong, 25.0)
    for wrong in (None, dict(mask), "mask"):
        with pytest.raises(TypeError, match=r"^mask must"):
            ss.prune_magnitude(model, wrong, 25.0)
        with pytest.raises(TypeError, match=r"^like must"):
            ss.random_mask(wrong)
    for call in (
        lambda m: ss.prune_magnitude(m, mask, 25.0),
        lambda m: ss.magnitude_mask(m, 25.0),
        lambda m: ss.snip_mask(m, torch.zeros(1), torch.zeros(1), 25.0),
    ):
        with pytest.raises(TypeError, match=r"^model must"):
            call(model.state_dict())
    for call in (lambda m: ss.magnitude_mask(m, 25.0), lambda m: ss.snip_mask(m, torch.zeros(1), torch.zeros(1), 25.0)):
        with pytest.raises(ValueError, match=r"^model has no parameter"):
            call(nn.BatchNorm2d(3))
    assert len(ss.random_mask(ss.Mask({}))) == 0


def snip_arguments():
    return ss.build_model("vgg_small", 4, 1, 2), torch.rand(3, 1, 8, 8), torch.randint(0, 4, (3,))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_snip_of_images_that_are_no_numbers(value):
    model, x, y = snip_arguments()
    x[1, 0, 2, 3] = value
    with pytest.raises(ValueError, match=r"^x must be finite"):
        ss.snip_mask(model, x, y, 50.0)
    with pytest.raises(TypeError, match=r"^x must"):
        ss.snip_mask(model, x.tolist(), y, 50.0)


def test_snip_of_weights_without_a_saliency():
    model, x, y = snip_arguments()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad():
        model.classifier.weight[0, 0] = math.nan
    with pytest.raises(ValueError, match=r"saliency .* of '.*weight' must be finite"):
        ss.snip_mask(model, x, y, 50.0)
    model.load_state_dict(before)
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.features[8].weight.zero_()
    with pytest.raises(ValueError, match="all saliencies are 0"):
        ss.snip_mask(model, torch.zeros_like(x), y, 50.0)
    model.load_state_dict(before)
    model.features[4].weight.requires_grad_(False)
    with pytest.raises(ValueError, match=r"'features\.4\.weight' must require a gradient"):
        ss.snip_mask(model, x, y, 50.0)


@pytest.mark.parametrize(
    ("labels", "error"),
    [([0, 1, 4], ValueError), ([0, -100, 1], ValueError), ([0, 1], ValueError), ([0.0, 1.0, 2.0], TypeError)],
)
def test_snip_of_wrong_labels_leaves_the_model_alone(labels, error):
    model, x, _ = snip_arguments()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    model.eval()
    with pytest.raises(error, match=r"^y must"):
        ss.snip_mask(model, x, torch.tensor(labels), 50.0)
    assert not model.training
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_snip_needs_no_gradients_from_outside_and_takes_weights_that_nothing_reads():
    model, x, y = snip_arguments()
    expected = ss.snip_mask(model, x, y, 50.0)
    with torch.no_grad():
        assert ss.snip_mask(model, x, y, 50.0).equal(expected)
    model.unread_weight = nn.Parameter(torch.ones(3, 3))
    assert not ss.snip_mask(model, x, y, 50.0)["unread_weight"].any()
