"""Any folder of images, one sub-folder a class, as a data set."""

from pathlib import Path

import torch

from snn_sparse.training.augment import Augmentation
from snn_sparse.training.data import Dataset, ImageSet


def load_image_folder(root: Path, image_size: int) -> Dataset:
    """Read ``root/train/CLASS/*`` and ``root/test/CLASS/*`` (or ``val``), resized and centre-cropped to squares.

    Mean and deviation are those of the training images; augmentation: crop with padding of an eighth, and flip.

    Raises:
        FileNotFoundError: a split is missing. ValueError: no images, or the splits have different classes.
    """
    if image_size < 1:
        raise ValueError(f"image_size must be at least 1, got {image_size}")
    test_root = next((root / n for n in ("test", "val") if (root / n).is_dir()), root / "test")
    for folder in (root / "train", test_root):
        if not folder.is_dir():
            raise FileNotFoundError(f"data_dir {root} is no image folder: {folder} does not exist")
    train_images, train_labels, classes = _read(root / "train", image_size)
    test_images, test_labels, test_classes = _read(test_root, image_size)
    if classes != test_classes:
        raise ValueError(f"data_dir {root}: the classes of train/ and {test_root.name}/ differ")
    mean, std = _statistics(train_images)
    return Dataset(
        root.resolve().name,
        ImageSet(train_images, train_labels, mean, std),
        ImageSet(test_images, test_labels, mean, std),
        len(classes),
        Augmentation(crop_padding=max(1, image_size // 8), flip=True),
    )


def _read(folder: Path, size: int) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    from torchvision.datasets import ImageFolder
    from torchvision.transforms.functional import center_crop, pil_to_tensor, resize

    try:
        data = ImageFolder(str(folder))
    except FileNotFoundError as error:  # torchvision's word for a class folder without a readable image
        raise ValueError(f"data_dir: {folder} holds no images in class folders ({error})") from error
    images = torch.empty(len(data), 3, size, size, dtype=torch.uint8)
    for i, (path, _) in enumerate(data.samples):
        image = data.loader(path)
        if image.size != (size, size):
            image = center_crop(resize(image, size), [size, size])
        images[i] = pil_to_tensor(image)
    return images, torch.tensor(data.targets, dtype=torch.int64), data.classes


def _statistics(images: torch.Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel, in float64, a slice at a time."""
    count, total, square = 0, torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for part in images.split(4096):
        pixels = part.double() / 255
        count += pixels[:, 0].numel()
        total += pixels.sum((0, 2, 3))
        square += pixels.square().sum((0, 2, 3))
    mean = total / count
    std = (square / count - mean.square()).clamp_min(1e-12).sqrt()
    return tuple(mean.tolist()), tuple(std.tolist())
