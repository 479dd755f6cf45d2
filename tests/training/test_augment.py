"""Batched augmentation against torchvision's own functions, image by image."""

import pytest
import torch
import torchvision.transforms.functional as TF

from snn_sparse.training.augment import Augmentation, Draws


def images(n=64, c=3, h=9, w=7):
    return torch.randint(1, 256, (n, c, h, w), dtype=torch.uint8)


def test_every_crop_is_a_window_of_the_padded_image_and_all_windows_occur():
    x = images(400, 1, 5, 4)
    out = Augmentation(crop_padding=1)(x, torch.Generator().manual_seed(0))
    seen = set()
    for a, b in zip(x, out, strict=True):
        padded = TF.pad(a, [1])
        matches = [(i, j) for i in range(3) for j in range(3) if torch.equal(TF.crop(padded, i, j, 5, 4), b)]
        assert matches
        seen.update(matches)
    assert len(seen) == 9


def test_flip_mirrors_about_half():
    x = images(300)
    out = Augmentation(flip=True)(x, torch.Generator().manual_seed(0))
    flipped = [torch.equal(b, TF.hflip(a)) for a, b in zip(x, out, strict=True)]
    assert all(f or torch.equal(a, b) for f, a, b in zip(flipped, x, out, strict=True))
    assert 100 < sum(flipped) < 200


def test_cutout_is_a_clipped_square_around_every_centre():
    """Published: rows y - L/2 .. y + L/2 (the last excluded), clipped to the image; the same for columns."""
    x = images(600, 2, 6, 5)
    out = Augmentation(cutout=4)(x, torch.Generator().manual_seed(0))
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
    x, generator = images(), torch.Generator()
    before = generator.get_state()
    assert Augmentation()(x, generator) is x
    assert torch.equal(generator.get_state(), before)


def test_numbers_of_several_batches_are_drawn_a_batch_at_a_time():
    augment, generator = Augmentation(crop_padding=2, flip=True, cutout=4), torch.Generator().manual_seed(5)
    together = augment.draw((3, 1, 7), 9, 6, torch.Generator().manual_seed(5))
    parts = [augment.draw((n,), 9, 6, generator) for n in (3, 1, 7)]
    assert torch.equal(together.values, torch.cat([part.values for part in parts], 1))
    x = images(11, 2, 9, 6)
    expected = torch.cat([part.apply(x[a:b]) for a, b, part in zip((0, 3, 4), (3, 4, 11), parts, strict=True)])
    assert torch.equal(together.apply(x), expected)
    assert torch.equal(together[3:4].apply(x[3:4]), parts[1].apply(x[3:4]))


def test_wrong_arguments():
    for name in ("crop_padding", "cutout"):
        with pytest.raises(ValueError, match=f"^{name} must not be negative"):
            Augmentation(**{name: -1})
    for wrong, error in ((torch.zeros(5, 3), TypeError), (torch.zeros(4, 3).int(), ValueError)):
        with pytest.raises(error, match=r"^values must"):
            Draws(wrong, Augmentation())


def test_all_frames_of_a_sequence_change_alike():
    augment, x = Augmentation(crop_padding=2, flip=True, cutout=3), images(20, 6)
    expected = augment(x, torch.Generator().manual_seed(6))
    found = augment(x.unflatten(1, (3, 2)), torch.Generator().manual_seed(6))
    assert torch.equal(found, expected.unflatten(1, (3, 2)))
