"""Batches of a uint8 image set, in Triton's interpreter: the same numbers as plain PyTorch, to the last bit."""

import itertools

import pytest
import torch

from snn_sparse.kernels import augment
from snn_sparse.kernels.launch import recording
from snn_sparse.ops.image_batch import Draws, channel_statistics, image_batch, reference
from snn_sparse.training import Augmentation, ImageSet

pytestmark = pytest.mark.usefixtures("poison")
AUGMENTATIONS = {
    "flip": {"flip": True},
    "crop": {"crop_padding": 2},
    "wide crop": {"crop_padding": 9},
    "cutout": {"cutout": 4},
    "odd cutout": {"cutout": 3},
    "wide cutout": {"cutout": 40},
    "all": {"flip": True, "crop_padding": 1, "cutout": 4},
}
FORMATS = [torch.contiguous_format, torch.channels_last]


def image_set(shape):
    mean, std = torch.rand(shape[1]).tolist(), torch.rand(shape[1]).add(0.2).tolist()
    return torch.randint(0, 256, shape, dtype=torch.uint8), tuple(mean), tuple(std)


def draw(n, height, width, **settings):
    return Augmentation(**settings).draw(
        (n,), height, width, torch.Generator().manual_seed(torch.randint(99, ()).item())
    )


def assert_same(found, expected, memory_format):
    assert found.dtype == expected.dtype
    assert found.is_contiguous(memory_format=memory_format)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("settings", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_augmented(settings, memory_format, channels, dtype):
    height, width = torch.randint(3, 12, (2,)).tolist()
    images, mean, std = image_set((7, channels, height, width))
    index = torch.randperm(7)[:4]
    form = {"dtype": dtype, "memory_format": memory_format}
    draws = draw(4, height, width, **settings)
    found = image_batch(images, index, mean, std, draws, **form)
    assert_same(found, reference(images, index, mean, std, draws, **form), memory_format)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("draws", [None, Draws(torch.full((5, 5), 7, dtype=torch.int32))])
def test_nothing_to_augment(draws, memory_format, channels, dtype):
    images, mean, std = image_set((4, channels, 5, 7))
    index = torch.tensor([3, 0, 0, 1, 3], dtype=torch.int32)
    found = image_batch(images, index, mean, std, draws, dtype=dtype, memory_format=memory_format)
    expected = reference(images, index, mean, std, dtype=dtype, memory_format=memory_format)
    assert_same(found, expected, memory_format)


def test_every_window_square_and_mirror():
    """All numbers that can be drawn for a 3x4 image, a 2x2 square and one pixel of padding, by hand."""
    images, mean, std = image_set((1, 1, 3, 4))
    cases = torch.tensor(list(itertools.product(range(2), range(3), range(3), range(3), range(4))))
    for some in cases[torch.randperm(len(cases))[:40]].split(20):
        draws = Draws(some.T.to(torch.int32), flip=True, crop_padding=1, cutout=2)
        found = image_batch(images, torch.zeros(len(some), dtype=torch.int64), mean, std, draws)
        for (flipped, row, column, y, x), batch in zip(some.tolist(), found, strict=True):
            pixels = torch.zeros(5, 6)
            pixels[1:4, 1:5] = images[0, 0].flip(-1) if flipped else images[0, 0]
            pixels = pixels[row : row + 3, column : column + 4].clone()
            pixels[max(0, y - 1) : y + 1, max(0, x - 1) : x + 1] = 0
            torch.testing.assert_close(batch[0], (pixels / 255 - mean[0]) / std[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("memory_format", FORMATS)
def test_images_larger_than_a_program(memory_format, monkeypatch):
    monkeypatch.setattr(augment, "_ELEMENTS", 64)
    images, mean, std = image_set((3, 3, 9, 7))
    index, draws = torch.tensor([2, 1]), draw(2, 9, 7, **AUGMENTATIONS["all"])
    found = image_batch(images, index, mean, std, draws, memory_format=memory_format)
    assert_same(found, reference(images, index, mean, std, draws, memory_format=memory_format), memory_format)


def test_strided_arguments():
    images, mean, std = image_set((6, 9, 7, 3))
    images, mean, std = images.permute(0, 3, 1, 2)[::2, 1:, ::2], mean[:2], std[:2]
    index = torch.tensor([2, 9, 0, 9, 1, 9])[::2]
    draws = draw(9, 5, 7, **AUGMENTATIONS["all"])
    for some in (draws[4:7], Draws(draws.values[:, ::3], draws.flip, draws.crop_padding, draws.cutout)):
        found = image_batch(images, index, mean, std, some)
        assert_same(found, reference(images, index, mean, std, some), torch.contiguous_format)


def test_batches_of_an_image_set():
    images, mean, std = image_set((9, 3, 6, 5))
    data, augmentation = ImageSet(images, torch.arange(9), mean, std), Augmentation(**AUGMENTATIONS["all"])
    generator = torch.Generator().manual_seed(1)
    order = torch.randperm(9, generator=generator)
    found = list(data.batches(4, augmentation=augmentation, generator=torch.Generator().manual_seed(1)))
    for (x, y), labels in zip(found, (order[:4], order[4:]), strict=True):
        assert torch.equal(y, labels)
        assert torch.equal(x, data.normalise(augmentation(images[y], generator)))
    assert torch.equal(torch.cat([x for x, _ in data.batches(4)]), data.normalise(images))


def test_no_images():
    images, mean, std = image_set((3, 2, 4, 4))
    empty = torch.zeros(0, dtype=torch.int64)
    assert image_batch(images, empty, mean, std, draw(0, 4, 4, flip=True)).shape == (0, 2, 4, 4)


def test_one_launch_a_batch_without_memory():
    images, index = torch.empty(50, 3, 32, 32, dtype=torch.uint8, device="meta"), torch.empty(7, device="meta").long()
    statistics = channel_statistics((0.5,) * 3, (0.2,) * 3, images.device)
    values = torch.empty(5, 50, dtype=torch.int32, device="meta")[:, 7:14]
    with recording() as launches:
        batch = augment.image_batch(images, index, statistics, values, flip=True, dtype=torch.bfloat16)
    assert (batch.shape, batch.dtype, batch.device.type) == ((7, 3, 32, 32), torch.bfloat16, "meta")
    assert batch.is_contiguous()
    assert len(launches) == 1
    assert launches[0].programs == 7 * 3
    assert launches[0].arguments["draws"] is values


def test_errors():
    too_large = torch.zeros(1, dtype=torch.uint8).expand(1, 2, 32768, 32768)
    with pytest.raises(ValueError, match="images of 2x32768x32768 are too large"):
        image_batch(too_large, torch.tensor([0]), (0.0,) * 2, (1.0,) * 2)
