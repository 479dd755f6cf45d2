"""Batches of a uint8 image set: gathered, augmented by given random numbers, normalised.

Nothing here waits for the device or copies to it, except for the first batch's mean and deviation.
"""

import functools
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from snn_sparse.ops.device import KERNEL_DTYPES, kernels_run

DRAWS = 5  # random numbers for an image


@dataclass(frozen=True)
class Draws:
    """Random numbers for N images, and what is done with them: flip, then crop, then cut out.

    Args:
        values: int32 ``[5, N]``: whether to flip; first row and column of the window in the padded image, each in
            ``[0, 2 * crop_padding]``; row and column of the square's centre. What is not done has numbers, unread.
        flip: whether images are mirrored left and right where ``values`` says so.
        crop_padding: zero pixels on each side, of which a window of the old size is cut; 0: no crop.
        cutout: side of the square that is set to zero, clipped at the image's border; 0: none.

    Raises:
        ValueError: another shape, or a negative number. TypeError: another dtype.
    """

    values: torch.Tensor
    flip: bool = False
    crop_padding: int = 0
    cutout: int = 0

    def __post_init__(self) -> None:
        if self.values.dtype != torch.int32:
            raise TypeError(f"values must be int32, got {self.values.dtype}")
        if self.values.dim() != 2 or len(self.values) != DRAWS:
            raise ValueError(f"values must be [{DRAWS}, N], got {tuple(self.values.shape)}")
        for name in ("crop_padding", "cutout"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")

    def __len__(self) -> int:
        return self.values.shape[1]

    def __getitem__(self, part: slice) -> "Draws":
        """The numbers of some of the images; no copy."""
        return replace(self, values=self.values[:, part])

    def to(self, device: torch.device) -> "Draws":
        """The same on another device."""
        return replace(self, values=self.values.to(device))


@functools.lru_cache(maxsize=256)
def channel_statistics(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """``mean`` and ``std`` as float32 ``[2, C]`` on a device; kept, since a copy would wait for the host."""
    return torch.tensor((mean, std), dtype=torch.float32, device=device)


def normalise(pixels: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """uint8 pixels ``[N, C, H, W]`` -> float32, scaled to 0..1, minus ``mean``, divided by ``std``."""
    centre, deviation = channel_statistics(mean, std, pixels.device)[:, :, None, None]
    return (pixels.float() / 255 - centre) / deviation


def flip_images(images: torch.Tensor, flipped: torch.Tensor) -> torch.Tensor:
    """Mirror those of the images ``[N, C, H, W]`` left and right whose entry of ``flipped [N]`` is not 0."""
    return torch.where(flipped.view(-1, 1, 1, 1) != 0, images.flip(-1), images)


def crop_images(images: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, padding: int) -> torch.Tensor:
    """Pad ``[N, C, H, W]`` by zeros and cut out ``[N, C, H, W]`` from ``rows [N]`` and ``columns [N]`` on."""
    n, _, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    row = rows[:, None] + torch.arange(height, device=images.device)
    column = columns[:, None] + torch.arange(width, device=images.device)
    sample = torch.arange(n, device=images.device)
    # advanced indices around a slice put their axes first: [N, H, W, C]
    return padded[sample[:, None, None], :, row[:, :, None], column[:, None, :]].permute(0, 3, 1, 2)


def cut_out(images: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, side: int) -> torch.Tensor:
    """Zero a square of ``side`` pixels around ``rows [N]`` and ``columns [N]`` in each of ``[N, C, H, W]``."""
    height, width = images.shape[-2:]
    y = rows[:, None] - torch.arange(height, device=images.device)
    x = columns[:, None] - torch.arange(width, device=images.device)
    half = side // 2
    # a centre c covers pixels c - half .. c + half - 1
    in_y, in_x = (y <= half) & (y > -half), (x <= half) & (x > -half)
    return images.masked_fill((in_y[:, :, None] & in_x[:, None, :])[:, None], 0)


def augment(images: torch.Tensor, draws: Draws) -> torch.Tensor:
    """``[N, C, H, W]`` flipped, cropped and cut out as ``draws`` of N images say."""
    flipped, crop_rows, crop_columns, cut_rows, cut_columns = draws.values
    if draws.flip:
        images = flip_images(images, flipped)
    if draws.crop_padding:
        images = crop_images(images, crop_rows, crop_columns, draws.crop_padding)
    if draws.cutout:
        images = cut_out(images, cut_rows, cut_columns, draws.cutout)
    return images


def reference(
    images: torch.Tensor,
    index: torch.Tensor,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    draws: Draws | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> torch.Tensor:
    """:func:`image_batch` in plain PyTorch."""
    pixels = images[index] if draws is None else augment(images[index], draws)
    return normalise(pixels, mean, std).to(dtype=dtype, memory_format=memory_format)


def image_batch(
    images: torch.Tensor,
    index: torch.Tensor,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    draws: Draws | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> torch.Tensor:
    """Images of a set, augmented as uint8 and then normalised: one kernel where kernels run, else plain PyTorch.

    Args:
        images: the set, ``[M, C, H, W]`` uint8.
        index: ``[N]`` int64 or int32, which of them, in ``[0, M)``; any order, repeated or not.
        mean: of each channel, on the scale 0 to 1; subtracted.
        std: of each channel; divided by.
        draws: for the N images, on their device; None: nothing is augmented.
        dtype: of the result, to which float32 is rounded; float32, float16 or bfloat16.
        memory_format: ``torch.contiguous_format`` or ``torch.channels_last``.

    Returns:
        ``[N, C, H, W]``; pixels that the window or the square leaves empty are normalised zeros.

    Raises:
        ValueError: a shape or device that does not fit, or another ``memory_format``. TypeError: another dtype.
    """
    _check_images(images, mean, std)
    _check_samples(index, draws, images.device)
    if dtype not in KERNEL_DTYPES:
        raise TypeError(f"dtype must be float32, float16 or bfloat16, got {dtype}")
    if memory_format not in (torch.contiguous_format, torch.channels_last):
        raise ValueError(f"memory_format must be contiguous_format or channels_last, got {memory_format}")
    if not kernels_run(torch.empty(0, dtype=torch.float32, device=images.device), "batches"):
        return reference(images, index, mean, std, draws, dtype=dtype, memory_format=memory_format)
    from snn_sparse.kernels.augment import image_batch as run

    return run(
        images,
        index,
        channel_statistics(mean, std, images.device),
        None if draws is None else draws.values,
        flip=draws is not None and draws.flip,
        crop_padding=0 if draws is None else draws.crop_padding,
        cutout=0 if draws is None else draws.cutout,
        dtype=dtype,
        channels_last=memory_format == torch.channels_last,
    )


def _check_images(images: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    if images.dtype != torch.uint8:
        raise TypeError(f"images must be uint8, got {images.dtype}")
    if images.dim() != 4:
        raise ValueError(f"images must be [M, C, H, W], got {tuple(images.shape)}")
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != images.shape[1]:
            raise ValueError(f"{name} must have one number for each of the {images.shape[1]} channels")


def _check_samples(index: torch.Tensor, draws: Draws | None, device: torch.device) -> None:
    """What there is one of for each image of the batch."""
    if index.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"index must be int64 or int32, got {index.dtype}")
    if index.dim() != 1:
        raise ValueError(f"index must be [N], got {tuple(index.shape)}")
    if index.device != device:
        raise ValueError(f"index must be on {device} as images are, got {index.device}")
    if draws is not None and len(draws) != len(index):
        raise ValueError(f"draws must be for the {len(index)} images of index, got {len(draws)}")
    if draws is not None and draws.values.device != device:
        raise ValueError(f"draws must be on {device} as images are, got {draws.values.device}")
