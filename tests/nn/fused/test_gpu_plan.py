"""Which ways are offered for a shape and a density; the choice itself needs kernels (``kernels/interpreted``)."""

import pytest
import torch

from snn_sparse.kernels.conv_settings import Geometry
from snn_sparse.nn.fused import gpu_plan
from snn_sparse.nn.fused.gpu_plan import ConvPlanner, candidates
from snn_sparse.ops.channel_groups import Grouper
from snn_sparse.ops.conv_plan import DIRECTIONS, ConvPlan

SMALL, LARGE = (Geometry(5, 128, 512, 512, s, s, (3, 3), 1, 1) for s in (4, 32))


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_candidates_fit_shape_and_density(direction):
    dense, sparse = candidates(direction, LARGE, 1.0), candidates(direction, LARGE, 0.02)
    assert dense
    assert not any(way.gathered or way.pixel_major for way in dense)
    assert set(dense) < set(sparse)
    assert any(way.gathered for way in sparse)
    assert all(way.pixel_major for way in candidates(direction, SMALL, 1.0))
    assert not any(way.pixel_major for way in candidates(direction, Geometry(1, 8, 64, 64, 4, 4, (3, 3), 1, 1), 1.0))
    assert all(way.reorder == way.gathered for way in sparse) or direction == "spikes"


def test_spikes_are_packed_by_whole_words_in_their_order():
    for geometry in (SMALL, LARGE):
        for way in candidates("spikes", geometry, 0.02):
            assert way.width % 32 == 0
            assert not way.reorder


def test_ways_that_compute_too_much_are_not_timed():
    used = torch.rand(512, 512, 1, 1) < 0.05
    kept = gpu_plan._shortlist("output", LARGE, Grouper(used, tuple(used.shape)), False)
    assert {way.width for way in kept if way.gathered} == {16, 32}
    assert all(way in candidates("output", LARGE, 0.05) for way in kept)


def test_on_a_cpu_torch_computes():
    assert ConvPlanner(None).plan(SMALL, torch.float32, torch.device("cpu")) == ConvPlan()
