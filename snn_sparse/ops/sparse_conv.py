"""Convolution at the live weights of a mask only, on the CPU in the ``lanes`` layout (see ``csrc/``)."""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

Pair = tuple[int, int]

# What the kernels are made for (csrc/conv/conv_plan.h, csrc/common/lanes.h).
LANES, MAX_VECTORS, MAX_KERNEL, MAX_STRIDE, MAX_PADDING = 8, 8, 7, 8, 64


def reference(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, mask: torch.Tensor, stride: int, padding: int
) -> torch.Tensor:
    """What :func:`sparse_conv2d` computes, on an ordinary batch ``[N, C, H, W]``."""
    return F.conv2d(x, weight * mask, bias, stride, padding)


@dataclass(frozen=True)
class Blocking:
    """How the kernel walks through a layer; found by timing (see :mod:`snn_sparse.nn.fused.plan`).

    Attributes:
        vectors: V of the layout.
        channel_block: input channels that are kept in the cache at a time; 0: all.
        rows_outermost: order of the taps.
        pack: whether a block's pixels are copied together first.
    """

    vectors: int = 1
    channel_block: int = 0
    rows_outermost: bool = False
    pack: bool = False


@dataclass
class Structure:
    """Where the live weights of one mask are, sorted for forward and for the gradient of the input.

    Args:
        mask: bool ``[Cout, Cin, kh, kw]`` on the CPU; kh and kw at most 7.
        stride: of the convolution, 1 to 8.
        padding: of the convolution, 0 to 64.
        blocking: how the kernel walks.

    Raises:
        TypeError: ``mask`` is no bool tensor on the CPU, or ``stride`` or ``padding`` no int.
        ValueError: ``mask``, ``stride``, ``padding`` or ``blocking`` out of those bounds.
    """

    mask: torch.Tensor
    stride: int
    padding: int
    blocking: Blocking
    forward: list[torch.Tensor] = field(init=False)
    transposed: list[torch.Tensor] = field(init=False)

    def __post_init__(self) -> None:
        _check_mask(self.mask)
        _check_whole("stride", self.stride, 1, MAX_STRIDE)
        _check_whole("padding", self.padding, 0, MAX_PADDING)
        b = self.blocking
        if b.channel_block < 0:
            raise ValueError(f"blocking.channel_block must not be negative, got {b.channel_block}")
        make = torch.ops.snn_sparse.sparse_conv2d_structure
        mask = self.mask.contiguous()
        self.forward = make(mask, self.stride, b.channel_block, False, b.rows_outermost)
        self.transposed = make(mask, self.stride, b.channel_block, True, b.rows_outermost)


def _check_mask(mask: torch.Tensor) -> None:
    if not isinstance(mask, torch.Tensor) or mask.dtype != torch.bool or mask.device.type != "cpu":
        got = f"{mask.dtype} on {mask.device}" if isinstance(mask, torch.Tensor) else type(mask).__name__
        raise TypeError(f"mask must be a bool tensor on the CPU, got {got}")
    if mask.dim() != 4 or mask.numel() == 0 or max(mask.shape[2:]) > MAX_KERNEL:
        most = f"kernels of at most {MAX_KERNEL}x{MAX_KERNEL}"
        raise ValueError(f"mask must be [Cout, Cin, kh, kw], not empty, {most}, got {list(mask.shape)}")


def _check_whole(name: str, value: int, low: int, high: int) -> None:
    if not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be in {low}..{high}, got {value}")


def _check_tensor(name: str, t: torch.Tensor, x: torch.Tensor) -> None:
    if not isinstance(t, torch.Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(t).__name__}")
    if t.device.type != "cpu" or t.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name} must be float32 or float64 on the CPU, got {t.dtype} on {t.device}")
    if t.dtype != x.dtype:
        raise TypeError(f"{name} must have the dtype of x, {x.dtype}, got {t.dtype}")


