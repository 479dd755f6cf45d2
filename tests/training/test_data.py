"""Batches of an image set: which images, in which order and form, by which random numbers."""

import functools
import random

import pytest
import torch
import torch.nn.functional as F

from snn_sparse.training.augment import Augmentation
from snn_sparse.training.data import Dataset, ImageSet, batch_bounds


def image_set(n=23):
    return ImageSet(
        torch.randint(0, 256, (n, 2, 4, 4), dtype=torch.uint8), torch.arange(n), mean=(0.2, 0.4), std=(0.5, 0.25)
    )


def test_normalise_is_torchvision_to_tensor_and_normalize():
    from torchvision.transforms import Normalize

    data = image_set()
    expected = torch.stack([Normalize(data.mean, data.std)(image / 255) for image in data.images])
    torch.testing.assert_close(data.normalise(data.images), expected)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 11, 22, 23, 100])
def test_batches_cover_every_image_once(batch_size):
    data = image_set()
    for generator in (None, torch.Generator().manual_seed(1)):
        parts = list(data.batches(batch_size, generator=generator))
        labels = torch.cat([y for _, y in parts])
        assert sorted(labels.tolist()) == list(range(23))
        assert (labels.tolist() == list(range(23))) == (generator is None)
        for x, y in parts:
            assert torch.equal(x, data.normalise(data.images[y]))
        if batch_size > 1:
            assert min(len(y) for _, y in parts) > 1


def test_a_remainder_of_one_joins_the_batch_before():
    assert batch_bounds(23, 11) == [slice(0, 11), slice(11, 23)]
    assert batch_bounds(1, 5) == [slice(0, 1)]
    assert batch_bounds(3, 1) == [slice(0, 1), slice(1, 2), slice(2, 3)]
    with pytest.raises(ValueError, match="batch_size"):
        batch_bounds(5, 0)


def test_moving_a_data_set_changes_nothing_else():
    data = Dataset("mine", image_set(5), image_set(3), 7, Augmentation(flip=True))
    for moved in (data.to("cpu"), data.to("meta")):
        assert (moved.name, moved.num_classes, moved.augmentation) == (data.name, 7, data.augmentation)
        assert (len(moved.train), len(moved.test), moved.in_channels) == (5, 3, 2)
        assert (moved.test.mean, moved.test.std) == (data.test.mean, data.test.std)
    assert torch.equal(data.to("cpu").train.images, data.train.images)
    assert moved.train.images.device == moved.test.labels.device == torch.device("meta")


def test_augmentation_only_with_a_generator():
    data = image_set()
    augment = Augmentation(flip=True)
    plain = torch.cat([x for x, _ in data.batches(8, augmentation=augment)])
    assert torch.equal(plain, data.normalise(data.images))


def drawn_batch_by_batch(data, batch_size, augmentation, generator):
    """The images in the order of drawing that seeds stand for: each batch's numbers just before its images."""
    _, _, height, width = data.images.shape
    order = torch.randperm(len(data), generator=generator)
    for part in batch_bounds(len(data), batch_size):
        images = list(data.images[order[part]])
        draw = functools.partial(torch.randint, size=(len(images),), generator=generator)
        if augmentation.flip:
            images = [x.flip(-1) if flipped else x for x, flipped in zip(images, draw(2), strict=True)]
        if p := augmentation.crop_padding:
            windows = zip(images, draw(2 * p + 1), draw(2 * p + 1), strict=True)
            images = [F.pad(x, (p,) * 4)[:, i : i + height, j : j + width] for x, i, j in windows]
        if half := augmentation.cutout // 2:
            images = [x.clone() for x in images]
            for x, i, j in zip(images, draw(height), draw(width), strict=True):
                x[:, max(0, i - half) : i + half, max(0, j - half) : j + half] = 0
        yield data.normalise(torch.stack(images))


