"""How a sequence [T, N, C, H, W] lies in memory, and changing that.

``lanes`` is the memory format of the convolution at live weights: ``[G, C, H, W, 8 V]`` with the batch innermost, eight
samples of one timestep a vector, V vectors side by side (``csrc/common/lanes.h``). Padding lanes hold zeros.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch

from snn_sparse.ops.backend import need_library
from snn_sparse.specs import LANES, MEMORY_FORMATS, ceil_div

Sizes = tuple[int, int, int, int, int]


@dataclass(frozen=True)
class MemoryFormat:
    """Where the elements are.

    Attributes:
        kind: ``nchw`` (contiguous), ``nhwc`` (channels last), ``lanes``, or ``packed``: spikes at one bit each.
        vectors: V of ``lanes``.
    """

    kind: Literal["nchw", "nhwc", "lanes", "packed"] = "nchw"
    vectors: int = 0

    @property
    def code(self) -> int:
        """The integer under which operators know it."""
        return MEMORY_FORMATS[self.kind] + self.vectors

    @classmethod
    def of_code(cls, code: int) -> "MemoryFormat":
        """The format with this :attr:`code`."""
        return (NCHW, NHWC)[code] if code < 2 else cls("lanes", code - MEMORY_FORMATS["lanes"])


NCHW, NHWC, PACKED = MemoryFormat("nchw"), MemoryFormat("nhwc"), MemoryFormat("packed")


def is_channels_last(x: torch.Tensor) -> bool:
    """Whether ``[..., C, H, W]`` is dense with channels innermost, and not with pixels innermost as well."""
    return not x.is_contiguous() and x.movedim(-3, -1).is_contiguous()


def format_of(x: torch.Tensor) -> MemoryFormat:
    """The format that an ordinary tensor ``[..., C, H, W]`` has, or is closest to."""
    return NHWC if is_channels_last(x) else NCHW


def ordered(x: torch.Tensor, memory_format: MemoryFormat) -> torch.Tensor:
    """``x [..., C, H, W]`` with the strides of ``nchw`` or ``nhwc``, itself if it has them; lanes made contiguous."""
    if memory_format.kind == "nhwc":
        return x.movedim(-3, -1).contiguous().movedim(-1, -3)
    return x.contiguous()


def empty(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, memory_format: MemoryFormat = NCHW
) -> torch.Tensor:
    """Allocate ``[..., C, H, W]``, uninitialised, in ``nchw`` or ``nhwc``; a sequence [T, N, C, H, W] also in lanes."""
    if memory_format.kind == "nhwc":
        *outer, c, h, w = shape
        return torch.empty((*outer, h, w, c), dtype=dtype, device=device).movedim(-1, -3)
    if memory_format.kind == "lanes":
        t, n, c, h, w = shape
        groups = ceil_div(t * ceil_div(n, LANES), memory_format.vectors)
        return torch.empty((groups, c, h, w, LANES * memory_format.vectors), dtype=dtype, device=device)
    return torch.empty(shape, dtype=dtype, device=device)


def packed_shape(shape: tuple[int, ...] | torch.Size, channels_last: bool) -> tuple[int, ...]:
    """Shape of the bits of spikes ``[T, N, C, H, W]``."""
    t, n, c, h, w = shape
    return (t, n, h, w, (c + 31) // 32) if channels_last else (t, n, c, (h * w + 31) // 32)


class _Convert(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, sizes: Sizes, old: MemoryFormat, new: MemoryFormat) -> torch.Tensor:
        ctx.sizes, ctx.old, ctx.new = sizes, old, new
        return _convert(x, sizes, old, new)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        return _convert(grad, ctx.sizes, ctx.new, ctx.old), None, None, None


def _convert(x: torch.Tensor, sizes: Sizes, old: MemoryFormat, new: MemoryFormat) -> torch.Tensor:
    need_library()
    if old.kind == "lanes":
        x = torch.ops.snn_sparse.from_lanes(x.contiguous(), sizes[0], sizes[1])
    if new.kind == "lanes":
        return torch.ops.snn_sparse.to_lanes(x, new.vectors)
    return ordered(x, new)


def convert(x: torch.Tensor, sizes: Sizes, old: MemoryFormat, new: MemoryFormat) -> torch.Tensor:
    """Rearrange a sequence of ``sizes`` (T, N, C, H, W) from format ``old`` to ``new``; differentiable.

    Raises:
        RuntimeError: lanes without the C++ operators, or a tensor that is not of these sizes.
    """
    if old == new:
        return x
    if old.kind != "lanes" and new.kind != "lanes":
        return ordered(x, new)
    return _Convert.apply(x, sizes, old, new)
