"""The event data sets by name: streams integrated to T frames, once for each T and size, and kept in a file."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from snn_sparse.training.augment import Augmentation
from snn_sparse.training.data import Dataset, ImageSet
from snn_sparse.training.events import check_image_size, check_split, integrate_events
from snn_sparse.training.events_bars import DIRECTIONS, SENSOR, moving_bars
from snn_sparse.training.events_cache import Frames, kept_frames
from snn_sparse.training.events_recordings import Origin, Recordings, read_recordings


@dataclass(frozen=True)
class EventSource:
    """How an event data set is read and prepared.

    Attributes:
        num_classes: K.
        sensor: side of the camera's square in pixels.
        size: side of the frames, if nobody says another.
        flip: whether a mirrored recording still belongs to its class.
        origin: of the recordings; ``None``: they are generated.
    """

    num_classes: int
    sensor: int
    size: int
    flip: bool = False
    origin: Origin | None = None


_NMNIST = Origin("N-MNIST", "https://www.garrickorchard.com/datasets/n-mnist", ("n_mnist", "NMNIST"), "NMNIST")
_CIFAR10_DVS = Origin(
    "CIFAR10-DVS",
    "https://figshare.com/articles/dataset/CIFAR10-DVS_New/4724671",
    ("cifar10_dvs", "CIFAR10DVS"),
    "CIFAR10DVS",
    has_splits=False,
)
_GESTURES = Origin(
    "DVS128 Gesture",
    "https://ibm.ent.box.com/s/3hiq58ww1pbbjrinh367ykfdf60xsfm8/folder/50167556794",
    ("dvs128_gesture", "DVS128Gesture"),
    "DVSGesture",
)

EVENT_SOURCES: dict[str, EventSource] = {
    "events": EventSource(DIRECTIONS, SENSOR, SENSOR),
    "nmnist": EventSource(10, 34, 34, origin=_NMNIST),
    "cifar10dvs": EventSource(10, 128, 48, flip=True, origin=_CIFAR10_DVS),
    "dvs128gesture": EventSource(11, 128, 64, origin=_GESTURES),
}


def load_events(
    name: str,
    root: Path,
    timesteps: int,
    *,
    image_size: int | None = None,
    split_by: str = "number",
    download: bool = False,
) -> Dataset:
    """Read an event data set as frames ``[M, T, 2, S, S]`` of counts; its batches are sequences.

    Counts are divided by their root mean square in the training frames, one number a channel: where there are none, 0.
    Training sequences are shifted by up to an eighth of their side, and mirrored where that leaves the class as it is.

    Args:
        name: one of :data:`EVENT_SOURCES`.
        root: the set lies in ``root/name``, and so does its file of frames, ``frames_T{T}_{S}_{split_by}.safetensors``.
        timesteps: T.
        image_size: S, at most the camera's side; see :func:`snn_sparse.training.events.integrate_events`.
        split_by: ``number`` or ``time``.
        download: whether missing files may be fetched.

    Raises:
        ValueError: a number out of range, another ``split_by``, or damaged recordings. FileNotFoundError: files are
            missing. ImportError: frames are not there, and no library that reads the recordings is.
    """
    source, folder = EVENT_SOURCES[name], root / name
    if timesteps < 1:
        raise ValueError(f"timesteps must be at least 1, got {timesteps}")
    size = check_image_size(source.size if image_size is None else image_size, source.sensor)
    shape = (timesteps, 2, size, size)
    how = partial(_integrate, sensor=source.sensor, shape=shape, split_by=check_split(split_by))
    if (origin := source.origin) is None:
        frames = how(moving_bars(True), moving_bars(False))
    else:
        if download:
            folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"frames_T{timesteps}_{size}_{split_by}.safetensors"
        about = {"dataset": name, "timesteps": timesteps, "image_size": size, "split_by": split_by, "version": 1}
        frames = kept_frames(path, about, shape, lambda: how(*read_recordings(origin, folder, download)))
    scale = tuple(s / 255 for s in _count_scale(frames["train_frames"]))
    train, test = (
        ImageSet(frames[f"{split}_frames"], frames[f"{split}_labels"], (0.0, 0.0), scale) for split in ("train", "test")
    )
    augmentation = Augmentation(crop_padding=max(1, size // 8), flip=source.flip)
    return Dataset(name, train, test, source.num_classes, augmentation)


def _integrate(train: Recordings, test: Recordings, *, sensor: int, shape: tuple[int, ...], split_by: str) -> Frames:
    """Count the events of all recordings; a recording whose times are out of order is sorted first."""
    result: Frames = {}
    for split, recordings in (("train", train), ("test", test)):
        frames = torch.empty((len(recordings.labels), *shape), dtype=torch.uint8)
        for i, file in enumerate(recordings.names):
            stream = recordings.read(i)
            order = np.argsort(stream[0], kind="stable")
            t, x, y, p = (part[order] for part in stream)
            try:
                frames[i] = integrate_events(
                    t, x, y, p, timesteps=shape[0], sensor_size=sensor, image_size=shape[-1], split_by=split_by
                )
            except ValueError as error:
                raise ValueError(f"{file}: {error}") from error
        result |= {f"{split}_frames": frames, f"{split}_labels": torch.tensor(recordings.labels, dtype=torch.int64)}
    return result


def _count_scale(frames: torch.Tensor) -> tuple[float, ...]:
    """Root mean square of the counts of each channel; 1 where there are none."""
    total = torch.zeros(2, dtype=torch.float64)
    for part in frames.split(256):
        total += part.float().square().sum((0, 1, 3, 4), dtype=torch.float64)
    mean = total / max(1, frames[:, :, 0].numel())
    return tuple(float(m.sqrt()) if m > 0 else 1.0 for m in mean)
