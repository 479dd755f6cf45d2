"""A generated set of event streams for tests and demos: bars that move in one of four directions."""

import numpy as np

from snn_sparse.training.events_recordings import Recordings, Stream

SENSOR = 16  # side of the camera's square in pixels
DIRECTIONS = 4  # right, left, down, up
NOISE = 0.1  # events anywhere, as a share of the bar's


def moving_bars(train: bool) -> Recordings:
    """400 streams for training or 100 for test, evenly over the directions; the same in every call."""
    rng = np.random.default_rng(0 if train else 1)
    labels = [i % DIRECTIONS for i in range(400 if train else 100)]
    streams = [_moving_bar(rng, label) for label in labels]
    return Recordings([f"bar {i}" for i in range(len(labels))], labels, streams.__getitem__)


def _moving_bar(rng: np.random.Generator, direction: int) -> Stream:
    """A bar that crosses the sensor: ON events where it arrives, OFF events where it leaves, and noise."""
    length, thickness = int(rng.integers(4, 11)), int(rng.integers(2, 5))
    start = int(rng.integers(0, SENSOR - length + 1))
    across = np.arange(start, start + length)
    events = []
    for step in range(SENSOR + thickness):  # 1000 microseconds each
        for along, polarity in ((step, 1), (step - thickness, 0)):
            if 0 <= along < SENSOR:
                t = step * 1000 + rng.integers(0, 1000, length)
                events.append(np.stack([t, np.full(length, along), across, np.full(length, polarity)]))
    n = int(NOISE * sum(e.shape[1] for e in events))
    last = (SENSOR + thickness) * 1000
    events.append(rng.integers(0, np.array([[last], [SENSOR], [SENSOR], [2]]), (4, n)))
    t, along, across, p = np.concatenate(events, axis=1)
    order = np.argsort(t, kind="stable")
    along = along if direction % 2 == 0 else SENSOR - 1 - along
    x, y = (along, across) if direction < 2 else (across, along)
    return t[order], x[order], y[order], p[order]
