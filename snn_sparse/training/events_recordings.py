"""Recordings of neuromorphic cameras, read through SpikingJelly or tonic, whichever is installed."""

import importlib
import importlib.util
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

Stream = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # t, x, y, p of one recording


@dataclass(frozen=True)
class Recordings:
    """Event streams of one split.

    Attributes:
        names: of the files.
        labels: class indices.
        read: the stream of the i-th recording.
    """

    names: Sequence[str]
    labels: Sequence[int]
    read: Callable[[int], Stream]

    def pick(self, which: Sequence[int]) -> "Recordings":
        """Some of the recordings."""
        names, labels = [self.names[i] for i in which], [self.labels[i] for i in which]
        return replace(self, names=names, labels=labels, read=lambda i: self.read(which[i]))


@dataclass(frozen=True)
class Origin:
    """Where the recordings of a data set come from.

    Attributes:
        title: the data set's name.
        page: where its files can be downloaded by hand.
        spikingjelly: module in ``spikingjelly.datasets``, and its class.
        tonic: class in ``tonic.datasets``.
        has_splits: whether training and test recordings are apart.
    """

    title: str
    page: str
    spikingjelly: tuple[str, str]
    tonic: str
    has_splits: bool = True


def read_recordings(origin: Origin, folder: Path, download: bool) -> tuple[Recordings, Recordings]:
    """Training and test recordings; the first call unpacks and converts the files, which takes minutes.

    Args:
        origin: of which data set.
        folder: where its files lie, in the layout of the library.
        download: whether the library may fetch missing files.

    Raises:
        FileNotFoundError: files are missing; says which, and from where. ValueError: an earlier conversion was cut
            short. ImportError: neither library is installed.
    """
    if importlib.util.find_spec("spikingjelly") is not None:
        read = _from_spikingjelly
    elif importlib.util.find_spec("tonic") is not None:
        read = _from_tonic
    else:
        raise ImportError(
            f"{origin.title} is read through SpikingJelly or tonic: pip install spikingjelly, or 'snn_sparse[events]'"
        )
    if origin.has_splits:
        return read(origin, folder, download, True), read(origin, folder, download, False)
    return split_recordings(read(origin, folder, download, None))


def split_recordings(recordings: Recordings) -> tuple[Recordings, Recordings]:
    """Cut a set that has no splits: of each class the tenth with the lowest numbers in its names is the test set.

    For CIFAR10-DVS these are recordings 0 to 99 of each class, as in TEBN (Duan et al., NeurIPS 2022).
    """
    train: list[int] = []
    test: list[int] = []
    for label in sorted(set(recordings.labels)):
        own = [i for i, other in enumerate(recordings.labels) if other == label]
        own.sort(key=lambda i: _natural(recordings.names[i]))
        test += own[: len(own) // 10]
        train += own[len(own) // 10 :]
    return recordings.pick(train), recordings.pick(test)


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key in which numbers count as numbers: 2 comes before 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _from_spikingjelly(origin: Origin, folder: Path, download: bool, train: bool | None) -> Recordings:
    module, name = origin.spikingjelly
    kind = getattr(importlib.import_module(f"spikingjelly.datasets.{module}"), name)
    if not (folder / "events_np").is_dir():  # SpikingJelly's folder of streams, made of the downloaded files
        _check_downloads(origin, kind, folder, download)
    marker = folder / "events_np.building"
    if marker.exists():
        raise ValueError(
            f"data_dir {folder}: an earlier conversion was cut short: remove {marker.name}, events_np and extract there"
        )
    folder.mkdir(parents=True, exist_ok=True)
    data = kind(str(folder), **({} if train is None else {"train": train}))
    classes = [int(c) if c.isdigit() else i for i, c in enumerate(data.classes)]  # folders "0", "1", "10", "2" ...

    def read(i: int) -> Stream:
        events = data.loader(data.samples[i][0])
        return events["t"], events["x"], events["y"], events["p"]

    return Recordings([Path(path).name for path, _ in data.samples], [classes[c] for _, c in data.samples], read)


def _check_downloads(origin: Origin, kind: Any, folder: Path, download: bool) -> None:
    """Complain about missing or damaged files before SpikingJelly does, which deletes damaged ones."""
    from torchvision.datasets.utils import check_integrity

    if download and kind.downloadable():
        return
    where = folder / "download"
    wrong = [name for name, _, md5 in kind.resource_url_md5() if not check_integrity(str(where / name), md5)]
    if wrong:
        hint = " (--download fetches them)" if kind.downloadable() else ""
        raise FileNotFoundError(
            f"data_dir: {origin.title} needs {', '.join(wrong)} from {origin.page} in {where}; missing or damaged{hint}"
        )


def _from_tonic(origin: Origin, folder: Path, download: bool, train: bool | None) -> Recordings:
    kind = getattr(importlib.import_module("tonic.datasets"), origin.tonic)

    def refuse(data: Any) -> None:
        raise FileNotFoundError(
            f"data_dir: {origin.title} needs {data.filename} from {data.url} in {data.location_on_system}; "
            "missing (--download fetches it)"
        )

    if not download:  # tonic itself always downloads
        kind = type(kind.__name__, (kind,), {"download": refuse})
    data = kind(save_to=str(folder), **({} if train is None else {"train": train}))

    def read(i: int) -> Stream:
        events = data[i][0]
        return events["t"], events["x"], events["y"], events["p"]

    return Recordings([Path(path).name for path in data.data], [int(label) for label in data.targets], read)
