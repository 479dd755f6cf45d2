"""The tuner: the faster way is kept, remembered in memory and on disk; by its own timing never slower than dense."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import cpp_case

from snn_sparse.ops.cache import Cache
from snn_sparse.ops.convolution import LayerConfiguration, LiveConfiguration
from snn_sparse.ops.spikes import NCHW, NHWC, MemoryFormat
from snn_sparse.specs import MAX_KERNEL, MAX_PADDING, MAX_STRIDE, ConvGeometry
from snn_sparse.tuning import LayerTuner, Winner
from snn_sparse.tuning import cpu as course
from snn_sparse.tuning.cpu import candidates

pytestmark = cpp_case.needs_cpp
GEOMETRY = ConvGeometry(2, 8, 16, 24, 8, 8, (3, 3), 1, 1)
SHAPE = GEOMETRY.weight_shape
F32 = torch.float32


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SNN_SPARSE_CACHE", str(tmp_path / "deep" / "measured.json"))
    return tmp_path / "deep" / "measured.json"


def mask(density, shape=SHAPE):
    return torch.rand(shape) < density


def times(monkeypatch, nchw, nhwc, live):
    """Make every dense run take its time, and every run at live weights another; returns the number of races."""
    races = []

    def race(runs, device, always=1):
        races.append(len(runs))
        assert always == 2
        return [nchw, nhwc] + [live + 0.001 * i for i in range(len(runs) - 2)]

    monkeypatch.setattr(course, "race", race)
    return races


def test_the_faster_way_is_kept(cache, monkeypatch):
    times(monkeypatch, 1.0, 2.0, 0.5)
    tuner = LayerTuner(mask(0.1))
    memory_format, how = tuner.on_cpu(GEOMETRY, F32)
    (winner,) = tuner.winners.values()
    assert (winner.seconds, winner.dense_seconds) == ((0.5,), (1.0,))
    assert how.live == winner.live == candidates(GEOMETRY, tuner.density)[0]
    assert memory_format == MemoryFormat("lanes", how.live.vectors)
    assert torch.equal(how.keep, tuner.keep)


@pytest.mark.parametrize(("nchw", "nhwc", "kept"), [(1.0, 2.0, NCHW), (2.0, 1.0, NHWC)])
@pytest.mark.parametrize("live", [0.99, 2.0, float("inf")])  # within the margin it is not worth it
def test_dense_in_the_faster_format(cache, monkeypatch, nchw, nhwc, kept, live):
    times(monkeypatch, nchw, nhwc, live)
    keep = mask(0.1)
    tuner = LayerTuner(keep)
    memory_format, how = tuner.on_cpu(GEOMETRY, F32)
    assert memory_format == kept
    assert tuner.winners[(GEOMETRY, F32)].dense_seconds == (1.0,)
    assert how.live is None
    assert how.keep is keep  # gradients are masked all the same


def test_the_fastest_dense_way_is_what_others_are_held_against(cache, monkeypatch):
    times(monkeypatch, 2.0, 1.0, 0.5)
    tuner = LayerTuner(mask(0.1))
    tuner.on_cpu(GEOMETRY, F32)
    winner = tuner.winners[(GEOMETRY, F32)]
    assert (winner.seconds, winner.dense_seconds) == ((0.5,), (1.0,))


def test_a_linear_layer_must_win_by_more(cache, monkeypatch):
    g = ConvGeometry(1, 8, 16, 24, 1, 1, (1, 1), 1, 0)
    for live, wins in ((0.7, False), (0.5, True)):
        times(monkeypatch, 1.0, 1.0, live)
        keep = mask(0.1 + live / 100, (24, 16))
        _, how = LayerTuner(keep).on_cpu(g, F32)
        assert (how.live is not None) == wins
        assert how.keep.shape == g.weight_shape
        cache.unlink()


def test_without_a_mask_two_formats_race(cache, monkeypatch):
    races = times(monkeypatch, 1.0, 0.5, 0.1)
    tuner = LayerTuner(None)
    assert tuner.on_cpu(GEOMETRY, F32) == (NHWC, LayerConfiguration())
    assert races == [2]
    assert tuner.density == 1


def test_remembered_in_memory_by_shape_and_dtype(cache, monkeypatch):
    monkeypatch.setenv("SNN_SPARSE_CACHE", "")
    races = times(monkeypatch, 1.0, 1.0, 0.5)
    tuner = LayerTuner(mask(0.1))
    first = tuner.on_cpu(GEOMETRY, F32)
    assert tuner.on_cpu(GEOMETRY, F32)[1] is first[1]
    assert len(races) == 1
    tuner.on_cpu(GEOMETRY, torch.float64)
    tuner.on_cpu(replace(GEOMETRY, images=16), F32)
    assert len(races) == 3
    assert set(tuner.winners) == {(GEOMETRY, F32), (GEOMETRY, torch.float64), (replace(GEOMETRY, images=16), F32)}
    assert tuner.on_cpu(GEOMETRY, torch.float64)[1] is first[1]  # lists are made once
    assert not cache.exists()


def test_remembered_on_disk_by_shape_density_and_machine(cache, monkeypatch):
    races = times(monkeypatch, 1.0, 1.0, 0.5)
    keep = mask(0.1)
    tuner = LayerTuner(keep)
    found = tuner.on_cpu(GEOMETRY, F32)
    (key,) = json.loads(cache.read_text())
    assert f"2x8x16x8x8 24x16x3x3 s1p1 float32 {tuner.density:.2g} |" in key
    assert f"{torch.get_num_threads()} threads" in key
    again = LayerTuner(keep)
    assert again.on_cpu(GEOMETRY, F32)[0] == found[0]
    assert again.winners == tuner.winners
    assert len(races) == 1
    other = keep.flatten()[torch.randperm(keep.numel())].view(SHAPE)  # of the same density
    _, how = LayerTuner(other).on_cpu(GEOMETRY, F32)
    assert len(races) == 1
    assert torch.equal(how.keep, other)


@pytest.mark.parametrize(
    "changes", [{"steps": 3}, {"images": 9}, {"height": 7}, {"width": 7}, {"stride": 2}, {"padding": 2}, {}]
)
def test_anything_else_is_raced_by_itself(cache, monkeypatch, changes):
    """Another size, or another dtype; the mask is the same."""
    races = times(monkeypatch, 1.0, 1.0, 0.5)
    keep = mask(0.1)
    LayerTuner(keep).on_cpu(GEOMETRY, F32)
    LayerTuner(keep).on_cpu(replace(GEOMETRY, **changes), F32 if changes else torch.float64)
    assert len(races) == 2
    assert len({key.split("|")[0] for key in json.loads(cache.read_text())}) == 2


def test_another_density_is_raced_by_itself(cache, monkeypatch):
    races = times(monkeypatch, 1.0, 1.0, 0.5)
    for count in (300, 500, 500):
        keep = torch.zeros(SHAPE, dtype=torch.bool)
        keep.view(-1)[torch.randperm(keep.numel())[:count]] = True
        LayerTuner(keep).on_cpu(GEOMETRY, F32)
    assert len(races) == 2


def test_a_live_winner_is_nothing_for_a_layer_without_a_mask(cache, monkeypatch):
    races = times(monkeypatch, 1.0, 1.0, 0.5)
    live = Winner((0.1,), (1.0,), MemoryFormat("lanes", 2), LiveConfiguration(2))
    Cache().put(course.key(GEOMETRY, F32, None), live.as_dict())
    assert LayerTuner(None).on_cpu(GEOMETRY, F32) == (NCHW, LayerConfiguration())
    assert len(races) == 1
    assert Cache().get(course.key(GEOMETRY, F32, None), Winner.parse).live is None  # and is replaced


def test_a_damaged_winner_is_raced_again(cache, monkeypatch):
    races = times(monkeypatch, 1.0, 1.0, 0.5)
    keep = mask(0.1)
    tuner = LayerTuner(keep)
    expected = tuner.on_cpu(GEOMETRY, F32)[0]
    (key,) = json.loads(cache.read_text())
    (good,) = tuner.winners.values()
    for count, damage in enumerate((3, {}, {"live": None}, good.as_dict() | {"seconds": [-1.0]}), start=2):
        Cache().put(key, damage)
        assert LayerTuner(keep).on_cpu(GEOMETRY, F32)[0] == expected
        assert len(races) == count
        assert Cache().get(key, Winner.parse) == good


@pytest.mark.parametrize("where", ["", "/proc/nowhere/measured.json"])
def test_without_a_file(monkeypatch, where):
    monkeypatch.setenv("SNN_SPARSE_CACHE", where)
    times(monkeypatch, 1.0, 1.0, 0.5)
    tuner = LayerTuner(mask(0.1))
    tuner.on_cpu(GEOMETRY, F32)
    assert tuner.winners[(GEOMETRY, F32)].seconds == (0.5,)


@pytest.mark.parametrize(
    "g",
    [
        ConvGeometry(1, 2, 2, 3, 9, 9, (MAX_KERNEL + 1, 1), 1, 0),
        ConvGeometry(1, 2, 2, 3, 9, 9, (1, MAX_KERNEL + 1), 1, 0),
        ConvGeometry(1, 2, 2, 3, 9, 9, (3, 3), MAX_STRIDE + 1, 0),
        ConvGeometry(1, 2, 2, 3, 9, 9, (3, 3), 1, MAX_PADDING + 1),
    ],
)
def test_beyond_the_limits_of_the_kernels_it_is_dense(cache, monkeypatch, g):
    races = times(monkeypatch, 1.0, 1.0, 0.1)
    keep = mask(0.1, g.weight_shape)
    _, how = LayerTuner(keep).on_cpu(g, F32)
    assert how.live is None
    assert how.keep is keep
    assert races == [2]


def test_at_the_limits_of_the_kernels_it_may_be_live(cache, monkeypatch):
    times(monkeypatch, 1.0, 1.0, 0.1)
    g = ConvGeometry(1, 2, 2, 3, 9, 9, (MAX_KERNEL, MAX_KERNEL), MAX_STRIDE, MAX_PADDING)
    assert LayerTuner(mask(0.1, g.weight_shape)).on_cpu(g, F32)[1].live is not None


def test_a_real_race_chooses_live_weights_for_a_sparse_layer(cache):
    g = ConvGeometry(5, 16, 128, 128, 8, 8, (3, 3), 1, 1)
    tuner = LayerTuner(mask(0.02, g.weight_shape))
    tuner.on_cpu(g, F32)
    winner = tuner.winners[(g, F32)]
    assert winner.live is not None
    assert winner.seconds < winner.dense_seconds
    assert "live" in winner.describe()


def test_random_state_and_modes_are_left_alone(cache):
    tuner, other = LayerTuner(mask(0.1)), LayerTuner(mask(0.2))
    state = torch.random.get_rng_state()
    with torch.inference_mode():
        tuner.on_cpu(GEOMETRY, F32)
    with torch.no_grad():
        other.on_cpu(GEOMETRY, torch.float64)
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 8, 16, 32, 33])
@pytest.mark.parametrize("density", [0.0, 0.02, 0.1, 0.3, 0.6])
def test_candidates_fit_any_shape(size, density):
    for steps, images in ((1, 1), (5, 16), (3, 7)):
        g = ConvGeometry(steps, images, 3, 4, size, size, (3, 3), 1, 1)
        found = candidates(g, density)
        assert found
        assert len(set(found)) == len(found)
        vectors = steps * -(-images // 8)
        assert all(c.vectors == 1 or vectors % c.vectors == 0 for c in found)
        assert all(c.channel_block < g.inputs for c in found)
    assert candidates(g, 0.9) == []


def test_on_a_cpu_torch_computes_packed_spikes():
    keep = mask(0.1)
    how = LayerTuner(keep).on_gpu(GEOMETRY, F32, F32, torch.device("cpu"))
    assert torch.equal(how.keep, keep)
    assert (how.lists, how.live) == (None, None)
