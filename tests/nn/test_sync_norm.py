"""Batch norms of two processes that share a batch, against one process with the whole batch."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import sync_norm_case as case

import snn_sparse as ss
from snn_sparse.nn import BatchNorm2d, SyncBatchNorm2d, synchronise_batch_norms

IMAGES = {"x.grad", "y"}  # what each process has for its own images


def close(found, expected, tolerance):
    for name, value in expected.items():
        scale = max(np.abs(value).max(), 1e-3)
        assert np.abs(found[name] - value).max() <= tolerance * scale, name


@pytest.mark.parametrize("images", [4, 5])
@pytest.mark.parametrize(
    "options",
    [
        {"bn_statistics": "per_step"},
        {"bn_statistics": "pooled", "momentum": 0.3},
        {"bn_statistics": "per_step", "momentum": None, "eps": 1e-3},
        {"bn_statistics": "per_step", "affine": False},
        {"bn_statistics": "pooled", "track_running_stats": False},
        None,
    ],
)
def test_a_layer_as_one_process_computes_it(pair, options, images):
    """Output, gradients and running statistics in float64; a batch that divides and one that does not."""
    shape = (3, images, 6, 3, 2) if options is not None else (images, 6, 3, 2)
    x, weights = torch.randn(shape, dtype=torch.float64) * 3 + 50, torch.randn(shape, dtype=torch.float64)
    norm = BatchNorm2d(6, **(options or {})).double()
    for p in norm.parameters():
        torch.nn.init.normal_(p)
    state = {n: v.numpy() for n, v in norm.state_dict().items()}
    given = options or {}, state, x.numpy(), weights.numpy()
    expected = case.one_norm(None, *given)
    ranks = pair(case.one_norm, *given)
    for name, whole in expected.items():
        if name in IMAGES:
            found = np.concatenate([r[name] for r in ranks], axis=len(shape) - 4)
        else:
            assert np.array_equal(ranks[0][name], ranks[1][name]), name
            found = ranks[0][name]
        close({name: found}, {name: whole}, 1e-10)


def test_half_precision_keeps_its_dtype_and_single_precision_statistics(pair):
    x, weights = torch.randn(2, 6, 4, 3, 3).numpy() + 5, torch.randn(2, 6, 4, 3, 3).numpy()
    state = {n: v.numpy() for n, v in BatchNorm2d(4).state_dict().items()}
    rounded = torch.from_numpy(x).bfloat16().float().numpy()
    expected = case.one_norm(None, {}, state, rounded, weights)
    ranks = pair(case.one_norm, {}, state, x, weights, True)
    for name, whole in expected.items():
        found = np.concatenate([r[name] for r in ranks], axis=1) if name in IMAGES else ranks[0][name]
        close({name: found}, {name: whole}, 2**-7 if name in IMAGES or name.endswith("grad") else 1e-5)


@pytest.mark.parametrize("statistics", ["per_step", "pooled"])
@pytest.mark.parametrize("fused", [False, True])
def test_a_network_trains_as_in_one_process(pair, statistics, fused):
    """Losses, weights and running statistics after steps in float64, with pieces of different sizes."""
    x, y = torch.randn(7, 1, 8, 8).double().numpy(), torch.randint(0, 10, (7,)).numpy()
    losses, state, _ = case.network_steps(None, statistics, False, x, y, 3, torch.float64)
    for rank_losses, rank_state, said in pair(case.network_steps, statistics, fused, x, y, 3, torch.float64):
        assert rank_losses == pytest.approx(losses, rel=1e-10)
        close(rank_state, state, 1e-9)
        assert not fused or "7 modules run in 7 stages, 3 were left" in said
        assert not fused or "features.1  left: its statistics are those of all processes" in said


def test_copies_evaluation_and_captures_wait_for_nobody(pair):
    assert pair(case.alone, torch.randn(3, 4, 5, 2, 2).numpy()) == [True, True]


def test_a_network_is_synchronised_in_place():
    model = ss.build_model("vgg_small", 10, 1, 2)
    names, buffers = [n for n, _ in model.named_parameters()], dict(model.named_buffers())
    assert synchronise_batch_norms(model) is model
    norms = [m for m in model.modules() if isinstance(m, BatchNorm2d)]
    assert len(norms) == 3
    assert all(type(m) is SyncBatchNorm2d and m.synchronised for m in norms)
    assert [n for n, _ in model.named_parameters()] == names
    assert all(b is buffers[n] for n, b in model.named_buffers())
    x = torch.randn(4, 1, 8, 8)
    plain = ss.build_model("vgg_small", 10, 1, 2)
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model(x), plain(x))  # alone in its group
    with pytest.raises(TypeError, match=r"'0' is a BatchNorm2d"):
        synchronise_batch_norms(torch.nn.Sequential(torch.nn.BatchNorm2d(3)))
    with pytest.raises(ValueError, match="x must be"):
        norms[0](torch.randn(2, 3))
