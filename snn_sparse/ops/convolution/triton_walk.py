"""How the convolution kernels walk: rows of a tile, the input pixel behind each, the list of channels that a mask left.

A tile's rows are output pixels of one timestep, its columns a *group* of output channels. For each tap (kh, kw) of a
group, lists name the chunks of input channels that any of its outputs reads (``channel_groups.py``): chunks that
the mask emptied and channels that nobody reads are not there. Where rows are the images at one pixel (``PIXEL_MAJOR``),
taps that fall into the padding are skipped: on 4x4 maps they are 31 %, on 2x2 maps 56 %.
"""
# mypy: disable-error-code="no-untyped-def, assignment"
# Arguments of kernels have no Python types, and a constexpr branch decides the type of a value.

import triton
import triton.language as tl


@triton.jit
def tile_rows(tile, images, pixels, width, ROWS: tl.constexpr, PIXEL_MAJOR: tl.constexpr, POOL: tl.constexpr):
    """Locate a tile: its first image; of each row [ROWS] the image after that, the pixel, and whether it exists.

    Last comes the pixel of all rows where there is one. Pooled, four rows are a 2x2 window. Offsets fit 32 bits after
    the first image (``ConvGeometry.check_offsets``).
    """
    if PIXEL_MAJOR:
        tiles = tl.cdiv(images, ROWS)
        first = tile % tiles * ROWS
        image = tl.arange(0, ROWS)
        the_pixel = tile // tiles
        pixel = tl.zeros([ROWS], tl.int32) + the_pixel
    elif POOL:
        half, windows = width // 2, (width // 2) * (pixels // width // 2)
        row, the_pixel = tile * ROWS + tl.arange(0, ROWS), 0
        first = tile * (ROWS // 4) // windows
        image, window, corner = row // 4 // windows - first, row // 4 % windows, row % 4
        pixel = (2 * (window // half) + corner // 2) * width + 2 * (window % half) + corner % 2
    else:
        row, the_pixel = tile * ROWS + tl.arange(0, ROWS), 0
        first = tile * ROWS // pixels
        image, pixel = row // pixels - first, row % pixels
    return first, image, pixel, first + image < images, the_pixel


@triton.jit
def group_outputs(order, group, WIDTH: tl.constexpr):
    """The output channels [WIDTH] of a group: neighbours, unless an order lists them."""
    if order is not None:
        output = tl.load(order + group * WIDTH + tl.arange(0, WIDTH))
    else:
        output = group * WIDTH + tl.arange(0, WIDTH)
    return output


@triton.jit
def source_pixel(
    pixel, tap, width, height_in, width_in, padding,
    STRIDE: tl.constexpr, KERNEL_WIDTH: tl.constexpr, TRANSPOSED: tl.constexpr,
):  # fmt: skip
    """The input pixel that a tap reads for an output pixel, and whether it lies on the map."""
    y, x = pixel // width, pixel % width
    down, right = tap // KERNEL_WIDTH, tap % KERNEL_WIDTH
    if TRANSPOSED:
        y, x = y + padding - down, x + padding - right
        inside = (y >= 0) & (x >= 0) & (y % STRIDE == 0) & (x % STRIDE == 0)
        y, x = y // STRIDE, x // STRIDE
        inside = inside & (y < height_in) & (x < width_in)
    else:
        y, x = y * STRIDE + down - padding, x * STRIDE + right - padding
        inside = (y >= 0) & (x >= 0) & (y < height_in) & (x < width_in)
    return y * width_in + x, inside


@triton.jit
def reading_tile(
    tile, tap, images, pixels, width, height_in, width_in, padding,
    ROWS: tl.constexpr, STRIDE: tl.constexpr, KERNEL_WIDTH: tl.constexpr,
):  # fmt: skip
    """Number ``tile`` of the tiles of one pixel whose tap lies on the map, and how many there are."""
    down, right = tap // KERNEL_WIDTH, tap % KERNEL_WIDTH
    top, left = tl.cdiv(tl.maximum(padding - down, 0), STRIDE), tl.cdiv(tl.maximum(padding - right, 0), STRIDE)
    bottom = tl.minimum(pixels // width, tl.cdiv(tl.maximum(height_in + padding - down, 0), STRIDE))
    high, wide = (
        tl.maximum(bottom - top, 0),
        tl.minimum(width, tl.cdiv(tl.maximum(width_in + padding - right, 0), STRIDE)),
    )
    wide = tl.maximum(wide - left, 0)
    tiles = tl.cdiv(images, ROWS)
    nth, across = tile // tiles, tl.maximum(wide, 1)
    pixel = (top + nth // across) * width + left + nth % across
    return pixel * tiles + tile % tiles, high * wide * tiles


@triton.jit
def chunk_channels(channels, chunk, STEP: tl.constexpr, GATHERED: tl.constexpr):
    """The channels [STEP] of a chunk: listed one by one (-1: padding), or neighbours that the listed number counts."""
    if GATHERED:
        channel = tl.load(channels + chunk * STEP + tl.arange(0, STEP))
    else:
        channel = tl.load(channels + chunk) * STEP + tl.arange(0, STEP)
    return channel


@triton.jit
def load_inputs(
    data, line, exists, channels, chunk, inputs, ROWS: tl.constexpr, STEP: tl.constexpr, BITS: tl.constexpr,
    GATHERED: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Inputs [ROWS, STEP] at the pixels ``line`` [ROWS], counted from the data on, dense or packed; 0 outside."""
    channel = chunk_channels(channels, chunk, STEP, GATHERED)
    given = exists[:, None] & (channel >= 0)[None, :] & (channel < inputs)[None, :]
    words = (inputs + 31) // 32
    if not BITS:
        values = tl.load(data + line[:, None] * inputs + channel[None, :], mask=given, other=0.0).to(DTYPE)
    elif GATHERED:
        word = tl.load(data + line[:, None] * words + (channel // 32)[None, :], mask=given, other=0)
        values = tl.where(((word >> (tl.maximum(channel, 0) % 32)[None, :]) & 1) != 0, 1.0, 0.0).to(DTYPE)
    else:
        at = tl.load(channels + chunk) * (STEP // 32) + tl.arange(0, STEP // 32)
        word = tl.load(
            data + line[:, None] * words + at[None, :], mask=exists[:, None] & (at < words)[None, :], other=0
        )
        bit = (word[:, :, None] >> tl.arange(0, 32)[None, None, :]) & 1
        values = tl.reshape(tl.where(bit != 0, 1.0, 0.0).to(DTYPE), [ROWS, STEP])
    return values


@triton.jit
def lines_from(data, pixels, inputs, BITS: tl.constexpr):
    """Pointer to the pixel numbered ``pixels`` (64 bits) of a tensor [pixels, channels], dense or packed."""
    return data + pixels * ((inputs + 31) // 32 if BITS else inputs)


@triton.jit
def convolve_tile(
    data, weight, lists, group, output, image, pixel, the_pixel, exists, sizes, strides,
    STRIDE: tl.constexpr, KERNEL_WIDTH: tl.constexpr, TAPS: tl.constexpr, TRANSPOSED: tl.constexpr,
    BITS: tl.constexpr, GATHERED: tl.constexpr, PIXEL_MAJOR: tl.constexpr,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """Products [ROWS, WIDTH] of a tile in float32; ``data`` points to its first image.

    ``lists`` are (pointers, channels), ``sizes`` (width, height_in, width_in, inputs, outputs, padding), ``strides``
    those of the weight along (output, input, tap); where channels are gathered it comes packed instead, as the loop
    reads it. ``the_pixel`` is that of all rows where there is one.
    """
    pointers, channels = lists
    width, height_in, width_in, inputs, outputs, padding = sizes
    along_output, along_input, along_tap = strides
    dtype = weight.dtype.element_ty
    precision: tl.constexpr = "ieee" if weight.dtype.element_ty == tl.float32 else "tf32"
    products = tl.zeros([ROWS, WIDTH], tl.float32)
    for tap in range(TAPS):
        source, inside = source_pixel(pixel, tap, width, height_in, width_in, padding, STRIDE, KERNEL_WIDTH, TRANSPOSED)
        line = image * (height_in * width_in) + source
        begin, end = tl.load(pointers + group * TAPS + tap), tl.load(pointers + group * TAPS + tap + 1)
        if PIXEL_MAJOR:  # all rows read the same pixel
            _, on_map = source_pixel(
                the_pixel, tap, width, height_in, width_in, padding, STRIDE, KERNEL_WIDTH, TRANSPOSED
            )
            end = tl.where(on_map, end, begin)
        for chunk in range(begin, end):
            x = load_inputs(data, line, exists & inside, channels, chunk, inputs, ROWS, STEP, BITS, GATHERED, dtype)
            if GATHERED:
                place = tl.arange(0, STEP)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
                w = tl.load(weight + chunk * (STEP * WIDTH) + place)
            else:
                channel = chunk_channels(channels, chunk, STEP, False)
                given = (channel < inputs)[:, None] & (output < outputs)[None, :]
                at = channel[:, None] * along_input + output[None, :] * along_output + tap * along_tap
                w = tl.load(weight + at, mask=given, other=0.0)
            products = tl.dot(x, w, products, input_precision=precision)
    return products
