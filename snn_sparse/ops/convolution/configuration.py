"""How a convolution is computed: settings of an implementation, and those of a layer with its mask's index lists."""

from dataclasses import astuple, dataclass, fields
from typing import Any, NamedTuple

import torch

from snn_sparse.specs import MAX_VECTORS, ConvGeometry, ceil_div

Tensor = torch.Tensor
MAX_ROWS, MAX_STAGES = 256, 8


def _check_types(configuration: Any) -> None:
    """Check that a dataclass of numbers and flags, maybe read from a file, holds these and nothing else."""
    for field in fields(configuration):
        value = getattr(configuration, field.name)
        if type(value) is not field.type:
            wanted = "an int" if field.type is int else "a bool"
            raise TypeError(f"{field.name} must be {wanted}, got {type(value).__name__}")


@dataclass(frozen=True)
class LiveConfiguration:
    """How the CPU kernels walk through the live weights of a mask.

    Attributes:
        vectors: V of the ``lanes`` memory format.
        channel_block: input channels that are kept in the cache at a time; 0: all.
        rows_outermost: order of the taps.
        pack: whether a block's pixels are copied together first.

    Raises:
        TypeError: a number that is no int, a flag that is no bool. ValueError: a number out of bounds; named.
    """

    vectors: int = 1
    channel_block: int = 0
    rows_outermost: bool = False
    pack: bool = False

    def __post_init__(self) -> None:
        _check_types(self)
        for name, low, high in (("vectors", 1, MAX_VECTORS), ("channel_block", 0, 2**31)):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} must be in {low}..{high}, got {value}")

    def describe(self) -> str:
        """Name it in a few words, for tables."""
        flags = ("rows " if self.rows_outermost else "") + ("pack" if self.pack else "")
        return f"live V={self.vectors} block={self.channel_block or 'all'} {flags}".strip()


@dataclass(frozen=True)
class SpikeConfiguration:
    """Which directions of a layer whose input spikes the CPU kernels compute, channels last; others are left to torch.

    Attributes:
        output: whether the output is, from a list of spikes.
        grad_weight: whether the gradient of the weight is, likewise.
        grad_input: whether that of the input is, by Winograd's F(2x2, 3x3).

    Raises:
        TypeError: a flag that is no bool. ValueError: none is.
    """

    output: bool = True
    grad_weight: bool = True
    grad_input: bool = False

    def __post_init__(self) -> None:
        _check_types(self)
        if not any(astuple(self)):
            raise ValueError("output, grad_weight or grad_input must be true")

    def describe(self) -> str:
        """Name it in a few words, for tables."""
        names = {"output": self.output, "weight gradient": self.grad_weight}
        found = [", ".join(name for name, wanted in names.items() if wanted)]
        found = [f"spikes: {found[0]}"] if found[0] else []
        return "; ".join([*found, *["Winograd: input gradient"] * self.grad_input])


@dataclass(frozen=True)
class TileConfiguration:
    """How the Triton kernels compute one direction: how index lists are made, the tile of a program, the launch.

    Attributes:
        rows: output pixels a program, at most :data:`MAX_ROWS`; a power of two, as are ``width`` and ``step``.
        width: output channels a group, and a program.
        step: input channels a chunk; at least 32.
        gathered: whether chunks gather any channels, or are neighbours.
        reorder: whether similar output channels are put into one group.
        pixel_major: whether a program's rows are one pixel of many images, so that padding is skipped.
        num_warps, num_stages: of the launch.

    Raises:
        TypeError: a number that is no int, a flag that is no bool.
        ValueError: a size that is no power of two, or a number out of bounds; named.
    """

    rows: int
    width: int
    step: int
    gathered: bool = False
    reorder: bool = False
    pixel_major: bool = False
    num_warps: int = 4
    num_stages: int = 3

    def __post_init__(self) -> None:
        _check_types(self)
        if not 1 <= self.num_stages <= MAX_STAGES:
            raise ValueError(f"num_stages must be in 1..{MAX_STAGES}, got {self.num_stages}")
        for name, least, most in (("rows", 16, MAX_ROWS), ("width", 16, 256), ("step", 32, 256), ("num_warps", 1, 16)):
            value = getattr(self, name)
            if not least <= value <= most or value & (value - 1):
                raise ValueError(f"{name} must be a power of two from {least} to {most}, got {value}")

    def registers(self, many: bool = False) -> int | None:
        """Registers to ask for: all that a thread may have, if it is to have many or its products leave few."""
        return 255 if many or self.rows * self.width >= 64 * 32 * self.num_warps else None

    def tiles(self, images: int, pixels: int) -> int:
        """Count the tiles of one timestep."""
        if self.pixel_major:
            return pixels * ceil_div(images, self.rows)
        return ceil_div(images * pixels, self.rows)

    def check_offsets(self, g: ConvGeometry) -> None:
        """Raise a ValueError if a tile is too large for the kernels' 32-bit offsets, which start at its first image."""
        pixels = max(g.height * g.width, g.out_size[0] * g.out_size[1])
        images = min(self.rows, g.images) if self.pixel_major else self.rows // pixels + 2
        if g.steps * g.images * pixels >= 2**31 or images * pixels * max(g.inputs, g.outputs) >= 2**31:
            raise ValueError(f"{g.images} images of {g.height}x{g.width} are too large")

    def describe(self) -> str:
        """Name it in a few words, for tables."""
        kind = "union" if self.gathered else "block"
        flags = (" reordered" if self.reorder else "") + (" by pixel" if self.pixel_major else "")
        return f"{kind} {self.rows}x{self.width}x{self.step}{flags}"


