"""Augmentation of a whole batch at once, on the device where it lives: crop, flip, cutout."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Augmentation:
    """What happens to a training image (uint8 pixels, before normalisation).

    Args:
        crop_padding: zero pixels on each side, of which a random window of the old size is cut; 0: no crop.
        flip: mirror left and right with probability 1/2.
        cutout: side of a square set to zero, centred anywhere in the image and clipped at its border; 0: none
            (DeVries and Taylor, 2017).
    """

    crop_padding: int = 0
    flip: bool = False
    cutout: int = 0

    def __post_init__(self) -> None:
        for name in ("crop_padding", "cutout"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")

    def __call__(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Augment ``[N, C, H, W]``; random numbers come from ``generator``, which lives on the CPU."""
        if self.flip:
            images = random_flip(images, generator)
        if self.crop_padding:
            images = random_crop(images, self.crop_padding, generator)
        if self.cutout:
            images = random_cutout(images, self.cutout, generator)
        return images


def _draw(high: int, n: int, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """N integers in [0, high): drawn on the CPU, so that every device sees the same augmentation."""
    return torch.randint(high, (n,), generator=generator).to(images.device)


def random_flip(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mirror each image with probability 1/2."""
    flip = _draw(2, len(images), images, generator).bool()
    return torch.where(flip.view(-1, 1, 1, 1), images.flip(-1), images)


def random_crop(images: torch.Tensor, padding: int, generator: torch.Generator) -> torch.Tensor:
    """Pad by zeros and cut a random window of the old size out of each image."""
    n, _, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    rows = _draw(2 * padding + 1, n, images, generator)[:, None] + torch.arange(height, device=images.device)
    cols = _draw(2 * padding + 1, n, images, generator)[:, None] + torch.arange(width, device=images.device)
    sample = torch.arange(n, device=images.device)
    # advanced indices around a slice put their axes first: [N, H, W, C]
    return padded[sample[:, None, None], :, rows[:, :, None], cols[:, None, :]].permute(0, 3, 1, 2)


def random_cutout(images: torch.Tensor, side: int, generator: torch.Generator) -> torch.Tensor:
    """Zero a square of ``side`` pixels around a random centre in each image."""
    n, _, height, width = images.shape
    y = _draw(height, n, images, generator)[:, None] - torch.arange(height, device=images.device)
    x = _draw(width, n, images, generator)[:, None] - torch.arange(width, device=images.device)
    half = side // 2
    # a centre c covers pixels c - half .. c + half - 1
    in_y, in_x = (y <= half) & (y > -half), (x <= half) & (x > -half)
    return images.masked_fill((in_y[:, :, None] & in_x[:, None, :])[:, None], 0)
