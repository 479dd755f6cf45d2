"""Which elements a program works on: tiles [ROWS, LANES] of one timestep, in either memory format.

Rows run over the pixels of all images, lanes over channels: one channel a program where channels are outermost (NCHW),
up to 64 neighbours where they are innermost (NHWC). With a pool rows run over 2x2 windows, and each of the four pixels
is a tile of its own, so that a thread has a whole window. Windows that a map of odd size cuts off come after the
complete ones of each image; they have pixels but no output. A *line* is what lies together in memory: the channels of a
pixel (NHWC), or the pixels of a channel (NCHW).
"""
# mypy: disable-error-code="no-untyped-def, assignment"
# Arguments of kernels have no Python types, and a constexpr branch decides the type of a value.

from dataclasses import dataclass
from typing import Any

import triton
import triton.language as tl

MAX_LANES = 64
# Programs of kernels that sum over rows: two on each of an H100's multiprocessors, as many as fit where threads take
# all registers; each has many tiles, since its last sums cost as much as one.
MAX_SUMMING_PROGRAMS = 2 * 132


# fmt: off
@triton.jit
def locate(
    tile, block, images, channels, height, width, pixels, outputs, line, rows_per_image,
    ROWS: tl.constexpr, LANES: tl.constexpr, POOL: tl.constexpr, CHANNELS_LAST: tl.constexpr, WHOLE: tl.constexpr,
):
    """Places of a tile's neurons and of its outputs, and its lanes.

    Returns:
        place of the neurons: first line (int64), lines after it, positions in their lines, which of them exist (tuples,
        an entry for each of the window's pixels), length of a line, lines of a timestep (int64).
        place of the outputs: the same without tuples; and which rows have an output [ROWS, 1].
        lanes: channels [1, LANES], which of them exist, how many exist in all.
    """
    # fmt: on
    first = tile * ROWS
    row = tl.arange(0, ROWS)[:, None]
    channel = block * LANES + tl.arange(0, LANES)[None, :]
    has_channel = tl.full([1, LANES], True, tl.int1) if WHOLE else channel < channels
    if CHANNELS_LAST and not POOL:  # the pixels of all images follow each other
        rows_exist = tl.full([ROWS, 1], True, tl.int1) if WHOLE else row < images * pixels - first
        before, after = first, first
        lines, ats, exist, position_line, at = (row,), (channel,), (rows_exist & has_channel,), row, channel
    elif CHANNELS_LAST and WHOLE:  # so do the windows; two lines of them are four of pixels
        half = width // 2
        rows_exist = tl.full([ROWS, 1], True, tl.int1)
        first_strip = first // half
        before, after = tl.cast(first_strip, tl.int64) * (2 * width), first
        strip = (row + first) // half
        corner = (strip - first_strip) * (2 * width) + (row + first - strip * half) * 2
        all_exist = rows_exist & has_channel
        lines, ats = (corner, corner + 1, corner + width, corner + width + 1), (channel, channel, channel, channel)
        exist, position_line, at = (all_exist, all_exist, all_exist, all_exist), row, channel
    else:
        first_image = first // rows_per_image
        image = (row + first) // rows_per_image
        position = row + first - image * rows_per_image
        rows_exist = (image < images) & (position < outputs)
        there = image < images
        image -= first_image
        if WHOLE:
            rows_exist = tl.full([ROWS, 1], True, tl.int1)
        count = pixels if CHANNELS_LAST else channels
        before = tl.cast(first_image, tl.int64) * count
        after = tl.cast(first_image, tl.int64) * (outputs if CHANNELS_LAST else channels)
        position_line = image * (outputs if CHANNELS_LAST else channels) + (position if CHANNELS_LAST else channel)
        at = channel if CHANNELS_LAST else position
        lines, ats, exist = (), (), ()
        for w in tl.static_range(4 if POOL else 1):
            pixel, exists = position, rows_exist
            if POOL:
                pixel, exists = _pixel(position, there, w, height, width, outputs, line)
            if WHOLE:
                exists = rows_exist
            lines = lines + (image * count + (pixel if CHANNELS_LAST else channel),)
            ats = ats + (channel if CHANNELS_LAST else pixel,)
            exist = exist + (exists & has_channel,)
    length, to = channels if CHANNELS_LAST else pixels, channels if CHANNELS_LAST else outputs
    all_lines = tl.cast(images, tl.int64) * (pixels if CHANNELS_LAST else channels)
    all_after = tl.cast(images, tl.int64) * (outputs if CHANNELS_LAST else channels)
    place = (tl.cast(before, tl.int64), lines, ats, exist, length, all_lines)
    output = (tl.cast(after, tl.int64), position_line, at, rows_exist & has_channel, to, all_after, rows_exist)
    return place, output, (channel, has_channel, channels)


@triton.jit
def _pixel(position, there, w: tl.constexpr, height, width, outputs, line):
    """Pixel ``w`` of 2x2 windows, and whether it exists; incomplete windows come after the complete ones."""
    half = width // 2
    right_edge = (height // 2) * (width % 2)
    edge = position - line
    i = tl.where(position < outputs, position // half, tl.where(edge < right_edge, edge, height // 2))
    j = tl.where(position < outputs, position % half, tl.where(edge < right_edge, half, edge - right_edge))
    y, x = 2 * i + w // 2, 2 * j + w % 2
    exists = there & ((position < outputs) | (edge >= 0)) & (y < height) & (x < width)
    return y * width + x, exists


@triton.jit
def of_step(pointer, t, place):
    """Pointer to the first line of a place at step t."""
    return pointer + (place[5] * t + place[0]) * place[4]


@triton.jit
def offsets(place, w: tl.constexpr):
    """Offsets of pixel ``w`` of the windows from there; 32 bits are enough (``cut`` checks it)."""
    return place[1][w] * place[4] + place[2][w]


@triton.jit
def words_of(length):
    """Words that hold one packed line."""
    return (length + 31) // 32


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

    @property
    def whole(self) -> bool:
        """Whether every row of every tile is an output, every lane a channel, and every pixel in a complete window."""
        even = not self.pool or self.height % 2 == self.width % 2 == 0
        full = self.images * self.rows_per_image % self.rows == self.channels % self.lanes == 0
        return even and full and self.rows_per_image == self.outputs

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
            "WHOLE": self.whole,
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
