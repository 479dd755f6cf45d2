"""Nothing is lost, or silently different: searches killed at random moments, files damaged at random places.

``python -m benchmarks survive`` does the same at length.
"""

import os
import random
import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.survival.damage import damage, try_damages
from benchmarks.survival.kills import kill_and_resume, kill_timed
from benchmarks.survival.searches import METHODS, Death, command, differences, start

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def draw(request):
    return random.Random(os.environ["SNN_SPARSE_TEST_SEED"] + request.node.name)


def test_killed_searches_end_as_one_that_nobody_disturbed(tmp_path, draw):
    method = draw.choice([m for m in METHODS if m != "random"])
    assert start(command(method, tmp_path / "whole"), tmp_path / "cache").status == 0
    killed = [kill_and_resume(method, tmp_path / "whole", tmp_path / f"killed{n}", draw) for n in range(2)]
    assert [k.wrong for k in killed] == [[], []], method
    assert sum(k.deaths for k in killed) > 0


def test_killed_with_a_cold_cache_at_every_start(tmp_path, draw):
    killed = kill_timed("imp", tmp_path / "killed", draw)
    assert killed.wrong == []


@pytest.mark.parametrize("event", [1, 2, 3, 4])
def test_killed_in_the_first_writes(tmp_path, event):
    """Of the configuration, too: the directory is no ruin."""
    argv = command("snip", tmp_path / "run")
    assert start(argv, tmp_path / "cache", Death(event=event)).status == -signal.SIGKILL
    assert start(argv, tmp_path / "cache").status == 0
    assert not list((tmp_path / "run").rglob("*.tmp"))


def test_differences_are_seen(tmp_path):
    """Or the tests above would show nothing."""
    for name, seed in (("a", 5), ("b", 6)):
        assert start(command("snip", tmp_path / name, seed=seed), tmp_path / "cache").status == 0
    found = differences(tmp_path / "a", tmp_path / "b")
    assert {"masks of level 1", "trained weights of level 1", "metrics"} <= set(found)


def test_no_damage_ends_in_a_traceback_or_another_result(tmp_path):
    found = try_damages(25, tmp_path, int(os.environ["SNN_SPARSE_TEST_SEED"]))
    assert [d for d in found if d.wrong] == []
    assert {d.action for d in found} == {"search", "report", "evaluate"}


def test_damage_is_damage(tmp_path, draw):
    for run in ("run", "other"):
        for level in range(2):
            (tmp_path / run / f"level_0{level}").mkdir(parents=True)
            (tmp_path / run / f"level_0{level}" / "checkpoint.pt").write_text(f"{run} {level} {draw.random()}")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.pt")}
    kinds = set()
    for _ in range(60):
        file, how = damage(tmp_path / "run", tmp_path / "other", draw)
        kinds.add(how)
        path = tmp_path / "run" / file
        assert path.read_bytes() != before[path]
        path.write_bytes(before[path])
    assert kinds == {"cut", "emptied", "a bit flipped", "another level's", "another run's"}