def _check_sizes(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, size: Pair, s: Structure) -> None:
    if weight.shape != s.mask.shape:
        raise ValueError(f"weight must have the mask's shape {list(s.mask.shape)}, got {list(weight.shape)}")
    vectors, rest = divmod(x.shape[-1], LANES) if x.dim() == 5 else (0, 0)
    if rest or not 1 <= vectors <= MAX_VECTORS or x.numel() == 0:
        raise ValueError(f"x must be lanes [G, C, H, W, 8 V], not empty, V at most {MAX_VECTORS}, got {list(x.shape)}")
    if x.shape[1] != weight.shape[1]:
        raise ValueError(f"x must have the {weight.shape[1]} channels of the weight, got {x.shape[1]}")
    if not isinstance(size, tuple | list) or len(size) != 2:
        raise TypeError(f"size must be (H, W), got {size!r}")
    if tuple(size) != x.shape[2:4]:
        raise ValueError(f"size must be that of x's maps, {tuple(x.shape[2:4])}, got {tuple(size)}")
    if any(d + 2 * s.padding < k for d, k in zip(size, weight.shape[2:], strict=True)):
        raise ValueError(f"size {tuple(size)}, padding {s.padding}: too small for kernels of {tuple(weight.shape[2:])}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must be [{weight.shape[0]}], one value a filter, got {list(bias.shape)}")


class _SparseConv2d(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, size: Pair, s: Structure, pack: bool
    ) -> torch.Tensor:
        ctx.packed = pack and ctx.needs_input_grad[1]
        ctx.save_for_backward(torch.ops.snn_sparse.pack_lanes(x) if ctx.packed else x, weight)
        ctx.size, ctx.structure, ctx.has_bias = size, s, bias is not None
        return torch.ops.snn_sparse.sparse_conv2d_forward(
            x, weight, bias, s.forward, s.stride, s.padding, 0, 0, 0, 0, s.blocking.pack
        )

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # once_differentiable would miss a second derivative through x and weight alone, and it would silently be zero.
        if torch.is_grad_enabled():
            raise RuntimeError("sparse_conv2d can be differentiated only once: no create_graph=True")
        x, weight = ctx.saved_tensors
        x = torch.ops.snn_sparse.unpack_lanes(x, weight) if ctx.packed else x
        s: Structure = ctx.structure
        grad = grad.contiguous()
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = torch.ops.snn_sparse.sparse_conv2d_grad_input(
                grad, weight, s.transposed, *ctx.size, s.stride, s.padding, 0, 0, 0, 0, s.blocking.pack
            )
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            grad_weight = torch.zeros_like(weight)
            grad_bias = torch.ops.snn_sparse.sparse_conv2d_grad_weight(
                x, grad, s.forward, grad_weight, s.stride, s.padding, 0, 0, ctx.has_bias, 0, 0, s.blocking.pack
            )
        return grad_x, grad_weight, grad_bias if ctx.has_bias else None, None, None, None


def sparse_conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    size: Pair,
    structure: Structure,
    *,
    binary: bool = False,
) -> torch.Tensor:
    """Convolve at the live weights.

    The gradient of the weight is exactly zero where the mask is false; pruned weights are never read. It can be
    differentiated once.

    Args:
        x: ``lanes`` ``[G, Cin, H, W, 8 V]`` without a halo, float32 or float64.
        weight: dense ``[Cout, Cin, kh, kw]``.
        bias: ``[Cout]`` or None.
        size: (H, W) of ``x``.
        structure: of the mask.
        binary: ``x`` holds zeros and ones only; backward then keeps one bit of each.

    Returns:
        the output in ``lanes``, as many vectors side by side as ``x``; its padding lanes hold the bias.

    Raises:
        TypeError: an argument of another type, dtype or device; named.
        ValueError: an argument whose sizes do not fit; named.
        RuntimeError: one group of ``x`` too large for 32-bit offsets; a second derivative.
    """
    for name, t in (("x", x), ("weight", weight)) if bias is None else (("x", x), ("weight", weight), ("bias", bias)):
        _check_tensor(name, t, x)
    if not isinstance(structure, Structure):
        raise TypeError(f"structure must be a Structure, got {type(structure).__name__}")
    _check_sizes(x, weight, bias, size, structure)
    bias = bias if bias is None else bias.contiguous()
    return _SparseConv2d.apply(x.contiguous(), weight.contiguous(), bias, size, structure, binary)
