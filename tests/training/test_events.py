"""Event streams to frames, against SpikingJelly's own integration."""

import numpy as np
import pytest
import torch
from spikingjelly.datasets import utils as spikingjelly

from snn_sparse.training.events import frame_bounds, integrate_events

SENSOR = 12


def stream(n, duration=100_000, sensor=SENSOR):
    """N random events, sorted by time."""
    t, x, y, p = (torch.randint(high, (n,)).numpy() for high in (duration, sensor, sensor, 2))
    return np.sort(t), x, y, p


def expected(events, timesteps, split_by, sensor=SENSOR):
    named = dict(zip("txyp", events, strict=True))
    frames = spikingjelly.integrate_events_by_fixed_frames_number(named, split_by, timesteps, sensor, sensor)
    return torch.from_numpy(frames)


@pytest.mark.parametrize("split_by", ["number", "time"])
@pytest.mark.parametrize("timesteps", [1, 2, 5, 8])
@pytest.mark.parametrize("n", [200, 1003])
def test_frames_are_spikingjellys(n, timesteps, split_by):
    events = stream(n)
    found = integrate_events(*events, timesteps=timesteps, sensor_size=SENSOR, split_by=split_by)
    assert (found.dtype, found.shape) == (torch.uint8, (timesteps, 2, SENSOR, SENSOR))
    assert torch.equal(found.double(), expected(events, timesteps, split_by))


@pytest.mark.parametrize(("n", "timesteps"), [(0, 3), (1, 1), (1, 4), (3, 5), (5, 5), (6, 5)])
def test_few_events_split_by_number(n, timesteps):
    """Fewer than T events are all in the last frame."""
    events = stream(n)
    found = integrate_events(*events, timesteps=timesteps, sensor_size=SENSOR)
    assert torch.equal(found.double(), expected(events, timesteps, "number"))
    assert found[-1].sum() == n - n // timesteps * (timesteps - 1)


@pytest.mark.parametrize("kinds", [("uint32", "uint16", "bool"), (">u4", "int16", "int8"), ("int64", "int64", "uint8")])
def test_the_types_in_which_recordings_come(kinds):
    t, x, y, p = stream(300)
    typed = t.astype(kinds[0]), x.astype(kinds[1]), y.astype(kinds[1]), p.astype(kinds[2])
    for split_by in ("number", "time"):
        found, plain = (
            integrate_events(*events, timesteps=4, sensor_size=SENSOR, split_by=split_by)
            for events in (typed, (t, x, y, p))
        )
        assert torch.equal(found, plain)


def test_time_without_events_is_an_empty_frame():
    """SpikingJelly has no answer here: its frames must not be empty."""
    t = np.array([10, 11, 12, 91, 99, 105])
    assert frame_bounds(t, 3, "time").tolist() == [0, 3, 3, 6]  # 31 long, from 10: up to 41, up to 72, the rest
    assert frame_bounds(np.array([7, 7, 7]), 2, "time").tolist() == [0, 0, 3]
    assert frame_bounds(np.array([], dtype=int), 2, "time").tolist() == [0, 0, 0]
    assert frame_bounds(np.array([5]), 3, "time").tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("size", [1, 3, 4, 5, 11, 12])
def test_smaller_frames_are_sums_over_pixels(size):
    events = stream(700)
    full = integrate_events(*events, timesteps=3, sensor_size=SENSOR).double()
    small = integrate_events(*events, timesteps=3, sensor_size=SENSOR, image_size=size)
    onto = torch.zeros(size, SENSOR, dtype=torch.float64)
    onto[torch.arange(SENSOR) * size // SENSOR, torch.arange(SENSOR)] = 1
    assert torch.equal(small.double(), (onto @ full @ onto.T).clamp(max=255))
    if SENSOR % size == 0:
        pooled = torch.nn.functional.avg_pool2d(full, SENSOR // size) * (SENSOR // size) ** 2
        torch.testing.assert_close(small.double(), pooled.clamp(max=255))


def test_counts_end_at_255():
    for n, seen in ((254, 254), (255, 255), (256, 255), (1000, 255)):
        zeros = np.zeros(n, dtype=int)
        found = integrate_events(zeros, zeros, zeros, zeros, timesteps=1, sensor_size=2)
        assert found.flatten().tolist() == [seen, 0, 0, 0, 0, 0, 0, 0]


def changed(events, i, value):
    events = [part.copy() for part in events]
    events[i][3] = value
    return events


@pytest.mark.parametrize(
    ("i", "value", "message"),
    [
        (0, -5, "t must be in ascending order"),
        (1, SENSOR, "x must lie between 0 and 11, got .* 12"),
        (1, -1, "x must lie between 0 and 11, got -1"),
        (2, SENSOR, "y must lie between 0 and 11"),
    ],
)
def test_wrong_events(i, value, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        integrate_events(*changed(stream(20), i, value), timesteps=2, sensor_size=SENSOR)


def test_wrong_arguments():
    t, x, y, p = stream(20)
    for options, message in (
        ({"timesteps": 0}, r"timesteps must be at least 1, got 0"),
        ({"split_by": "size"}, r"split_by must be one of number, time, got 'size'"),
        ({"image_size": 0}, r"image_size must be between 1 and 12"),
        ({"image_size": 13}, r"image_size must be between 1 and 12"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            integrate_events(t, x, y, p, **{"timesteps": 2, "sensor_size": SENSOR} | options)
    with pytest.raises(ValueError, match=r"^t, x, y and p must be of one length"):
        integrate_events(t, x[1:], y, p, timesteps=2, sensor_size=SENSOR)
