"""Empty masks, masks of another network and arguments of another kind, in everything that takes a mask."""

import pytest
import torch
from torch import nn

import snn_sparse as ss


def small(channels=1):
    return ss.build_model("vgg_small", 4, channels, 2)


EMPTY = {"no layer": {}, "no entry": {"a.weight": torch.zeros(0, 3, dtype=torch.bool)}}


@pytest.mark.parametrize("kind", EMPTY)
def test_empty_masks(kind):
    model, empty = small(), ss.Mask(EMPTY[kind])
    dense = ss.Mask.dense(model)
    assert (empty.size, empty.live, empty.sparsity) == (0, 0, 0.0)
    assert "0 of 0 weights" in repr(empty)
    assert empty.equal(empty.to("cpu"))
    assert empty.equal(ss.random_mask(empty))
    assert not empty.equal(dense)
    assert not dense.equal(empty)
    with pytest.raises(ValueError, match=r"^masks a and b have no entries"):
        ss.mask_distance(empty, ss.Mask(EMPTY[kind]))
    for a, b in ((empty, dense), (dense, empty)):
        with pytest.raises(ValueError, match=r"^masks a and b .*different networks"):
            ss.mask_distance(a, b)
    for use in (empty.check, empty.apply_, empty.to_prune_):
        with pytest.raises(ValueError, match=r"^mask does not fit the model"):
            use(model)
    plain = nn.BatchNorm2d(3)  # no weight that pruning may touch
    if kind == "no layer":
        assert empty.apply_(plain) is plain
        assert not plain._forward_pre_hooks


def test_masks_of_another_network():
    model = small()
    mask = ss.Mask.dense(model)
    for other in (small(3), nn.Sequential(nn.Linear(2, 3)), ss.build_model("vgg11", 4, 1, 2)):
        foreign = ss.Mask.dense(other)
        assert not mask.equal(foreign)
        with pytest.raises(ValueError, match="different networks"):
            ss.mask_distance(mask, foreign)
        state = {k: v.clone() for k, v in model.state_dict().items()}
        for use in (foreign.check, foreign.apply_, foreign.to_prune_):
            with pytest.raises(ValueError, match="mask does not fit the model"):
                use(model)
        assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("wrong", [None, 3, "mask", [], "dict", "tensor"])
def test_arguments_of_another_kind(wrong):
    model = small()
    mask = ss.Mask.dense(model)
    wrong = {"dict": dict(mask), "tensor": mask["classifier.weight"]}.get(wrong, wrong) if wrong else wrong
    with pytest.raises(TypeError, match=r"^other must be of type Mask"):
        mask.equal(wrong)
    with pytest.raises(TypeError, match=r"^a must be of type Mask"):
        ss.mask_distance(wrong, mask)
    with pytest.raises(TypeError, match=r"^b must be of type Mask"):
        ss.mask_distance(mask, wrong)
    for use in (mask.check, mask.apply_, mask.to_prune_, ss.Mask.remove_, ss.Mask.dense, ss.tickets.prunable):
        with pytest.raises(TypeError, match=r"^model must be of type Module"):
            use(wrong)
    if not isinstance(wrong, dict):
        with pytest.raises(TypeError, match=r"^keep must be of type Mapping"):
            ss.Mask(wrong)


def test_names_that_are_no_text():
    with pytest.raises(TypeError, match=r"^name of a mask must be of type str, got int"):
        ss.Mask({3: torch.ones(2, 2, dtype=torch.bool)})


@pytest.mark.parametrize("wrong", [3, "sgd", torch.optim.SGD, {}])
def test_an_optimizer_that_is_none_changes_nothing(wrong):
    model = small()
    before = ss.magnitude_mask(model, 50.0)
    before.apply_(model)
    with pytest.raises(TypeError, match=r"^optimizer must be of type Optimizer"):
        ss.magnitude_mask(model, 90.0).apply_(model, wrong)
    assert len(model._forward_pre_hooks) == 1
    assert ss.Mask.from_zeros(model).equal(before)


def test_zeros_of_one_network_for_another_without_parts():
    with pytest.raises(TypeError, match=r"^model must be of type Module"):
        ss.Mask.from_zeros(small(), {})
    assert len(ss.Mask.from_zeros(small(), nn.Sequential())) == 0  # it has no weight, though it counts as false
