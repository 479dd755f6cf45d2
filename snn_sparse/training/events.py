"""Event streams to frames: the events of a neuromorphic camera, counted in T frames of two channels.

The two ways to cut a stream into T parts, and the order of the channels, are those of SpikingJelly
(``integrate_events_by_fixed_frames_number``), whose frames the published accuracies were reached with.
"""

import numpy as np
import torch

SPLITS = ("number", "time")
MAX_COUNT = 255  # frames are uint8


def check_split(split_by: str) -> str:
    """``split_by`` if it is one of :data:`SPLITS`.

    Raises:
        ValueError: it is not.
    """
    if split_by not in SPLITS:
        raise ValueError(f"split_by must be one of {', '.join(SPLITS)}, got {split_by!r}")
    return split_by


def frame_bounds(t: np.ndarray, timesteps: int, split_by: str = "number") -> np.ndarray:
    """Cut a stream of N events into T parts.

    Args:
        t: times ``[N]`` in any unit, in ascending order.
        timesteps: T.
        split_by: ``number``: N // T events a frame; ``time``: frames of equal length, (last - first time) // T. The
            last frame takes what is left over.

    Returns:
        int64 ``[T + 1]``: the first event of each frame, and N.

    Raises:
        ValueError: ``timesteps`` below 1, another ``split_by``, or times that are out of order.
    """
    if timesteps < 1:
        raise ValueError(f"timesteps must be at least 1, got {timesteps}")
    check_split(split_by)
    t = np.asarray(t).astype(np.int64)
    if (np.diff(t) < 0).any():
        raise ValueError("t must be in ascending order")
    steps = np.arange(timesteps)
    if split_by == "number":
        first = steps * (len(t) // timesteps)
    elif len(t) == 0:
        first = np.zeros_like(steps)
    else:
        first = np.searchsorted(t, t[0] + steps * ((t[-1] - t[0]) // timesteps))
    return np.append(first, len(t)).astype(np.int64)


def integrate_events(
    t: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    p: np.ndarray,
    *,
    timesteps: int,
    sensor_size: int,
    image_size: int | None = None,
    split_by: str = "number",
) -> torch.Tensor:
    """Count the N events of a stream in T frames, apart for each polarity.

    Args:
        t, x, y: time, column and row of each event, integers ``[N]``; times in ascending order.
        p: polarity ``[N]``: 0 is OFF (darker), anything else ON.
        timesteps: T.
        sensor_size: side of the camera's square, in pixels; rows and columns lie below it.
        image_size: side S of the frames, at most ``sensor_size``, which it is if left out. An event at column x is
            counted at column ``x * S // sensor_size``, and rows alike: counts are sums over rectangles of pixels, which
            are equal squares where S divides ``sensor_size``.
        split_by: see :func:`frame_bounds`.

    Returns:
        uint8 ``[T, 2, S, S]``: channel 0 counts OFF events, channel 1 ON events; counts above 255 are 255.

    Raises:
        ValueError: arrays of different length, an event outside the sensor, ``image_size`` out of range, or what
            :func:`frame_bounds` complains about.
    """
    size = check_image_size(sensor_size if image_size is None else image_size, sensor_size)
    if not t.shape == x.shape == y.shape == p.shape == (len(t),):
        raise ValueError(f"t, x, y and p must be of one length, got shapes {t.shape}, {x.shape}, {y.shape}, {p.shape}")
    frame = np.repeat(np.arange(timesteps), np.diff(frame_bounds(t, timesteps, split_by)))
    column, row = (_pixel(name, place, sensor_size, size) for name, place in (("x", x), ("y", y)))
    position = ((frame * 2 + (p != 0)) * size + row) * size + column
    counts = np.bincount(position, minlength=timesteps * 2 * size * size).clip(max=MAX_COUNT)
    return torch.from_numpy(counts.astype(np.uint8)).view(timesteps, 2, size, size)


def check_image_size(image_size: int, sensor_size: int) -> int:
    """``image_size`` if frames can have it.

    Raises:
        ValueError: below 1 or above ``sensor_size``: pixels between the sensor's would stay empty.
    """
    if not 1 <= image_size <= sensor_size:
        raise ValueError(f"image_size must be between 1 and {sensor_size}, the side of the sensor, got {image_size}")
    return image_size


def _pixel(name: str, place: np.ndarray, sensor_size: int, size: int) -> np.ndarray:
    place = place.astype(np.int64)
    if len(place) and not 0 <= place.min() <= place.max() < sensor_size:
        raise ValueError(f"{name} must lie between 0 and {sensor_size - 1}, got {place.min()} .. {place.max()}")
    return place * size // sensor_size
