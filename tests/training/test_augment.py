"""Batched augmentation against torchvision's own functions, image by image."""

import pytest
import torch
import torchvision.transforms.functional as TF

from snn_sparse.training.augment import Augmentation, random_crop, random_cutout, random_flip


def images(n=64, c=3, h=9, w=7):
    return torch.randint(1, 256, (n, c, h, w), dtype=torch.uint8)


def test_every_crop_is_a_window_of_the_padded_image_and_all_windows_occur():
    x = images(400, 1, 5, 4)
    out = random_crop(x, 1, torch.Generator().manual_seed(0))
    seen = set()
    for a, b in zip(x, out, strict=True):
        padded = TF.pad(a, [1])
        matches = [(i, j) for i in range(3) for j in range(3) if torch.equal(TF.crop(padded, i, j, 5, 4), b)]
        assert matches
        seen.update(matches)
    assert len(seen) == 9


def test_flip_mirrors_about_half():
    x = images(300)
    out = random_flip(x, torch.Generator().manual_seed(0))
    flipped = [torch.equal(b, TF.hflip(a)) for a, b in zip(x, out, strict=True)]
    assert all(f or torch.equal(a, b) for f, a, b in zip(flipped, x, out, strict=True))
    assert 100 < sum(flipped) < 200


def test_cutout_is_a_clipped_square_around_every_centre():
    """Published: rows y - L/2 .. y + L/2 (the last excluded), clipped to the image; the same for columns."""
    x = images(600, 2, 6, 5)
    out = random_cutout(x, 4, torch.Generator().manual_seed(0))
    centres = set()
    for a, b in zip(x, out, strict=True):
        found = []
        for y in range(6):
            for c in range(5):
                expected = a.clone()
                expected[:, max(0, y - 2) : min(6, y + 2), max(0, c - 2) : min(5, c + 2)] = 0
                if torch.equal(expected, b):
                    found.append((y, c))
        assert found
        centres.update(found)
    assert len(centres) == 30


def test_same_generator_state_same_images():
    augment = Augmentation(crop_padding=2, flip=True, cutout=4)
    x = images()
    a, b = (augment(x, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(a, b)
    assert a.dtype == torch.uint8
    assert not torch.equal(a, augment(x, torch.Generator().manual_seed(4)))


def test_nothing_to_do():
    x = images()
    assert Augmentation()(x, torch.Generator()) is x


def test_wrong_arguments():
    with pytest.raises(ValueError, match="crop_padding"):
        Augmentation(crop_padding=-1)
