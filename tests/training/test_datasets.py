"""Loaders on small files in the layouts of torchvision and ImageFolder."""

import gzip
import os
import pickle
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from snn_sparse.training import SOURCES, Augmentation, load_dataset

SHARED = Path(os.environ.get("SNN_SPARSE_DATA", Path(__file__).parents[3] / "shared" / "data"))


def write_idx(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()
    )


def write_mnist(root, name):
    pixels = {}
    for prefix, n in (("train", 12), ("t10k", 5)):
        pixels[prefix] = torch.randint(0, 256, (n, 28, 28)).numpy()
        write_idx(root / name / "raw" / f"{prefix}-images-idx3-ubyte", pixels[prefix])
        write_idx(root / name / "raw" / f"{prefix}-labels-idx1-ubyte", np.arange(n) % 10)
    return pixels


@pytest.mark.parametrize(("dataset", "name"), [("mnist", "MNIST"), ("fmnist", "FashionMNIST")])
@pytest.mark.parametrize("nested", [True, False])
def test_idx_files(tmp_path, dataset, name, nested):
    pixels = write_mnist(tmp_path / dataset if nested else tmp_path, name)
    data = load_dataset(dataset, tmp_path)
    assert data.train.images.shape == (12, 1, 32, 32)
    assert data.test.labels.tolist() == [0, 1, 2, 3, 4]
    expected = Image.fromarray(pixels["train"][3].astype(np.uint8)).resize((32, 32), Image.Resampling.BILINEAR)
    difference = data.train.images[3, 0].int() - torch.tensor(np.asarray(expected)).int()
    assert difference.abs().max() <= 1


def write_cifar10(root):
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        batch = {"data": torch.randint(0, 256, (4, 3072), dtype=torch.uint8).numpy(), "labels": [0, 1, 2, 9]}
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))


def test_cifar10(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *a: True)
    write_cifar10(tmp_path / "cifar10")
    data = load_dataset("cifar10", tmp_path)
    assert data.train.images.shape == (20, 3, 32, 32)
    raw = pickle.loads((tmp_path / "cifar10" / "cifar-10-batches-py" / "test_batch").read_bytes())["data"]
    assert np.array_equal(data.test.images.numpy(), raw.reshape(-1, 3, 32, 32))
    assert (data.augmentation.crop_padding, data.augmentation.flip, data.augmentation.cutout) == (4, True, 16)


def test_published_statistics():
    assert SOURCES["cifar10"].mean == (0.4913, 0.4821, 0.4465)
    assert SOURCES["cifar10"].std == (0.2023, 0.1994, 0.2010)
    assert SOURCES["cifar100"].mean == (0.5071, 0.4867, 0.4408)
    assert SOURCES["cifar100"].std == (0.2673, 0.2564, 0.2762)
    assert (SOURCES["mnist"].mean, SOURCES["mnist"].std) == ((0.1307,), (0.3081,))
    assert SOURCES["fmnist"].mean == SOURCES["fmnist"].std == (0.5,)
    assert SOURCES["svhn"].mean == SOURCES["svhn"].std == (0.5, 0.5, 0.5)
    assert {n: s.num_classes for n, s in SOURCES.items() if s.num_classes != 10} == {"cifar100": 100}
    augmented = {
        n: (s.augmentation.crop_padding, s.augmentation.flip, s.augmentation.cutout) for n, s in SOURCES.items()
    }
    assert augmented["cifar10"] == augmented["cifar100"] == (4, True, 16)
    assert augmented["fmnist"] == augmented["svhn"] == (4, True, 0)
    assert augmented["mnist"] == (4, False, 0)


def test_statistics_of_digits_are_those_of_the_training_images(digits):
    pixels = digits.train.images.double() / 255
    assert digits.train.mean == digits.test.mean == pytest.approx((pixels.mean().item(),), abs=1e-3)
    assert digits.train.std == digits.test.std == pytest.approx((pixels.std().item(),), abs=1e-3)
    assert (digits.train.images.max(), digits.train.images.min()) == (255, 0)


