"""Augmentation of a whole batch at once, on the device where it lives: crop, flip, cutout.

Nothing here waits for the device or copies to it: random numbers come as tensors.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

DRAWS = 5  # random numbers for an image
Tensor = torch.Tensor


@dataclass(frozen=True)
class Draws:
    """Random numbers for N images, and what is done with them: flip, then crop, then cut out.

    Args:
        values: int32 ``[5, N]``: whether to flip; first row and column of the window in the padded image, each in
            ``[0, 2 * crop_padding]``; row and column of the square's centre. What is not done has numbers, unread.
        augmentation: what is done.

    Raises:
        ValueError: another shape. TypeError: another dtype.
    """

    values: Tensor
    augmentation: "Augmentation"

    def __post_init__(self) -> None:
        if self.values.dtype != torch.int32:
            raise TypeError(f"values must be int32, got {self.values.dtype}")
        if self.values.dim() != 2 or len(self.values) != DRAWS:
            raise ValueError(f"values must be [{DRAWS}, N], got {tuple(self.values.shape)}")

    def __len__(self) -> int:
        return self.values.shape[1]

    def __getitem__(self, part: slice) -> "Draws":
        """The numbers of some of the images; no copy."""
        return replace(self, values=self.values[:, part])

    def to(self, device: torch.device) -> "Draws":
        """The same on another device."""
        return replace(self, values=self.values.to(device))

    def apply(self, images: Tensor) -> Tensor:
        """Flip, crop and cut out N images ``[N, C, H, W]``, or sequences ``[N, T, C, H, W]``, all T frames alike."""
        if images.dim() == 5:
            return self.apply(images.flatten(1, 2)).unflatten(1, images.shape[1:3])
        how = self.augmentation
        flipped, crop_rows, crop_columns, cut_rows, cut_columns = self.values
        if how.flip:
            images = flip_images(images, flipped)
        if how.crop_padding:
            images = crop_images(images, crop_rows, crop_columns, how.crop_padding)
        if how.cutout:
            images = cut_out(images, cut_rows, cut_columns, how.cutout)
        return images


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training image (uint8 pixels, before normalisation).

    Args:
        crop_padding: zero pixels on each side, of which a random window of the old size is cut; 0: no crop.
        flip: mirror left and right with probability 1/2.
        cutout: side of a square set to zero, centred anywhere in the image and clipped at its border; 0: none
            (DeVries and Taylor, 2017).

    Raises:
        ValueError: a negative number.
    """

    crop_padding: int = 0
    flip: bool = False
    cutout: int = 0

    def __post_init__(self) -> None:
        for name in ("crop_padding", "cutout"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Augment ``[N, C, H, W]`` or ``[N, T, C, H, W]``; random numbers come from ``generator``, on the CPU."""
        height, width = images.shape[-2:]
        return self.draw((len(images),), height, width, generator).to(images.device).apply(images)

    def draw(self, sizes: Sequence[int], height: int, width: int, generator: torch.Generator) -> Draws:
        """Draw the random numbers of some batches in turn, on the CPU, so that every device augments alike.

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
        return Draws(values, self)


def flip_images(images: Tensor, flipped: Tensor) -> Tensor:
    """Mirror those of the images ``[N, C, H, W]`` left and right whose entry of ``flipped [N]`` is not 0."""
    return torch.where(flipped.view(-1, 1, 1, 1) != 0, images.flip(-1), images)


def crop_images(images: Tensor, rows: Tensor, columns: Tensor, padding: int) -> Tensor:
    """Pad ``[N, C, H, W]`` by zeros and cut out ``[N, C, H, W]`` from ``rows [N]`` and ``columns [N]`` on."""
    n, _, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    row = rows[:, None] + torch.arange(height, device=images.device)
    column = columns[:, None] + torch.arange(width, device=images.device)
    sample = torch.arange(n, device=images.device)
    # advanced indices around a slice put their axes first: [N, H, W, C]
    return padded[sample[:, None, None], :, row[:, :, None], column[:, None, :]].permute(0, 3, 1, 2)


def cut_out(images: Tensor, rows: Tensor, columns: Tensor, side: int) -> Tensor:
    """Zero a square of ``side`` pixels around ``rows [N]`` and ``columns [N]`` in each of ``[N, C, H, W]``."""
    height, width = images.shape[-2:]
    y = rows[:, None] - torch.arange(height, device=images.device)
    x = columns[:, None] - torch.arange(width, device=images.device)
    half = side // 2
    # a centre c covers pixels c - half .. c + half - 1
    in_y, in_x = (y <= half) & (y > -half), (x <= half) & (x > -half)
    return images.masked_fill((in_y[:, :, None] & in_x[:, None, :])[:, None], 0)
