"""The race: in turn, the fastest few again, errors of those that others must beat are raised."""

import pytest
import torch

from snn_sparse.tuning import race as racing
from snn_sparse.tuning.race import REPEATS, SHORTLIST, processor, race

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    """Runs are lists of the seconds that they take, one after another; the last one stays."""
    asked = []

    def clocked(run):
        asked.append(run)
        if isinstance(run[0], Exception):
            raise run[0]
        return run.pop(0) if len(run) > 1 else run[0]

    monkeypatch.setattr(racing, "_clocked", clocked)
    return asked


def test_the_fastest_few_run_again(clock):
    runs = [[5.0], [1.0], [2.0], [3.0], [4.0]]
    assert race(runs, CPU) == [5.0, 1.0, 2.0, 3.0, 4.0]
    counts = [sum(run is asked for asked in clock) for run in runs]
    assert counts == [2, 1 + REPEATS, 1 + REPEATS, 1 + REPEATS, 1]  # the first one, which others must beat, once more
    assert SHORTLIST == 3


def test_the_best_of_all_times_counts(clock):
    assert race([[9.0, 1.0], [3.0, 2.0, 4.0]], CPU) == [1.0, 2.0]
    assert race([[9.0], [3.0, 1.5, 0.5]], CPU, always=2) == [9.0, 0.5]


def test_what_cannot_run_takes_forever(clock):
    assert race([[1.0], [RuntimeError("too much shared memory")], [2.0]], CPU) == [1.0, float("inf"), 2.0]


@pytest.mark.parametrize("place", [0, 1])
def test_those_that_others_must_beat_must_run(clock, place):
    runs = [[1.0], [1.0], [1.0]]
    runs[place] = [RuntimeError("broken")]
    with pytest.raises(RuntimeError, match="broken"):
        race(runs, CPU, always=2)


def test_on_a_gpu_each_is_replayed_once(monkeypatch):
    asked = []
    monkeypatch.setattr(racing, "_graphed", lambda run: asked.append(run) or run)
    assert race([3.0, 1.0], torch.device("cuda")) == [3.0, 1.0]
    assert asked == [3.0, 1.0]


def test_a_real_race():
    calls = []
    seconds = race([lambda: calls.append("a"), lambda: sum(range(100_000))], CPU)
    assert 0 < seconds[0] < seconds[1] < 1
    assert calls
    assert processor()
