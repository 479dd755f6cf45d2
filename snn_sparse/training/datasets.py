"""The data sets by name: scikit-learn's digits, torchvision's, event streams, and any folder of images."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from snn_sparse.training.augment import Augmentation
from snn_sparse.training.data import Dataset, ImageSet
from snn_sparse.training.events_sets import EVENT_SOURCES, load_events

Pixels = tuple[torch.Tensor, torch.Tensor]  # uint8 [M, C, H, W] and int64 [M]


@dataclass(frozen=True)
class Source:
    """How a data set is read and prepared; means, deviations and augmentation as published where there are any."""

    load: Callable[[Path, bool, bool], Pixels]
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation
    size: int | None = None  # side that smaller images are resized to
    needs_files: bool = True


def _digits(_root: Path, train: bool, _download: bool) -> Pixels:
    """1797 images of 8x8 pixels that ship with scikit-learn; a fixed split of 1437 and 360, even over the classes."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images, labels, test_size=360, random_state=0, stratify=labels)
    pixels, y = (parts[0], parts[2]) if train else (parts[1], parts[3])
    pixels = np.clip(np.rint(pixels * (255 / 16)), 0, 255).astype(np.uint8).reshape(-1, 1, 8, 8)
    return torch.from_numpy(pixels), torch.from_numpy(y.astype(np.int64))


def _torchvision(class_name: str, folder: str) -> Callable[[Path, bool, bool], Pixels]:
    def load(root: Path, train: bool, download: bool) -> Pixels:
        import torchvision

        kind = getattr(torchvision.datasets, class_name)
        split: dict[str, Any] = {"split": "train" if train else "test"} if class_name == "SVHN" else {"train": train}
        roots = [root / folder, root]  # the published scripts' layout, then torchvision's own
        for candidate in roots:
            try:
                data = kind(str(candidate), download=False, **split)
                break
            except RuntimeError:  # "Dataset not found": torchvision's word for missing or damaged files
                continue
        else:
            if not download:
                raise FileNotFoundError(
                    f"data_dir {root} holds no {class_name} files: --download fetches them, or name another data_dir"
                )
            data = kind(str(roots[0]), download=True, **split)
        return _as_pixels(data.data), torch.as_tensor(data.labels if class_name == "SVHN" else data.targets).long()

    return load


def _as_pixels(images: Any) -> torch.Tensor:
    """[M, H, W], [M, H, W, C] or SVHN's [M, C, H, W] -> [M, C, H, W]."""
    pixels = torch.as_tensor(images)
    if pixels.dim() == 3:
        pixels = pixels[:, None]
    elif pixels.shape[-1] == 3:
        pixels = pixels.permute(0, 3, 1, 2)
    return pixels.contiguous()


_CIFAR = Augmentation(crop_padding=4, flip=True, cutout=16)

SOURCES: dict[str, Source] = {
    "digits": Source(_digits, 10, (0.305,), (0.376,), Augmentation(crop_padding=1), needs_files=False),
    "mnist": Source(_torchvision("MNIST", "mnist"), 10, (0.1307,), (0.3081,), Augmentation(crop_padding=4), size=32),
    "fmnist": Source(
        _torchvision("FashionMNIST", "fmnist"), 10, (0.5,), (0.5,), Augmentation(crop_padding=4, flip=True), size=32
    ),
    "svhn": Source(_torchvision("SVHN", "svhn"), 10, (0.5,) * 3, (0.5,) * 3, Augmentation(crop_padding=4, flip=True)),
    "cifar10": Source(
        _torchvision("CIFAR10", "cifar10"), 10, (0.4913, 0.4821, 0.4465), (0.2023, 0.1994, 0.2010), _CIFAR
    ),
    "cifar100": Source(
        _torchvision("CIFAR100", "cifar100"), 100, (0.5071, 0.4867, 0.4408), (0.2673, 0.2564, 0.2762), _CIFAR
    ),
}


IMAGE_FOLDER_SIZE = 32  # side in pixels, if nobody says another
DATASETS = (*SOURCES, *EVENT_SOURCES, "imagefolder")


def load_dataset(
    name: str,
    data_dir: str | Path = "dataset",
    *,
    download: bool = False,
    image_size: int | None = None,
    timesteps: int | None = None,
    split_by: str = "number",
) -> Dataset:
    """Read a data set into memory, decoded and resized once; events are counted in frames once, and kept on disk.

    Args:
        name: one of :data:`DATASETS`: :data:`SOURCES` are images,
            :data:`~snn_sparse.training.events_sets.EVENT_SOURCES` event streams, and ``imagefolder`` is a folder
            ``data_dir`` with ``train/CLASS/*`` and ``test/CLASS/*`` (or ``val/CLASS/*``).
        data_dir: where the files lie; ``digits`` and ``events`` need none.
        download: whether torchvision, or the library that reads the recordings, may fetch missing files.
        image_size: side in pixels that the images of a folder are resized and centre-cropped to (32 if left out), and
            that of frames (as :func:`~snn_sparse.training.events_sets.load_events` says). Other sets have their own.
        timesteps: T, the frames that each event stream is counted in. Images have none: a network repeats them.
        split_by: how an event stream is cut into T: ``number`` of events, or ``time``.

    Raises:
        ValueError: unknown name, a number out of range, event streams without ``timesteps``, or a folder without
            images. FileNotFoundError: missing directory or files. ImportError: no library that reads recordings.
    """
    root = Path(data_dir)
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size must be at least 1, got {image_size}")
    if name in EVENT_SOURCES:
        if timesteps is None:
            raise ValueError(f"timesteps must be given for {name}: into how many frames its events are counted")
        return load_events(name, root, timesteps, image_size=image_size, split_by=split_by, download=download)
    if name == "imagefolder":
        from snn_sparse.training.image_folder import load_image_folder

        return load_image_folder(root, IMAGE_FOLDER_SIZE if image_size is None else image_size)
    if name not in SOURCES:
        raise ValueError(f"unknown dataset {name!r}: choose from {', '.join(DATASETS)}")
    return _load_images(name, root, download)


def _load_images(name: str, root: Path, download: bool) -> Dataset:
    source = SOURCES[name]
    if source.needs_files and not root.is_dir() and not download:
        raise FileNotFoundError(
            f"data_dir {root} does not exist: --download fetches the data, or name another data_dir"
        )
    splits = []
    for train in (True, False):
        images, labels = source.load(root, train, download)
        splits.append(ImageSet(_resize(images, source.size), labels, source.mean, source.std))
    return Dataset(name, splits[0], splits[1], source.num_classes, source.augmentation)


def _resize(images: torch.Tensor, size: int | None) -> torch.Tensor:
    if size is None or images.shape[-1] == size:
        return images
    from torchvision.transforms.v2.functional import resize

    return torch.cat([resize(part, [size, size], antialias=True) for part in images.split(4096)])