@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(),
        Augmentation(flip=True),
        Augmentation(crop_padding=2),
        Augmentation(cutout=2),
        Augmentation(flip=True, crop_padding=1, cutout=3),
    ],
    ids=str,
)
@pytest.mark.parametrize("batch_size", [4, 11, 100])
def test_a_seed_gives_the_batches_that_it_always_gave(augmentation, batch_size):
    data, seed = image_set(), int(torch.randint(1000, ()))
    expected = drawn_batch_by_batch(data, batch_size, augmentation, torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(seed)
    for (found, _), images in zip(
        data.batches(batch_size, augmentation=augmentation, generator=generator), expected, strict=True
    ):
        assert torch.equal(found, images)


AUGMENTED = Augmentation(flip=True, crop_padding=1, cutout=3)


def drawn(data, batch_size, generator, **part):
    return list(data.batches(batch_size, augmentation=AUGMENTED, generator=generator, **part))


@pytest.mark.parametrize("batch_size", [1, 5, 11, 100])
def test_batches_from_a_later_one_on_are_as_if_the_first_had_been_taken(batch_size):
    data, seed = image_set(), random.randrange(1000)
    whole_generator = torch.Generator().manual_seed(seed)
    whole = drawn(data, batch_size, whole_generator)
    for start in (0, 1, random.randint(1, len(whole)), len(whole), len(whole) + 3):
        generator = torch.Generator().manual_seed(seed)
        rest = drawn(data, batch_size, generator, start=start)
        assert len(rest) == max(0, len(whole) - start)
        for (x, y), (expected, labels) in zip(rest, whole[start:], strict=True):
            assert torch.equal(x, expected)
            assert torch.equal(y, labels)
        assert torch.equal(generator.get_state(), whole_generator.get_state())
    assert [y.tolist() for _, y in data.batches(batch_size, start=1)] == [
        list(range(23))[part] for part in batch_bounds(23, batch_size)[1:]
    ]


@pytest.mark.parametrize("batch_size", [1, 4, 11, 100])
@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_shards_of_a_batch_are_the_batch_in_contiguous_pieces_larger_ones_first(batch_size, world):
    data, seed = image_set(), random.randrange(1000)
    whole, *ranks = (
        drawn(data, batch_size, torch.Generator().manual_seed(seed), **part)
        for part in ({}, *({"shard": (rank, world)} for rank in range(world)))
    )
    for (x, y), *pieces in zip(whole, *ranks, strict=True):
        assert torch.equal(torch.cat([images for images, _ in pieces]), x)
        assert torch.equal(torch.cat([labels for _, labels in pieces]), y)
        sizes = [len(labels) for _, labels in pieces]
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[0] - sizes[-1] <= 1
    later = drawn(data, batch_size, torch.Generator().manual_seed(seed), start=1, shard=(world - 1, world))
    for (x, y), (expected, labels) in zip(later, ranks[-1][1:], strict=True):
        assert torch.equal(x, expected)
        assert torch.equal(y, labels)


def test_wrong_start_and_shard():
    with pytest.raises(ValueError, match=r"^start must not be negative, got -1"):
        next(image_set().batches(4, start=-1))
    for shard in ((1, 1), (-1, 2), (0, 0), (3, 2)):
        with pytest.raises(ValueError, match=r"^shard must be"):
            next(image_set().batches(4, shard=shard))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("augmentation", [None, Augmentation(flip=True, crop_padding=1)])
def test_form_of_the_images(dtype, memory_format, augmentation):
    data = image_set()

    def batches(**form):
        return data.batches(9, augmentation=augmentation, generator=torch.Generator().manual_seed(3), **form)

    for (found, y), (plain, labels) in zip(batches(dtype=dtype, memory_format=memory_format), batches(), strict=True):
        assert found.is_contiguous(memory_format=memory_format)
        assert plain.is_contiguous()
        assert plain.dtype == torch.float32
        assert found.dtype == dtype
        assert torch.equal(found, plain.to(dtype))
        assert torch.equal(y, labels)
    with pytest.raises(TypeError, match="dtype"):
        next(batches(dtype=torch.float64))
    with pytest.raises(ValueError, match="memory_format"):
        next(batches(memory_format=torch.preserve_format))


@pytest.mark.parametrize(
    ("images", "labels", "mean", "named"),
    [
        (torch.zeros(3, 1, 2, 2), torch.zeros(3).long(), (0.0,), "images"),
        (torch.zeros(3, 0, 1, 2, 2, dtype=torch.uint8), torch.zeros(3).long(), (0.0,), "images"),
        (torch.zeros(3, 2, 2, dtype=torch.uint8), torch.zeros(3).long(), (0.0,), "images"),
        (torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.zeros(2).long(), (0.0,), "labels"),
        (torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.zeros(3), (0.0,), "labels"),
        (torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.zeros(3).long(), (0.0, 0.0), "mean"),
    ],
)
def test_wrong_arguments(images, labels, mean, named):
    with pytest.raises(ValueError, match=named):
        ImageSet(images, labels, mean, mean)


def sequences(n=13, timesteps=4):
    frames = torch.randint(0, 256, (n, timesteps, 2, 6, 5), dtype=torch.uint8)
    return ImageSet(frames, torch.arange(n), mean=(0.0, 0.0), std=(3 / 255, 0.5 / 255))


def test_sequences_come_time_first_as_counts_over_their_scale():
    data = sequences()
    assert data.timesteps == 4
    expected = data.images.transpose(0, 1) / torch.tensor([3, 0.5])[:, None, None]
    torch.testing.assert_close(data.normalise(data.images), expected)
    torch.testing.assert_close(torch.cat([x for x, _ in data.batches(5)], 1), expected)
    assert image_set().timesteps is None


@pytest.mark.parametrize("timesteps", [1, 3, 4, None])
def test_all_frames_of_a_sequence_change_as_one_image_of_the_same_numbers_would(timesteps):
    """Each frame on its own, as an image of the same set: the same order, the same windows, flips and squares."""
    data, seed = sequences(), random.randrange(1000)
    found = drawn(data, 5, torch.Generator().manual_seed(seed), timesteps=timesteps, start=1, shard=(1, 2))
    for t in range(timesteps or 4):
        still = ImageSet(data.images[:, t], data.labels, data.mean, data.std)
        frames = drawn(still, 5, torch.Generator().manual_seed(seed), start=1, shard=(1, 2))
        for (x, y), (frame, labels) in zip(found, frames, strict=True):
            assert x.shape[0] == (timesteps or 4)
            assert torch.equal(x[t], frame)
            assert torch.equal(y, labels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_format_of_a_sequence_is_that_of_its_frames(dtype):
    data = sequences()
    for memory_format in (torch.contiguous_format, torch.channels_last):
        for (x, _), (plain, _) in zip(
            data.batches(5, dtype=dtype, memory_format=memory_format), data.batches(5), strict=True
        ):
            assert torch.equal(x, plain.to(dtype))
            assert x.flatten(0, 1).is_contiguous(memory_format=memory_format)


def test_images_have_no_frames_to_leave_out():
    data = image_set()
    for (x, _), (plain, _) in zip(data.batches(9, timesteps=3), data.batches(9), strict=True):
        assert torch.equal(x, plain)


@pytest.mark.parametrize("timesteps", [0, -1, 5])
def test_wrong_timesteps(timesteps):
    with pytest.raises(ValueError, match=r"^timesteps must be between 1 and the data's 4"):
        next(sequences().batches(5, timesteps=timesteps))


def test_a_data_set_of_sequences():
    data = Dataset("mine", sequences(6), sequences(3), 6)
    assert (data.timesteps, data.in_channels) == (4, 2)
    assert Dataset("mine", image_set(6), image_set(3), 6).timesteps is None
    for train, test in ((sequences(6), sequences(3, 5)), (sequences(6), image_set(3))):
        with pytest.raises(ValueError, match=r"^train and test must have the same T"):
            Dataset("mine", train, test, 6)


def test_labels_are_classes():
    low = ImageSet(image_set(3).images, torch.tensor([0, -1, 1]), (0.0, 0.0), (1.0, 1.0))
    for train, test, split in ((image_set(5), image_set(3), "train"), (image_set(3), low, "test")):
        with pytest.raises(ValueError, match=rf"^labels of {split} must lie between 0 and num_classes - 1 = 3"):
            Dataset("mine", train, test, 4)
