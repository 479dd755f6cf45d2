"""What the convolution kernels are told: sizes, a way to compute, the lists of a mask. This module needs no Triton."""

from dataclasses import astuple, dataclass

import torch

MAX_ROWS = 256


@dataclass(frozen=True)
class Way:
    """How a kernel computes one direction of a convolution: how its lists are made, how it is cut and launched.

    Attributes:
        rows: output pixels a program, at most :data:`MAX_ROWS`; a power of two, as are ``width`` and ``step``.
        width: output channels a group, and a program.
        step: input channels a chunk; at least 32.
        gathered: whether chunks gather any channels, or are neighbours.
        reorder: whether similar output channels are put into one group.
        pixel_major: whether a program's rows are one pixel of many images, so that padding is skipped.
        num_warps, num_stages: of the launch.

    Raises:
        ValueError: a size that is no power of two, or out of bounds.
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
        for name, least, most in (("rows", 16, MAX_ROWS), ("width", 16, 256), ("step", 32, 256), ("num_warps", 1, 16)):
            value = getattr(self, name)
            if not least <= value <= most or value & (value - 1):
                raise ValueError(f"{name} must be a power of two from {least} to {most}, got {value}")

    def encode(self) -> list[int]:
        """As eight integers."""
        return [int(value) for value in astuple(self)]

    @classmethod
    def decode(cls, numbers: list[int]) -> "Way | None":
        """Back from :meth:`encode`; None if all are zero."""
        rows, width, step, gathered, reorder, pixel_major, warps, stages = numbers
        if rows == 0:
            return None
        return cls(rows, width, step, bool(gathered), bool(reorder), bool(pixel_major), warps, stages)

    def registers(self, many: bool = False) -> int | None:
        """For the launch: all that a thread may have, if it is to have many or its products leave few."""
        return 255 if many or self.rows * self.width >= 64 * 32 * self.num_warps else None

    def describe(self) -> str:
        """In a few words, for tables."""
        kind = "union" if self.gathered else "block"
        flags = (" reordered" if self.reorder else "") + (" by pixel" if self.pixel_major else "")
        return f"{kind} {self.rows}x{self.width}x{self.step}{flags}"


@dataclass(frozen=True)
class Lists:
    """Device tensors, int32, of an ``ops.channel_groups.ChannelGroups``; without ``order`` outputs keep theirs."""

    order: torch.Tensor | None
    pointers: torch.Tensor
    channels: torch.Tensor
    segments: torch.Tensor


@dataclass(frozen=True)
class Geometry:
    """Sizes of a convolution over ``steps`` timesteps of ``images`` images; ``padding`` and ``stride`` both ways.

    Raises:
        ValueError: maps too small for the kernel.
    """

    steps: int
    images: int
    inputs: int
    outputs: int
    height: int
    width: int
    kernel: tuple[int, int]
    stride: int
    padding: int

    def __post_init__(self) -> None:
        if min(self.out_size) < 1:
            raise ValueError(f"maps of {self.height}x{self.width} are too small for a kernel of {self.kernel}")

    def check_offsets(self, way: "Way") -> None:
        """Raise a ValueError if a tile is too large for the kernels' 32-bit offsets, which start at its first image."""
        pixels = max(self.height * self.width, self.out_size[0] * self.out_size[1])
        images = min(way.rows, self.images) if way.pixel_major else way.rows // pixels + 2
        if self.steps * self.images * pixels >= 2**31 or images * pixels * max(self.inputs, self.outputs) >= 2**31:
            raise ValueError(f"{self.images} images of {self.height}x{self.width} are too large")

    @property
    def out_size(self) -> tuple[int, int]:
        """Height and width of the output."""
        sizes = (self.height, self.width)
        high, wide = ((s + 2 * self.padding - k) // self.stride + 1 for s, k in zip(sizes, self.kernel, strict=True))
        return high, wide

    @property
    def taps(self) -> int:
        """Weights of one input and output channel."""
        return self.kernel[0] * self.kernel[1]

    @property
    def merged(self) -> "Geometry":
        """All timesteps as images of one."""
        return Geometry(1, self.steps * self.images, *astuple(self)[2:])

    def input_shape(self, packed: bool = False) -> tuple[int, ...]:
        """Of the input ``[T, N, Cin, H, W]``, or of its packed form, channels last."""
        if packed:
            return (self.steps, self.images, self.height, self.width, ceil_div(self.inputs, 32))
        return (self.steps, self.images, self.inputs, self.height, self.width)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Of the output ``[T, N, Cout, Ho, Wo]``."""
        return (self.steps, self.images, self.outputs, *self.out_size)


def ceil_div(a: int, b: int) -> int:
    """The quotient of two whole numbers, rounded up."""
    return -(-a // b)


def tiles_of(images: int, pixels: int, way: Way) -> int:
    """Tiles of one timestep."""
    return pixels * ceil_div(images, way.rows) if way.pixel_major else ceil_div(images * pixels, way.rows)
