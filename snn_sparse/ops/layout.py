"""How a sequence [T, N, C, H, W] lies in memory on the CPU, and changing that.

``lanes`` is the layout of the sparse convolution: ``[G, C, H + 2 halo, W + 2 halo, 8 V]`` with the batch innermost,
eight samples of one timestep a vector, V vectors side by side (``csrc/common/lanes.h``). Padding lanes hold zeros.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch

KINDS = {"lanes": 0, "nchw": 1, "nhwc": 2}


@dataclass(frozen=True)
class Layout:
    """Where the elements are.

    Attributes:
        kind: ``lanes``, ``nchw`` (contiguous), ``nhwc`` (channels last), or a wish for ``packed`` spikes on a GPU.
        vectors: V of ``lanes``.
        halo: zero pixels around each map of ``lanes``.
    """

    kind: Literal["lanes", "nchw", "nhwc", "packed"] = "nchw"
    vectors: int = 1
    halo: int = 0

    def config(self) -> list[int]:
        """As the operators take it."""
        return [KINDS[self.kind], self.vectors, self.halo]


NCHW, NHWC = Layout("nchw"), Layout("nhwc")
PACKED = Layout("packed")


def ordered(x: torch.Tensor, layout: Layout) -> torch.Tensor:
    """An ordinary tensor ``[T, N, C, H, W]`` with the strides of ``nchw`` or ``nhwc``; lanes as they are."""
    if layout.kind == "nhwc":
        return x.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    return x.contiguous()


def layout_of(x: torch.Tensor) -> Layout:
    """The layout that an ordinary tensor ``[T, N, C, H, W]`` has, or is closest to."""
    if not x.is_contiguous() and x.permute(0, 1, 3, 4, 2).is_contiguous():
        return NHWC
    return NCHW


class _Convert(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, sizes: tuple[int, ...], old: Layout, new: Layout) -> torch.Tensor:
        ctx.sizes, ctx.old, ctx.new = sizes, old, new
        return _convert(x, sizes, old, new)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        return _convert(grad, ctx.sizes, ctx.new, ctx.old), None, None, None


def _convert(x: torch.Tensor, sizes: tuple[int, ...], old: Layout, new: Layout) -> torch.Tensor:
    if old.kind == "lanes":
        x = torch.ops.snn_sparse.from_lanes(x.contiguous(), sizes[0], sizes[1], old.halo)
    if new.kind == "lanes":
        return torch.ops.snn_sparse.to_lanes(x, new.vectors, new.halo)
    return ordered(x, new)


def convert(x: torch.Tensor, sizes: tuple[int, ...], old: Layout, new: Layout) -> torch.Tensor:
    """``x``, a sequence of ``sizes`` = (T, N, C, H, W) in layout ``old``, in layout ``new``; differentiable."""
    if old == new:
        return x
    if old.kind != "lanes" and new.kind != "lanes":
        return ordered(x, new)
    return _Convert.apply(x, sizes, old, new)
