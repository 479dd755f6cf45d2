"""Augmentation of a whole batch at once, on the device where it lives: crop, flip, cutout."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from snn_sparse.ops.image_batch import DRAWS, Draws, augment


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
        n, _, height, width = images.shape
        return augment(images, self.draw((n,), height, width, generator).to(images.device))

    def draw(self, sizes: Sequence[int], height: int, width: int, generator: torch.Generator) -> Draws:
        """Random numbers of some batches in turn, drawn on the CPU, so that every device sees the same augmentation.

        Args:
            sizes: images of each batch.
            height, width: of an image.
            generator: on the CPU. Of each batch it gives, in this order and as far as they are wanted, for all images:
                whether to flip, row of the crop, column of the crop, row of the cutout, column of the cutout.

        Returns:
            for all ``sum(sizes)`` images, on the CPU.
        """
        window = 2 * self.crop_padding + 1 if self.crop_padding else 0
        limits = (2 if self.flip else 0, window, window, height if self.cutout else 0, width if self.cutout else 0)
        values = torch.zeros((DRAWS, sum(sizes)), dtype=torch.int32)
        for batch in values.split(list(sizes), dim=1):
            for numbers, high in zip(batch, limits, strict=True):
                if high:
                    numbers.copy_(torch.randint(high, numbers.shape, generator=generator))
        return Draws(values, self.flip, self.crop_padding, self.cutout)