def write_folder(root, splits=("train", "test"), classes=("cat", "dog"), size=(20, 14)):
    for split in splits:
        for k, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for i in range(3):
                pixels = np.full((*size[::-1], 3), 40 * i + 100 * k, dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")


@pytest.mark.parametrize("second", ["test", "val"])
def test_image_folder(tmp_path, second):
    write_folder(tmp_path / "pets", ("train", second))
    data = load_dataset("imagefolder", tmp_path / "pets", image_size=16)
    assert data.name == "pets"
    assert data.num_classes == 2
    assert data.train.images.shape == data.test.images.shape == (6, 3, 16, 16)
    assert sorted(data.train.images[:, 0, 0, 0].tolist()) == [0, 40, 80, 100, 140, 180]
    pixels = data.train.images.double() / 255
    assert data.train.mean == pytest.approx([pixels[:, c].mean().item() for c in range(3)])
    assert data.train.std == pytest.approx([pixels[:, c].std(correction=0).item() for c in range(3)])


@pytest.mark.parametrize(("size", "shape"), [(8, (8, 24)), (16, (48, 16)), (4, (8, 8))])
def test_images_of_a_folder_are_scaled_to_the_shorter_side_and_cropped_in_the_middle(tmp_path, size, shape):
    """The middle square is bright, the rest dark."""
    pixels = np.zeros((*shape, 3), dtype=np.uint8)
    side = min(shape)
    top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
    pixels[top : top + side, left : left + side] = 200
    for split in ("train", "test"):
        (tmp_path / split / "one").mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / split / "one" / "a.png")
    data = load_dataset("imagefolder", tmp_path, image_size=size)
    assert data.train.images.shape == (1, 3, size, size)
    assert torch.equal(data.train.images, torch.full((1, 3, size, size), 200, dtype=torch.uint8))
    assert data.augmentation == Augmentation(crop_padding={4: 1, 8: 1, 16: 2}[size], flip=True)


def test_digits_are_split_evenly(digits):
    assert (len(digits.train), len(digits.test)) == (1437, 360)
    assert digits.in_channels == 1
    assert torch.bincount(digits.test.labels).min() >= 35
    together = {t.numpy().tobytes() for t in digits.train.images} & {t.numpy().tobytes() for t in digits.test.images}
    assert len(together) <= 1  # the set itself holds a few equal images
    again = load_dataset("digits")
    assert torch.equal(again.train.images, digits.train.images)


def test_missing_and_wrong(tmp_path):
    with pytest.raises(ValueError, match="unknown dataset 'imagenet'"):
        load_dataset("imagenet")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_dataset("cifar10", tmp_path / "none")
    for name in ("mnist", "fmnist", "svhn", "cifar10", "cifar100"):
        with pytest.raises(FileNotFoundError, match="holds no"):
            load_dataset(name, tmp_path)
    with pytest.raises(FileNotFoundError, match="train does not exist"):
        load_dataset("imagefolder", tmp_path)
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    with pytest.raises(ValueError, match="no images"):
        load_dataset("imagefolder", tmp_path)
    write_folder(tmp_path / "a", ("train",))
    write_folder(tmp_path / "a", ("test",), ("cat", "fox"))
    with pytest.raises(ValueError, match="classes"):
        load_dataset("imagefolder", tmp_path / "a")
    with pytest.raises(ValueError, match="image_size"):
        load_dataset("imagefolder", tmp_path / "a", image_size=0)


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "FashionMNIST").is_dir(), reason="the real files are not beside this checkout")
def test_real_fashion_mnist(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for packed in (SHARED / "FashionMNIST" / "raw").glob("*.gz"):
        with gzip.open(packed) as source, open(raw / packed.stem, "wb") as target:
            shutil.copyfileobj(source, target)
    data = load_dataset("fmnist", tmp_path)
    assert data.train.images.shape == (60000, 1, 32, 32)
    assert torch.bincount(data.train.labels).tolist() == [6000] * 10
    assert torch.bincount(data.test.labels).tolist() == [1000] * 10
