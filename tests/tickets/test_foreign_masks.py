"""Masks from elsewhere: torch.nn.utils.prune, and the zeros of a checkpoint."""

import pytest
import torch
from foreign_mask_case import Odd, random_mask_of, small
from torch.nn.utils import prune

import snn_sparse as ss


@pytest.mark.parametrize("make", [small, Odd])
def test_prune_round_trip(make):
    model = make()
    mask = random_mask_of(model)
    assert mask.to_prune_(model) is model
    assert not model.state_dict().keys() >= mask.keys()  # torch has renamed them
    assert ss.Mask.from_prune(model).equal(mask)
    assert ss.Mask.from_zeros(model).equal(mask)
    assert not model.state_dict().keys() >= mask.keys()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    assert ss.Mask.from_prune(model, permanent=True).equal(mask)
    assert ss.Mask.from_zeros(model).equal(mask)
    mask.apply_(model)
    before = {n: p.detach().clone() for n, p in ss.tickets.prunable(model).items()}
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()  # still the same parameters
    for n, p in ss.tickets.prunable(model).items():
        assert torch.equal(p[mask[n]], before[n][mask[n]] - 0.1)


def test_prune_of_some_weights_by_torch_itself():
    model = small()
    conv, linear = model.features[4], model.classifier
    prune.random_unstructured(conv, "weight", 0.3)
    prune.l1_unstructured(conv, "weight", 0.5)
    prune.ln_structured(linear, "weight", 0.5, n=2, dim=0)
    mask = ss.Mask.from_prune(model)
    assert torch.equal(mask["features.4.weight"], conv.weight_mask.bool())
    assert torch.equal(mask["classifier.weight"], linear.weight != 0)
    assert mask["features.0.weight"].all()
    mask.check(small())
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    before = model.double().eval()(x)
    ss.Mask.from_prune(model, permanent=True).apply_(model)
    torch.testing.assert_close(model(x), before, rtol=0, atol=1e-10)


def test_prune_replaces_what_kept_the_weights_zero():
    model = small()
    first, second = random_mask_of(model), random_mask_of(model)
    first.apply_(model)
    second.to_prune_(model)
    model(torch.randn(2, 1, 8, 8))
    assert ss.Mask.from_prune(model).equal(second)
    with pytest.raises(ValueError, match="mask does not fit the model"):
        first.to_prune_(small().features)


def test_prune_refuses_what_a_mask_cannot_hold():
    model = small()
    with pytest.raises(ValueError, match=r"no parameter under torch\.nn\.utils\.prune"):
        ss.Mask.from_prune(model)
    prune.random_unstructured(model.classifier, "bias", 0.5)
    with pytest.raises(ValueError, match=r"'classifier\.bias' is pruned"):
        ss.Mask.from_prune(model, permanent=True)
    assert hasattr(model.classifier, "bias_orig")  # left as it was
    prune.remove(model.classifier, "bias")
    prune.custom_from_mask(model.classifier, "weight", torch.full((4, 128), 0.5))
    with pytest.raises(ValueError, match=r"'classifier\.weight' has entries that are neither 0 nor 1"):
        ss.Mask.from_prune(model)


@pytest.mark.parametrize("make", [small, Odd])
def test_zeros_of_a_state_dict(make):
    model = make()
    mask = random_mask_of(model)
    mask.apply_(model)
    state = model.state_dict()
    assert ss.Mask.from_zeros(model).equal(mask)
    assert ss.Mask.from_zeros(state, make()).equal(mask)
    assert ss.Mask.from_zeros(state).equal(mask)
    parallel = {f"module.{name}": v for name, v in state.items()}
    assert ss.Mask.from_zeros({"epoch": 3, "state_dict": parallel}, make()).equal(mask)
    assert ss.Mask.from_zeros(mask.to_prune_(make()).state_dict(), make()).equal(mask)
    dense = make()
    assert ss.Mask.from_zeros(dense.state_dict(), dense).equal(ss.Mask.dense(dense))


def test_zeros_that_do_not_fit():
    state = small().state_dict()
    with pytest.raises(ValueError, match=r"no parameter 'features\.4\.weight'"):
        ss.Mask.from_zeros({n: v for n, v in state.items() if n != "features.4.weight"}, small())
    with pytest.raises(ValueError, match=r"'classifier\.weight' is \(4, 128\) there, \(5, 128\) in the model"):
        ss.Mask.from_zeros(state, ss.build_model("vgg_small", 5, 1, 2))
    with pytest.raises(ValueError, match="no weight of more than one dimension"):
        ss.Mask.from_zeros({"bias": torch.zeros(3)})
    with pytest.raises(TypeError, match="source must be"):
        ss.Mask.from_zeros("file.pt")
