"""A whole image set as one uint8 tensor on the training device, and batches of it."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from snn_sparse.training.augment import Augmentation


@dataclass(frozen=True)
class ImageSet:
    """Images and labels of one split, decoded once.

    Attributes:
        images: ``[M, C, H, W]`` uint8.
        labels: ``[M]`` int64 class indices.
        mean: of each channel, on the scale 0 to 1; subtracted.
        std: of each channel; divided by.
    """

    images: torch.Tensor
    labels: torch.Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.dim() != 4:
            raise ValueError(f"images must be uint8 [M, C, H, W], got {self.images.dtype} {tuple(self.images.shape)}")
        if self.labels.shape != self.images.shape[:1] or self.labels.dtype != torch.int64:
            raise ValueError(
                f"labels must be int64 [{len(self.images)}], got {self.labels.dtype} {tuple(self.labels.shape)}"
            )
        if not len(self.mean) == len(self.std) == self.images.shape[1]:
            raise ValueError(f"mean and std must have one number for each of the {self.images.shape[1]} channels")

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str) -> "ImageSet":
        """The same set on another device."""
        return ImageSet(self.images.to(device), self.labels.to(device), self.mean, self.std)

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Turn uint8 pixels ``[N, C, H, W]`` into float32, scaled to 0..1, minus ``mean``, divided by ``std``."""
        centre, deviation = _statistics(self.mean, self.std, pixels.device)[:, :, None, None]
        return (pixels.float() / 255 - centre) / deviation

    def batches(
        self,
        batch_size: int,
        *,
        augmentation: Augmentation | None = None,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
        memory_format: torch.memory_format = torch.contiguous_format,
        start: int = 0,
        shard: tuple[int, int] = (0, 1),
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Batches of normalised images and labels: shuffled and augmented with a ``generator``, in order without.

        A last batch of a single image joins the one before, since batch norm cannot train on it. All random numbers are
        drawn before the first batch and copied to the device at once: no later batch waits for the host.

        Args:
            batch_size: images a batch.
            augmentation: of the images; it needs a ``generator``.
            generator: on the CPU; of the order, and of the numbers that ``augmentation`` takes for each batch in turn.
            dtype: of the images; float32, float16 or bfloat16.
            memory_format: of the images; ``torch.contiguous_format`` or ``torch.channels_last``.
            start: batches to leave out at the beginning, without computing them; those that follow, and the generator,
                are as they would be after them. At or above the number of batches: no batch follows.
            shard: rank and world size. Of every batch only this rank's images, as the whole batch would have them: one
                contiguous piece, larger by one image on the first ranks where the batch does not divide evenly, and
                empty on the last ranks where it has fewer images than there are ranks.

        Raises:
            ValueError: ``batch_size`` below 1, ``start`` below 0, a ``shard`` without ``0 <= rank < world size``, or
                another ``memory_format``. TypeError: another ``dtype``.
        """
        if dtype not in (torch.float32, torch.float16, torch.bfloat16):
            raise TypeError(f"dtype must be float32, float16 or bfloat16, got {dtype}")
        if memory_format not in (torch.contiguous_format, torch.channels_last):
            raise ValueError(f"memory_format must be contiguous_format or channels_last, got {memory_format}")
        if start < 0:
            raise ValueError(f"start must not be negative, got {start}")
        bounds, device = batch_bounds(len(self), batch_size), self.images.device
        pieces = [shard_bounds(part, shard) for part in bounds][start:]
        draws = None
        if generator is None:
            order = torch.arange(len(self), device=device)
        else:
            order = torch.randperm(len(self), generator=generator).to(device)
            if augmentation is not None:
                sizes, (height, width) = [part.stop - part.start for part in bounds], self.images.shape[-2:]
                draws = augmentation.draw(sizes, height, width, generator).to(device)
        labels = self.labels[order]
        for part in pieces:
            pixels = self.images[order[part]]
            pixels = pixels if draws is None else draws[part].apply(pixels)
            yield self.normalise(pixels).to(dtype=dtype, memory_format=memory_format), labels[part]


@functools.lru_cache(maxsize=256)
def _statistics(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """``mean`` and ``std`` as float32 ``[2, C]`` on a device; kept, since a copy would wait for the host."""
    return torch.tensor((mean, std), dtype=torch.float32, device=device)


def batch_bounds(n: int, batch_size: int) -> list[slice]:
    """Slices of at most ``batch_size`` that cover ``range(n)``; a remainder of one joins the slice before it.

    Raises:
        ValueError: ``batch_size`` below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    starts = list(range(0, n, batch_size))
    if len(starts) > 1 and batch_size > 1 and n - starts[-1] == 1:
        starts.pop()
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], n], strict=True)]


def shard_bounds(batch: slice, shard: tuple[int, int]) -> slice:
    """One rank's contiguous piece of a batch; pieces differ by at most one image, the larger ones first.

    Args:
        batch: first index of the batch, and the one behind its last.
        shard: rank and world size.

    Raises:
        ValueError: not ``0 <= rank < world size``.
    """
    rank, world = shard
    if not 0 <= rank < world:
        raise ValueError(f"shard must be (rank, world size) with 0 <= rank < world size, got {tuple(shard)}")
    small, larger = divmod(batch.stop - batch.start, world)
    first = batch.start + rank * small + min(rank, larger)
    return slice(first, first + small + (rank < larger))


@dataclass(frozen=True)
class Dataset:
    """Training and test split of one data set.

    Attributes:
        name: for reports.
        train, test: the splits.
        num_classes: number of classes.
        augmentation: of the training images.
    """

    name: str
    train: ImageSet
    test: ImageSet
    num_classes: int
    augmentation: Augmentation = field(default_factory=Augmentation)

    @property
    def in_channels(self) -> int:
        """Channels of an image."""
        return self.train.images.shape[1]

    def to(self, device: torch.device | str) -> "Dataset":
        """The same data on another device."""
        return Dataset(self.name, self.train.to(device), self.test.to(device), self.num_classes, self.augmentation)
