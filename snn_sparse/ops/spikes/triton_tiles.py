"""Which elements a program works on: a tile [ROWS, WINDOW, LANES] of one timestep, in either memory format.

Rows run over the pixels of all images (with a pool over its 2x2 windows, WINDOW = 4 pixels each), lanes over channels:
one channel a program where channels are outermost (NCHW), up to 64 neighbours where they are innermost (NHWC).
Windows that a map of odd size cuts off come after the complete ones of each image; they have pixels but no output.
"""
# mypy: disable-error-code="no-untyped-def, assignment"
# Arguments of kernels have no Python types, and a constexpr branch decides the type of a value.

from dataclasses import dataclass
from typing import Any

import triton
import triton.language as tl

MAX_LANES = 64
# Programs of kernels that sum over rows: some waves on the largest GPUs, yet few partial sums.
MAX_SUMMING_PROGRAMS = 2048


@triton.jit
def tile_rows(tile, images, height, width, outputs, line, rows_per_image, ROWS: tl.constexpr, POOL: tl.constexpr):
    """Where the rows of a tile lie.

    Returns the first image; of each row the image after that, the output's position and whether there is one
    [ROWS, 1, 1]; of each pixel its position and whether it exists [ROWS, WINDOW, 1].
    """
    first = tile * ROWS
    first_image = first // rows_per_image
    row = first + tl.arange(0, ROWS)[:, None, None]
    image = row // rows_per_image
    position = row % rows_per_image
    has_output = (image < images) & (position < outputs)
    if POOL:
        half = width // 2
        right_edge = (height // 2) * (width % 2)
        edge = position - line
        i = tl.where(position < outputs, position // half, tl.where(edge < right_edge, edge, height // 2))
        j = tl.where(position < outputs, position % half, tl.where(edge < right_edge, half, edge - right_edge))
        window = tl.arange(0, 4)[None, :, None]
        y = 2 * i + window // 2
        x = 2 * j + window % 2
        pixel = y * width + x
        exists = (image < images) & ((position < outputs) | (edge >= 0)) & (y < height) & (x < width)
    else:
        pixel = position
        exists = has_output
    return first_image, image - first_image, position, has_output, pixel, exists


@triton.jit
def offsets(image, position, channel, positions, channels, CHANNELS_LAST: tl.constexpr):
    """Offsets of elements in one timestep; 32 bits are enough after the tile's first image (``cut`` checks it)."""
    inside = position * channels + channel if CHANNELS_LAST else channel * positions + position
    return image * (channels * positions) + inside


@triton.jit
def locate(
    tile,
    block,
    images,
    channels,
    height,
    width,
    pixels,
    outputs,
    line,
    rows_per_image,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
    POOL: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):
    """A tile's place, which of its elements exist, its outputs' positions, and which of them exist.

    The place is (first row, first channel, first image, image after that, pixel, offset in one timestep from the first
    image on, channel, images, channels, pixels).
    """
    channel = block * LANES + tl.arange(0, LANES)[None, None, :]
    first_image, image, position, has_output, pixel, exists = tile_rows(
        tile, images, height, width, outputs, line, rows_per_image, ROWS, POOL
    )
    within = offsets(image, pixel, channel, pixels, channels, CHANNELS_LAST)
    place = (tile * ROWS, block * LANES, first_image, image, pixel, within, channel, images, channels, pixels)
    return place, exists & (channel < channels), position, has_output & (channel < channels)


@triton.jit
def line_words(positions, channels, CHANNELS_LAST: tl.constexpr):
    """Words that hold one packed line, and lines of an image."""
    length = channels if CHANNELS_LAST else positions
    lines = positions if CHANNELS_LAST else channels
    return (length + 31) // 32, lines


@triton.jit
def word_offsets(image, position, channel, positions, channels, CHANNELS_LAST: tl.constexpr):
    """Offsets of the packed words that hold elements, in one timestep."""
    words, lines = line_words(positions, channels, CHANNELS_LAST)
    line = position if CHANNELS_LAST else channel
    word = channel // 32 if CHANNELS_LAST else position // 32
    return (image * lines + line) * words + word


@dataclass(frozen=True)
class Tiling:
    """The cut of a map: sizes, what a program takes, and how many programs there are."""

    images: int
    channels: int
    height: int
    width: int
    channels_last: bool
    pool: bool
    line: int
    rows_per_image: int
    rows: int
    lanes: int

    @property
    def outputs(self) -> int:
        """Output positions of an image."""
        return (self.height // 2) * (self.width // 2) if self.pool else self.height * self.width

    @property
    def tiles(self) -> int:
        """Tiles of one block of channels."""
        return triton.cdiv(self.images * self.rows_per_image, self.rows)

    @property
    def blocks(self) -> int:
        """Blocks of channels."""
        return triton.cdiv(self.channels, self.lanes)

    @property
    def summing_programs(self) -> int:
        """Programs for each block of channels in a kernel that sums over rows; at least one."""
        return max(1, min(self.tiles, triton.cdiv(MAX_SUMMING_PROGRAMS, self.blocks)))

    def arguments(self) -> dict[str, Any]:
        """Arguments of every tiled kernel."""
        return {
            "images": self.images,
            "channels": self.channels,
            "height": self.height,
            "width": self.width,
            "pixels": self.height * self.width,
            "outputs": self.outputs,
            "line": self.line,
            "rows_per_image": self.rows_per_image,
            "blocks": self.blocks,
            "ROWS": self.rows,
            "LANES": self.lanes,
            "POOL": self.pool,
            "CHANNELS_LAST": self.channels_last,
        }


# Batch sizes and the like must not compile kernels anew; of the sizes inside an image Triton notes divisibility by 16.
UNSPECIALIZED = ("images", "height", "width", "line", "blocks")


def cut(
    shape: tuple[int, ...], elements: int, *, channels_last: bool, pool: bool = False, bits: bool = False
) -> Tiling:
    """The tiling of maps ``[images, channels, height, width]`` with ``elements`` (a power of two) a program.

    Args:
        shape: sizes before pooling.
        elements: at most so many, except where packing needs 32 rows.
        channels_last: whether channels are innermost.
        pool: whether 2x2 windows are rows.
        bits: whether outputs are packed, 32 to a word along the innermost dimension.

    Raises:
        ValueError: maps too small to pool, or too large for 32-bit offsets.
    """
    images, channels, height, width = shape
    if pool and min(height, width) < 2:
        raise ValueError(f"maps of {height}x{width} are too small for a 2x2 pool")
    window = 4 if pool else 1
    lanes = 1
    if channels_last:
        lanes = min(MAX_LANES, triton.next_power_of_2(max(1, channels)), max(32, elements // window))
        lanes = max(lanes, 32) if bits else lanes
    packs_rows = bits and not channels_last
    rows = max(elements // (window * lanes), 32 if packs_rows else 1)
    outputs = (height // 2) * (width // 2) if pool else height * width
    line = outputs + -outputs % 32 if packs_rows else outputs
    edge = (height // 2) * (width % 2) + (height % 2) * ((width + 1) // 2) if pool else 0
    rows_per_image = line + (edge + -edge % 32 if packs_rows else edge)
    if (rows // max(1, rows_per_image) + 2) * channels * height * width >= 2**31 or images * rows_per_image >= 2**31:
        raise ValueError(f"maps {shape} are too large")
    return Tiling(images, channels, height, width, channels_last, pool, line, rows_per_image, rows, lanes)
