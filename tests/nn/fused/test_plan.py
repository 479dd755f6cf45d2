"""Plans: the faster way is kept, remembered on disk, and never slower than dense by its own timing."""

import json

import pytest
import torch

from snn_sparse.nn.fused import plan as planning
from snn_sparse.nn.fused.plan import ConvShape, Plan, Planner, candidates
from snn_sparse.nn.fused.plan_file import PlanFile
from snn_sparse.ops.layout import NCHW, Layout
from snn_sparse.ops.library import cpu_library
from snn_sparse.ops.sparse_conv import Blocking

if not cpu_library():
    pytest.skip("the C++ operators are not built", allow_module_level=True)

SHAPE = ConvShape((2, 8, 16, 8, 8), (24, 16, 3, 3), 1, 1, torch.float32)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SNN_SPARSE_CACHE", str(tmp_path / "deep" / "plans.json"))
    return tmp_path / "deep" / "plans.json"


def mask(density, shape=(24, 16, 3, 3)):
    return torch.rand(shape) < density


def times(monkeypatch, dense, sparse):
    """Make every dense way take one time and every sparse way another."""
    monkeypatch.setattr(planning, "race", lambda ways: {w: dense if w[1] is None else sparse for w in ways})


def test_the_faster_way_is_kept(cache, monkeypatch):
    times(monkeypatch, dense=1.0, sparse=0.5)
    plan = Planner(mask(0.1)).plan(SHAPE)
    assert plan.blocking is not None
    assert (plan.seconds, plan.dense_seconds) == (0.5, 1.0)
    times(monkeypatch, dense=1.0, sparse=0.99)  # within the margin: not worth it
    assert Planner(mask(0.2)).plan(SHAPE).blocking is None
    times(monkeypatch, dense=1.0, sparse=2.0)
    assert Planner(mask(0.3)).plan(SHAPE).blocking is None
    assert Planner(None).plan(SHAPE).blocking is None


def test_remembered_by_shape_density_and_machine(cache, monkeypatch):
    times(monkeypatch, dense=1.0, sparse=0.5)
    alive = mask(0.1)
    plan = Planner(alive).plan(SHAPE)
    (key,) = json.loads(cache.read_text())
    assert f"2x8x16x8x8 24x16x3x3 s1p1 float32 {Planner(alive).density:.2g} |" in key
    assert f"{torch.get_num_threads()} threads" in key
    monkeypatch.setattr(planning, "race", lambda ways: pytest.fail("timed again"))
    assert Planner(alive).plan(SHAPE) == plan


@pytest.mark.parametrize("content", ["", "{", "[]", '{"KEY": 3}', '{"KEY": {"layout": {}}}'])
def test_damaged_files_are_ignored(cache, monkeypatch, content):
    times(monkeypatch, dense=1.0, sparse=0.5)
    alive = mask(0.1)
    cache.parent.mkdir()
    cache.write_text(content.replace("KEY", SHAPE.key(Planner(alive).density)))
    assert Planner(alive).plan(SHAPE).seconds == 0.5


def test_no_file_at_all(monkeypatch):
    monkeypatch.setenv("SNN_SPARSE_CACHE", "")
    times(monkeypatch, dense=1.0, sparse=0.5)
    assert Planner(mask(0.1)).plan(SHAPE).seconds == 0.5
    monkeypatch.setenv("SNN_SPARSE_CACHE", "/proc/nowhere/plans.json")
    assert Planner(mask(0.1)).plan(SHAPE).seconds == 0.5
    PlanFile().put("key", {})


def test_real_timing_chooses_sparse_for_a_sparse_layer(cache):
    shape = ConvShape((5, 16, 128, 8, 8), (128, 128, 3, 3), 1, 1, torch.float32)
    plan = Planner(mask(0.02, (128, 128, 3, 3))).plan(shape)
    assert plan.blocking is not None
    assert plan.seconds < plan.dense_seconds
    assert "sparse" in plan.describe()


def test_random_state_and_modes_are_left_alone(cache):
    planner = Planner(mask(0.1))
    state = torch.random.get_rng_state()
    with torch.inference_mode():
        planner.plan(SHAPE)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 8, 16, 32, 33])
@pytest.mark.parametrize("density", [0.0, 0.02, 0.1, 0.3, 0.6])
def test_candidates_fit_any_shape(size, density):
    for timesteps, n in ((1, 1), (5, 16), (3, 7)):
        shape = ConvShape((timesteps, n, 3, size, size), (4, 3, 3, 3), 1, 1, torch.float32)
        found = candidates(shape, density)
        assert found
        assert len(set(found)) == len(found)
        assert all(1 <= b.vectors <= 8 for b in found)
    assert candidates(shape, 0.9) == []


def test_describe():
    assert Plan(NCHW, None, 1, 1).describe() == "dense nchw"
    assert Plan(Layout("lanes", 2), Blocking(2, 16, True, True), 1, 1).describe() == "sparse V=2 block=16 rows pack"
    assert Plan(Layout("lanes", 1), Blocking(), 1, 1).describe() == "sparse V=1 block=all"