class Directions(NamedTuple):
    """Configuration of each direction on a GPU; None: by torch, on unpacked spikes.

    ``spikes`` is the output with batch norm and neuron, without gradients (``fused_neuron.py``).
    """

    output: TileConfiguration | None = None
    grad_input: TileConfiguration | None = None
    grad_weight: TileConfiguration | None = None
    spikes: TileConfiguration | None = None


class IndexLists(NamedTuple):
    """Lists that a Triton kernel walks through, int32 (``channel_groups.py``); without ``order`` outputs stay."""

    order: Tensor | None
    pointers: Tensor
    channels: Tensor
    segments: Tensor


_BY_TORCH = Directions()
_ALIGNED = 4  # int32 that start on 16 bytes, as kernels like their pointers
_LIVE, _TILES, _SPIKES = 1, 2, 3
_NUMBERS = 12  # of a direction: a configuration, the lengths of its lists


@dataclass(frozen=True)
class LayerConfiguration:
    """How one layer computes under its mask, as the operator takes it.

    Attributes:
        keep: bool, of the weight's shape: which weights are alive; None: all. Gradients are zero elsewhere.
        live: settings of the CPU kernels at live weights; None: dense, by torch.
        spikes: directions that other CPU kernels compute where the input holds zeros and ones only.
        directions: settings of the Triton kernels.
        lists: the index lists of all directions in one int32 tensor.
        numbers: all settings, and the lengths of the lists.
    """

    keep: Tensor | None = None
    live: LiveConfiguration | None = None
    directions: Directions = _BY_TORCH
    lists: Tensor | None = None
    numbers: tuple[int, ...] = ()
    spikes: SpikeConfiguration | None = None

    @classmethod
    def dense(cls, keep: Tensor | None = None) -> "LayerConfiguration":
        """All directions by torch; gradients are masked."""
        return cls(keep)

    @classmethod
    def of_spikes(cls, keep: Tensor | None, spikes: SpikeConfiguration) -> "LayerConfiguration":
        """From spikes, and by Winograd, on a CPU in the directions it says; gradients are masked."""
        return cls(keep, numbers=(_SPIKES, *map(int, astuple(spikes))), spikes=spikes)

    @classmethod
    def of_live(
        cls, keep: Tensor, live: LiveConfiguration, lists: list[Tensor], transposed: list[Tensor]
    ) -> "LayerConfiguration":
        """At the live weights on a CPU; the lists are those of ``live_index_lists``, forward and transposed."""
        joined, lengths = _join([*lists, *transposed])
        return cls(keep, live, lists=joined, numbers=(_LIVE, *map(int, astuple(live)), *lengths))

    @classmethod
    def of_tiles(
        cls, keep: Tensor | None, directions: Directions, lists: list[IndexLists | None]
    ) -> "LayerConfiguration":
        """By Triton kernels in the directions that have a configuration."""
        flat, numbers = [], [_TILES]
        for configuration, found in zip(directions, lists, strict=True):
            if configuration is None or found is None:
                numbers += [0] * _NUMBERS
                continue
            parts = [found.pointers[:0] if found.order is None else found.order, *found[1:]]
            flat += parts
            numbers += [*map(int, astuple(configuration)), *map(len, parts)]
        if not flat:
            return cls(keep)
        return cls(keep, None, directions, _join(flat)[0], tuple(numbers))


def _join(parts: list[Tensor]) -> tuple[Tensor, list[int]]:
    padded = [torch.nn.functional.pad(p, (0, -len(p) % _ALIGNED)) for p in parts]
    return torch.cat(padded), [len(p) for p in parts]


def _cut(lists: Tensor, lengths: list[int], start: int = 0) -> list[Tensor]:
    found = []
    for length in lengths:
        found.append(lists[start : start + length])
        start += length + -length % _ALIGNED
    return found


def live_of(lists: Tensor | None, numbers: list[int]) -> tuple[LiveConfiguration, list[Tensor]] | None:
    """Read the CPU kernels' settings and six index lists out of what the operator was given; None: dense."""
    if not numbers or numbers[0] != _LIVE or lists is None:
        return None
    vectors, block, rows, pack = numbers[1:5]
    return LiveConfiguration(vectors, block, bool(rows), bool(pack)), _cut(lists, numbers[5:])


def spikes_of(numbers: list[int]) -> SpikeConfiguration | None:
    """Read the settings of a layer whose input spikes, on a CPU, out of what the operator was given; None: others."""
    return SpikeConfiguration(*map(bool, numbers[1:])) if numbers and numbers[0] == _SPIKES else None


def tiles_of(direction: str, lists: Tensor | None, numbers: list[int]) -> tuple[TileConfiguration, IndexLists] | None:
    """Read a direction's configuration and index lists out of what the operator was given; None: by torch."""
    if not numbers or numbers[0] != _TILES or lists is None:
        return None
    at, start = 1, 0
    for name in Directions._fields:
        settings, lengths = numbers[at : at + 8], numbers[at + 8 : at + _NUMBERS]
        if name == direction:
            break
        at, start = at + _NUMBERS, start + sum(n + -n % _ALIGNED for n in lengths)
    rows, width, step, gathered, reorder, pixel_major, warps, stages = settings
    if rows == 0:
        return None
    order, *others = _cut(lists, lengths, start)
    flags = bool(gathered), bool(reorder), bool(pixel_major)
    return TileConfiguration(rows, width, step, *flags, warps, stages), IndexLists(
        order if len(order) else None, *others
    )
