"""Winners survive JSON; one that was damaged, in any place and way, is as good as none."""

import copy
import json
import math

import pytest

from snn_sparse.ops.cache import Cache
from snn_sparse.ops.convolution import Directions, LiveConfiguration, SpikeConfiguration, TileConfiguration
from snn_sparse.ops.spikes import NCHW, NHWC, MemoryFormat
from snn_sparse.tuning import Winner

LIVE = Winner((0.5,), (1.0,), MemoryFormat("lanes", 3), LiveConfiguration(3, 16, True, True))
TILES = Winner(
    (0.1, 0.2, 0.3, 0.0),
    (0.2, 0.2, 0.4, 0.0),
    NHWC,
    directions=Directions(TileConfiguration(64, 32, 32), None, TileConfiguration(16, 16, 32, True, True, True, 8, 2)),
)
SPIKES = Winner((0.5,), (1.0,), NHWC, spikes=SpikeConfiguration(grad_weight=False, grad_input=True), rate=20)
WINNERS = [LIVE, TILES, SPIKES, Winner((1.0,), (1.0,)), Winner((1.0,), (1.0,), NHWC)]


@pytest.mark.parametrize("winner", WINNERS, ids=Winner.describe)
def test_a_winner_survives_the_cache(monkeypatch, tmp_path, winner):
    monkeypatch.setenv("SNN_SPARSE_CACHE", str(tmp_path / "measured.json"))
    Cache().put("key", winner.as_dict())
    found = Cache().get("key", Winner.parse)
    assert found == winner
    assert hash(found) == hash(winner)  # tuples again, not lists
    assert type(found.seconds) is tuple


def places(value, path=()):
    """Every place in a nested value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def damaged(value, path, new):
    """A copy of a JSON value with another value in one place."""
    if not path:
        return new
    twin = copy.deepcopy(value)
    at = twin
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = new
    return twin


def removed(value, path):
    twin = copy.deepcopy(value)
    at = twin
    for key in path[:-1]:
        at = at[key]
    del at[path[-1]]
    return twin


RECORDS = {w.describe(): json.loads(json.dumps(w.as_dict())) for w in (LIVE, TILES, SPIKES)}
WRONG = {
    "null": None,
    "text": "text",
    "a number": 7.25,
    "a list": [1],
    "a dict": {"x": 1},
    "negative": -1,
    "huge": 2**40,
    "NaN": math.nan,
    "infinite": math.inf,
    "a flag": True,
    "zero": 0,
}
# Where another value makes sense: any flag is one, times are any number, without a live configuration it is dense.
DEFAULTS = ("channel_block", "rows_outermost", "pack", "gathered", "reorder", "pixel_major", "num_warps", "num_stages")
DEFAULTS += ("output", "grad_weight", "grad_input", "spikes", "rate")
FLAGS = ("rows_outermost", "pack", "gathered", "reorder", "pixel_major", "output", "grad_weight", "grad_input")


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("record", RECORDS)
def test_a_wrong_value_in_any_place(monkeypatch, tmp_path, record, wrong):
    """Whatever is accepted must say all the same as a winner that could have been written."""
    monkeypatch.setenv("SNN_SPARSE_CACHE", str(tmp_path / "measured.json"))
    good = RECORDS[record]
    accepted = []
    for path in places(good):
        found = None
        value = damaged(good, path, WRONG[wrong])
        if value is not None and value != good:
            Cache().put("key", value)
            found = Cache().get("key", Winner.parse)
        if found is not None:
            accepted.append(path)
            assert json.loads(json.dumps(found.as_dict())) == value, path
            _check_types(found)
    allowed = {
        "null": lambda p: p == ("spikes",) or (p[0] == "directions" and len(p) == 2),
        "a number": lambda p: p[0] in ("seconds", "dense_seconds") and len(p) == 2,
        "a flag": lambda p: p[-1] in FLAGS,
        "zero": lambda p: p[-1] in ("channel_block", "vectors"),
    }.get(wrong, lambda p: False)
    assert all(allowed(path) for path in accepted), accepted


def _check_types(winner):
    """What the operators are given later: numbers of the right type."""
    assert all(type(t) is float for t in (*winner.seconds, *winner.dense_seconds))
    if winner.live is not None:
        assert [type(x) for x in vars(winner.live).values()] == [int, int, bool, bool]
    for c in winner.directions:
        if c is not None:
            assert [type(x) for x in vars(c).values()] == [int, int, int, bool, bool, bool, int, int]


@pytest.mark.parametrize("record", RECORDS)
def test_a_missing_place(record):
    good = RECORDS[record]
    for path in places(good):
        if path and path[-1] not in DEFAULTS:
            with pytest.raises((TypeError, ValueError, KeyError)):
                Winner.parse(removed(good, path))


@pytest.mark.parametrize(
    "changes",
    [
        {"memory_format": {"kind": "nchw", "vectors": 0}},  # of a live configuration
        {"memory_format": {"kind": "lanes", "vectors": 2}},  # another number of vectors
        {"memory_format": {"kind": "packed", "vectors": 0}, "live": None},
        {"memory_format": {"kind": "cubes", "vectors": 0}, "live": None},
        {"memory_format": {"kind": "nchw", "vectors": 2}, "live": None},
        {"live": None},
        {"live": {"vectors": 3}, "memory_format": {"kind": "lanes", "vectors": 3}, "seconds": []},
        {"seconds": [0.5, 0.5]},
        {"seconds": [0.5, 0.5], "dense_seconds": [0.5, 0.5]},
        {"seconds": [], "dense_seconds": []},
        {"seconds": [-0.5]},
        {"seconds": [math.nan]},
        {"dense_seconds": [math.inf]},
        {"seconds": ["1"]},
        {"seconds": [1]},
        {"seconds": "1"},
        {"seconds": 0.5},
        {"directions": [None] * 5},
        {"directions": [None] * 3},
        {"directions": {}},
        {"directions": [{"rows": 64, "width": 32, "step": 32, "colour": "red"}, None, None, None]},
        {"directions": [{"rows": 48, "width": 32, "step": 32}, None, None, None]},
        {"live": {"vectors": 3, "colour": "red"}},
        {"spikes": {"output": True, "grad_weight": True}, "rate": 20},  # in lanes
        {"spikes": {"output": False, "grad_weight": False}},
        {"rate": 0},
        {"rate": 101},
        {"rate": 5.0},
    ],
)
def test_what_does_not_fit_together(changes):
    good = RECORDS[LIVE.describe()]
    assert Winner.parse(good) == LIVE
    with pytest.raises((TypeError, ValueError, KeyError)):
        Winner.parse(good | changes)


def test_descriptions():
    assert Winner((1.0,), (1.0,)).describe() == "dense nchw"
    assert LIVE.describe() == "live V=3 block=16 rows pack"
    assert Winner((1.0,), (1.0,), MemoryFormat("lanes", 1), LiveConfiguration()).describe() == "live V=1 block=all"
    assert SPIKES.describe() == "spikes: output; Winograd: input gradient"
    assert TILES.describe() == "block 64x32x32, dense, union 16x16x32 reordered by pixel"
    assert Winner((1.0,) * 4, (1.0,) * 4, NCHW).describe() == "dense nchw"
