"""Frames of an event data set in one file, so that its streams are integrated once."""

import json
import warnings
import zlib
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open

from snn_sparse.training.files import write_atomic

NAMES = ("train_frames", "train_labels", "test_frames", "test_labels")
Frames = dict[str, torch.Tensor]  # uint8 [M, T, 2, S, S] and int64 [M] of both splits


def kept_frames(path: Path, about: dict[str, Any], frame_shape: tuple[int, ...], make: Callable[[], Frames]) -> Frames:
    """Frames from their file; if there is none that serves, they are made and written, by one process at a time.

    Args:
        path: of the file. Where its folder is missing, ``make`` must make it, or complain.
        about: what the frames are; whatever JSON can hold.
        frame_shape: ``(T, 2, S, S)``.
        make: makes the frames.
    """
    frames = read_frames(path, about, frame_shape)
    if frames is not None:
        return frames
    with FileLock(path.parent / ".frames.lock") if path.parent.is_dir() else nullcontext():
        frames = read_frames(path, about, frame_shape)  # another process may have made them meanwhile
        if frames is None:
            if path.exists():
                warnings.warn(f"{path} is damaged or holds something else: its frames are made anew", stacklevel=4)
            frames = make()
            write_frames(path, frames, about)
    return frames


def write_frames(path: Path, frames: Frames, about: dict[str, Any]) -> None:
    """Write frames and labels with their checksums, atomically.

    Args:
        path: of the file.
        frames: the tensors :data:`NAMES`.
        about: what they are; :func:`read_frames` must be told the same.
    """
    checksums = {name: _checksum(frames[name]) for name in NAMES}
    header = {"about": json.dumps(about, sort_keys=True), "checksums": json.dumps(checksums)}
    write_atomic(path, safetensors.torch.save({name: frames[name].contiguous() for name in NAMES}, header))


def read_frames(path: Path, about: dict[str, Any], frame_shape: tuple[int, ...]) -> Frames | None:
    """Read a file of :func:`write_frames`; ``None`` if there is none, or it is damaged or holds something else.

    Args:
        path: of the file.
        about: as it was written.
        frame_shape: ``(T, 2, S, S)``.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            header, frames = file.metadata() or {}, {name: file.get_tensor(name) for name in NAMES}
        known = json.loads(header["about"]) == about
        checksums = json.loads(header["checksums"])
    except (SafetensorError, ValueError, KeyError):
        return None
    fits = all(_fits(frames, split, frame_shape) for split in ("train", "test"))
    return frames if known and fits and checksums == {name: _checksum(frames[name]) for name in NAMES} else None


def _fits(frames: Frames, split: str, frame_shape: tuple[int, ...]) -> bool:
    counts, labels = frames[f"{split}_frames"], frames[f"{split}_labels"]
    shapes = (counts.shape, labels.shape) == ((len(counts), *frame_shape), (len(counts),))
    return shapes and (counts.dtype, labels.dtype) == (torch.uint8, torch.int64)


def _checksum(tensor: torch.Tensor) -> int:
    return zlib.crc32(tensor.contiguous().numpy().data)
