import pytest
import torch

from snn_sparse.training.augment import Augmentation
from snn_sparse.training.data import ImageSet, batch_bounds


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


def test_augmentation_only_with_a_generator():
    data = image_set()
    augment = Augmentation(flip=True)
    plain = torch.cat([x for x, _ in data.batches(8, augmentation=augment)])
    assert torch.equal(plain, data.normalise(data.images))


@pytest.mark.parametrize(
    ("images", "labels", "mean", "named"),
    [
        (torch.zeros(3, 1, 2, 2), torch.zeros(3).long(), (0.0,), "images"),
        (torch.zeros(3, 2, 2, dtype=torch.uint8), torch.zeros(3).long(), (0.0,), "images"),
        (torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.zeros(2).long(), (0.0,), "labels"),
        (torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.zeros(3), (0.0,), "labels"),
        (torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.zeros(3).long(), (0.0, 0.0), "mean"),
    ],
)
def test_wrong_arguments(images, labels, mean, named):
    with pytest.raises(ValueError, match=named):
        ImageSet(images, labels, mean, mean)
