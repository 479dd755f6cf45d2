"""A whole set of images or sequences as one uint8 tensor on the training device, and batches of it."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import EllipsisType

import torch

from snn_sparse.training.augment import Augmentation


@dataclass(frozen=True)
class ImageSet:
    """Images and labels of one split, decoded once; or sequences of frames, such as counts of events.

    Attributes:
        images: ``[M, C, H, W]`` uint8, or sequences ``[M, T, C, H, W]``.
        labels: ``[M]`` int64 class indices.
        mean: of each channel, on the scale 0 to 1; subtracted. 0 for counts.
        std: of each channel; divided by. For counts a 255th of what they are divided by.
    """

    images: torch.Tensor
    labels: torch.Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.dim() not in (4, 5) or self.timesteps == 0:
            raise ValueError(
                "images must be uint8 [M, C, H, W] or [M, T, C, H, W] with T >= 1, "
                f"got {self.images.dtype} {tuple(self.images.shape)}"
            )
        if self.labels.shape != self.images.shape[:1] or self.labels.dtype != torch.int64:
            raise ValueError(
                f"labels must be int64 [{len(self.images)}], got {self.labels.dtype} {tuple(self.labels.shape)}"
            )
        if not len(self.mean) == len(self.std) == self.images.shape[-3]:
            raise ValueError(f"mean and std must have one number for each of the {self.images.shape[-3]} channels")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def timesteps(self) -> int | None:
        """T of the sequences; None for images."""
        return self.images.shape[1] if self.images.dim() == 5 else None

    def to(self, device: torch.device | str) -> "ImageSet":
        """The same set on another device."""
        return ImageSet(self.images.to(device), self.labels.to(device), self.mean, self.std)

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Turn uint8 pixels into float32, scaled to 0..1, minus ``mean``, divided by ``std``.

        Args:
            pixels: ``[N, C, H, W]``, or sequences ``[N, T, C, H, W]``.

        Returns:
            the same shape, but sequences time first: ``[T, N, C, H, W]``, as networks take them.
        """
        pixels = pixels.transpose(0, 1).contiguous() if pixels.dim() == 5 else pixels
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
        timesteps: int | None = None,
        smallest: int = 2,
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Batches of normalised images ``[N, C, H, W]`` or sequences ``[T, N, C, H, W]``, and labels ``[N]``.

        They are shuffled and augmented with a ``generator``, in order without; all frames of a sequence change alike.

        A last batch of a single image joins the one before, since batch norm cannot train on it, as does any of fewer
        images than ``smallest``. All random numbers are drawn before the first batch and copied to the device at once:
        no later batch waits for the host.

        Args:
            batch_size: images a batch.
            augmentation: of the images; it needs a ``generator``.
            generator: on the CPU; of the order, and of the numbers that ``augmentation`` takes for each batch in turn.
            dtype: of the images; float32, float16 or bfloat16.
            memory_format: of the images, in a sequence of each frame; ``torch.contiguous_format`` or
                ``torch.channels_last``.
            start: batches to leave out at the beginning, without computing them; those that follow, and the generator,
                are as they would be after them. At or above the number of batches: no batch follows.
            shard: rank and world size. Of every batch only this rank's images, as the whole batch would have them: one
                contiguous piece, larger by one image on the first ranks where the batch does not divide evenly, and
                empty on the last ranks where it has fewer images than there are ranks.
            timesteps: of a sequence only so many frames, the first ones; ``None``: all. Images have none to leave out.
            smallest: images that a last batch must have to stand alone.

        Raises:
            ValueError: ``batch_size`` below 1, ``start`` below 0, a ``shard`` without ``0 <= rank < world size``,
                ``timesteps`` below 1 or above those of the sequences, or another ``memory_format``. TypeError: another
                ``dtype``.
        """
        frames = self._first_frames(timesteps)
        if dtype not in (torch.float32, torch.float16, torch.bfloat16):
            raise TypeError(f"dtype must be float32, float16 or bfloat16, got {dtype}")
        if memory_format not in (torch.contiguous_format, torch.channels_last):
            raise ValueError(f"memory_format must be contiguous_format or channels_last, got {memory_format}")
        if start < 0:
            raise ValueError(f"start must not be negative, got {start}")
        bounds, device = batch_bounds(len(self), batch_size, smallest), self.images.device
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
            pixels = self.images[order[part], frames]
            pixels = pixels if draws is None else draws[part].apply(pixels)
            yield _in_form(self.normalise(pixels), dtype, memory_format), labels[part]

    def _first_frames(self, timesteps: int | None) -> slice | EllipsisType:
        """Index of the first ``timesteps`` frames, to be put behind that of the sequences."""
        if self.timesteps is None or timesteps is None:
            return ...
        if not 1 <= timesteps <= self.timesteps:
            raise ValueError(f"timesteps must be between 1 and the data's {self.timesteps}, got {timesteps}")
        return slice(timesteps)


def _in_form(x: torch.Tensor, dtype: torch.dtype, memory_format: torch.memory_format) -> torch.Tensor:
    """``x`` in another dtype and memory format, which torch knows for images only: a sequence is T * N of them."""
    if x.dim() == 4:
        return x.to(dtype=dtype, memory_format=memory_format)
    return x.flatten(0, 1).to(dtype=dtype, memory_format=memory_format).unflatten(0, x.shape[:2])


@functools.lru_cache(maxsize=256)
def _statistics(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """``mean`` and ``std`` as float32 ``[2, C]`` on a device; kept, since a copy would wait for the host."""
    return torch.tensor((mean, std), dtype=torch.float32, device=device)


def batch_bounds(n: int, batch_size: int, smallest: int = 2) -> list[slice]:
    """Slices of at most ``batch_size`` that cover ``range(n)``; a remainder below ``smallest`` joins the one before.

    Raises:
        ValueError: ``batch_size`` below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    starts = list(range(0, n, batch_size))
    if len(starts) > 1 and n - starts[-1] < min(smallest, batch_size):
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

    Raises:
        ValueError: labels outside ``0 .. num_classes - 1`` (looked at on the CPU only), or splits whose images differ
            in T or in the number of channels.
    """

    name: str
    train: ImageSet
    test: ImageSet
    num_classes: int
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        for split, part in (("train", self.train), ("test", self.test)):
            known = part.labels.device.type == "cpu" and len(part) > 0  # elsewhere it would wait for the device
            if known and not 0 <= int(part.labels.min()) <= int(part.labels.max()) < self.num_classes:
                raise ValueError(f"labels of {split} must lie between 0 and num_classes - 1 = {self.num_classes - 1}")
        if self.train.images.shape[1:-2] != self.test.images.shape[1:-2]:
            shapes = tuple(self.train.images.shape), tuple(self.test.images.shape)
            raise ValueError(
                f"train and test must have the same T and channels, got images {shapes[0]} and {shapes[1]}"
            )

    @property
    def in_channels(self) -> int:
        """Channels of an image, or of a frame."""
        return self.train.images.shape[-3]

    @property
    def timesteps(self) -> int | None:
        """T of the sequences; None for images, which a network repeats as often as its own T says."""
        return self.train.timesteps

    def fewer(self, train_images: int) -> "Dataset":
        """The same test split beside so many of the training images, drawn once for all: always the same ones.

        Raises:
            ValueError: ``train_images`` below 1, or more than there are.
        """
        there = len(self.train)
        if not 1 <= train_images <= there:
            raise ValueError(f"train_images must lie between 1 and the {there} of {self.name}, got {train_images}")
        drawn = torch.randperm(there, generator=torch.Generator().manual_seed(0))[:train_images].sort().values
        drawn, t = drawn.to(self.train.images.device), self.train
        train = ImageSet(t.images[drawn], t.labels[drawn], t.mean, t.std)
        return Dataset(self.name, train, self.test, self.num_classes, self.augmentation)

    def to(self, device: torch.device | str) -> "Dataset":
        """The same data on another device."""
        return Dataset(self.name, self.train.to(device), self.test.to(device), self.num_classes, self.augmentation)
