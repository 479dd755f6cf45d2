import copy

import pytest
import torch
from torch import nn

import snn_sparse as ss


def small():
    return ss.build_model("vgg_small", 4, 1, 2)


def random_mask_of(model, live=0.3):
    return ss.Mask({n: torch.rand(p.shape) < live for n, p in ss.tickets.prunable(model).items()})


def train(model, optimizer, steps=4):
    for _ in range(steps):
        y = torch.randint(0, 4, (8,))
        loss = ss.temporal_cross_entropy(model(torch.randn(8, 1, 8, 8)), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def assert_zero_where_pruned(model, mask, optimizer):
    for name, p in ss.tickets.prunable(model).items():
        pruned = ~mask[name]
        tensors = [p.detach(), p.grad, *(v for v in optimizer.state[p].values() if v.shape == p.shape)]
        for tensor in tensors:
            assert torch.count_nonzero(tensor[pruned]) == 0, name
            assert torch.count_nonzero(tensor[mask[name]]) > 0, name


def test_prunable_leaves_out_biases_and_batch_norm():
    names = set(ss.Mask.dense(small()))
    assert names == {"features.0.weight", "features.4.weight", "features.8.weight", "classifier.weight"}


def test_dense_mask_and_sparsity():
    model = small()
    mask = ss.Mask.dense(model)
    assert mask.sparsity == 0.0
    assert mask.live == mask.size == sum(p.numel() for p in ss.tickets.prunable(model).values())
    half = ss.Mask({"a.weight": torch.tensor([[True, False], [False, True]])})
    assert half.sparsity == 50.0
    assert "50.00 %" in repr(half)


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, 0.9, weight_decay=5e-2),
    "nesterov": lambda p: torch.optim.SGD(p, 0.1, 0.9, weight_decay=5e-2, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, 0.05, weight_decay=5e-2, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, 0.05, weight_decay=5e-2),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_pruned_weights_stay_exactly_zero(name):
    model = small()
    mask = random_mask_of(model)
    mask.apply_(model)
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, optimizer)
    assert_zero_where_pruned(model, mask, optimizer)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_applying_in_the_middle_of_training_clears_the_optimizer_too(name):
    model = small()
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, optimizer)
    mask = random_mask_of(model)
    mask.apply_(model, optimizer)
    assert_zero_where_pruned(model, mask, optimizer)
    train(model, optimizer)
    assert_zero_where_pruned(model, mask, optimizer)


def test_forward_sees_zeros_even_if_somebody_writes_into_the_weights():
    model = small().eval()
    mask = random_mask_of(model)
    mask.apply_(model)
    x = torch.randn(3, 1, 8, 8)
    before = model(x)
    with torch.no_grad():
        for name, p in ss.tickets.prunable(model).items():
            p.masked_fill_(~mask[name], 7.0)
    assert torch.equal(model(x), before)


def test_masked_gradient_is_the_dense_gradient_at_live_weights():
    model = small().double()
    mask = random_mask_of(model)
    mask.apply_(model)
    plain = ss.build_model(**model.config).double()
    plain.load_state_dict(model.state_dict())
    x, y = torch.randn(5, 1, 8, 8, dtype=torch.float64), torch.randint(0, 4, (5,))
    for m in (model, plain):
        ss.temporal_cross_entropy(m(x), y).backward()
    for name, p in plain.named_parameters():
        expected = p.grad * mask[name] if name in mask else p.grad
        assert torch.equal(dict(model.named_parameters())[name].grad, expected), name


def test_a_new_mask_replaces_the_old_one_and_none_is_left_after_remove():
    model = small()
    first, second = random_mask_of(model), random_mask_of(model)
    first.apply_(model)
    second.apply_(model)
    assert len(model._forward_pre_hooks) == 1
    ss.Mask.remove_(model)
    assert not model._forward_pre_hooks
    train(model, torch.optim.SGD(model.parameters(), 0.5))
    weights = ss.tickets.prunable(model)
    assert all(torch.count_nonzero(p[~second[n]]) > 0 for n, p in weights.items())


def test_deepcopy_keeps_the_mask():
    model = small()
    mask = random_mask_of(model)
    mask.apply_(model)
    twin = copy.deepcopy(model)
    optimizer = torch.optim.SGD(twin.parameters(), 0.1, 0.9)
    train(twin, optimizer)
    assert_zero_where_pruned(twin, mask, optimizer)


def test_full_and_empty_masks():
    model = small()
    ss.Mask({n: torch.zeros_like(m) for n, m in ss.Mask.dense(model).items()}).apply_(model)
    assert torch.count_nonzero(model.features[0].weight) == 0
    assert model(torch.randn(2, 1, 8, 8)).isfinite().all()


def test_distance():
    model = small()
    a = random_mask_of(model)
    assert ss.mask_distance(a, a) == 0.0
    b = ss.Mask({n: ~m for n, m in a.items()})
    assert ss.mask_distance(a, b) == 1.0
    one = {n: m.clone() for n, m in a.items()}
    one["classifier.weight"][0, 0] ^= True
    assert ss.mask_distance(a, ss.Mask(one)) == pytest.approx(1 / a.size)


def test_wrong_masks():
    model = small()
    with pytest.raises(TypeError, match="bool"):
        ss.Mask({"features.0.weight": torch.ones(2)})
    with pytest.raises(ValueError, match="only one of the two"):
        ss.Mask({"features.0.weight": model.features[0].weight > 0}).apply_(model)
    wrong = {**ss.Mask.dense(model), "classifier.weight": torch.ones(3, 3, dtype=torch.bool)}
    with pytest.raises(ValueError, match=r"classifier\.weight"):
        ss.Mask(wrong).apply_(model)
    with pytest.raises(ValueError, match="no parameter"):
        ss.Mask.dense(nn.BatchNorm2d(3))
    with pytest.raises(ValueError, match="different networks"):
        ss.mask_distance(ss.Mask.dense(model), ss.Mask({}))
