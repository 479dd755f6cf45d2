"""Storage of maps and spikes: NCHW, NHWC, lanes and packed bits, and conversions between them."""

from snn_sparse.ops.spikes.memory_format import (
    NCHW,
    NHWC,
    PACKED,
    MemoryFormat,
    Sizes,
    convert,
    empty,
    format_of,
    is_channels_last,
    ordered,
    packed_shape,
)
from snn_sparse.ops.spikes.packed import (
    Packed,
    dense_spikes,
    empty_dense,
    plain_pack,
    plain_unpack,
    unpack_spikes,
)

__all__ = [
    "NCHW",
    "NHWC",
    "PACKED",
    "MemoryFormat",
    "Packed",
    "Sizes",
    "convert",
    "dense_spikes",
    "empty",
    "empty_dense",
    "format_of",
    "is_channels_last",
    "ordered",
    "packed_shape",
    "plain_pack",
    "plain_unpack",
    "unpack_spikes",
]
