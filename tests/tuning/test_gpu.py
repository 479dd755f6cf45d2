"""What is offered for a shape and a density, and what is kept; the race itself needs kernels."""

import pytest
import torch

from snn_sparse.ops.convolution import Directions, Grouper
from snn_sparse.specs import ConvGeometry
from snn_sparse.tuning import gpu
from snn_sparse.tuning.gpu_candidates import candidates

SMALL, LARGE = (ConvGeometry(5, 128, 512, 512, s, s, (3, 3), 1, 1) for s in (4, 32))


@pytest.mark.parametrize("direction", Directions._fields)
def test_candidates_fit_shape_and_density(direction):
    dense, sparse = candidates(direction, LARGE, 1.0), candidates(direction, LARGE, 0.02)
    assert dense
    assert not any(c.gathered or c.pixel_major for c in dense)
    assert set(dense) < set(sparse)
    assert any(c.gathered for c in sparse)
    assert all(c.pixel_major for c in candidates(direction, SMALL, 1.0))
    assert not any(c.pixel_major for c in candidates(direction, ConvGeometry(1, 8, 64, 64, 4, 4, (3, 3), 1, 1), 1.0))
    assert all(c.reorder == c.gathered for c in sparse) or direction == "spikes"


def test_spikes_are_packed_by_whole_words_in_their_order():
    for geometry in (SMALL, LARGE):
        for c in candidates("spikes", geometry, 0.02):
            assert c.width % 32 == 0
            assert not c.reorder


def test_configurations_that_compute_too_much_are_not_timed():
    used = torch.rand(512, 512, 1, 1) < 0.05
    kept = gpu._shortlist("output", LARGE, Grouper(used, tuple(used.shape)), False)
    assert {c.width for c in kept if c.gathered} == {16, 32}
    assert all(c in candidates("output", LARGE, 0.05) for c in kept)


@pytest.mark.parametrize("direction", Directions._fields)
@pytest.mark.parametrize("density", [0.02, 1.0])
def test_float32_has_smaller_tiles(direction, density):
    exact, half = (candidates(direction, LARGE, density, exact) for exact in (True, False))
    assert exact
    assert max(c.rows * c.width for c in exact) <= 2048 < max(c.rows * c.width for c in half) or direction == "spikes"
    assert len(set(exact)) == len(exact)


def result(value):
    return lambda: torch.full((4,), float(value))


def test_a_kernel_must_be_right_and_clearly_faster():
    choose = gpu._fastest_right
    right, wrong = result(1), result(2)
    assert choose([right, right], [1.0, 0.5], None) == 1
    assert choose([right, right], [1.0, 0.99], None) == 0  # within the margin
    assert choose([right, right], [1.0, float("inf")], None) == 0
    keep = torch.tensor([True, False, True, False])
    assert choose([right, lambda: right() * keep], [1.0, 0.1], keep) == 1
    for other, mask in ((wrong, None), (result(float("nan")), None), (lambda: torch.ones(3), None), (right, keep)):
        with pytest.warns(UserWarning, match="wrong result"):
            assert choose([right, other, right], [1.0, 0.1, 0.5], mask) == (2 if mask is None else 0)


def test_the_key_tells_masks_shapes_and_precisions_apart():
    device = torch.device("cpu")
    some = torch.zeros(512, 512, 3, 3, dtype=torch.bool)
    some[:, :51] = True
    scattered = some.flatten()[torch.randperm(some.numel())].view(some.shape)
    half, single = torch.bfloat16, torch.float32
    keys = {
        gpu.key(LARGE, half, single, None, device),
        gpu.key(SMALL, half, single, None, device),
        gpu.key(LARGE, single, single, None, device),
        gpu.key(LARGE, half, half, None, device),
        gpu.key(LARGE, half, single, some, device),
        gpu.key(LARGE, half, single, scattered, device),  # of the same density, in no blocks
    }
    assert len(keys) == 6
    assert gpu.key(LARGE, half, single, some, device) == gpu.key(LARGE, half, single, some.clone(), device)
