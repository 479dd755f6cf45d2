"""Dense convolution of spikes on the CPU whose backward pass keeps one bit of each."""

from typing import Any

import torch
import torch.nn.functional as F

LANES = 8  # spikes that share a byte


class _BinaryConv2d(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, stride: int, padding: int
    ) -> torch.Tensor:
        lines = x if x.is_contiguous() else x.permute(0, 2, 3, 1)  # as they lie in memory
        ctx.save_for_backward(torch.ops.snn_sparse.pack_lanes(lines.reshape(-1)), weight)
        ctx.shape, ctx.channels_last, ctx.bias = x.shape, not x.is_contiguous(), bias is not None
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("binary_conv2d can be differentiated only once: no create_graph=True")
        bits, weight = ctx.saved_tensors
        flat = torch.ops.snn_sparse.unpack_lanes(bits, weight)
        n, c, h, w = ctx.shape
        x = flat.view(n, h, w, c).permute(0, 3, 1, 2) if ctx.channels_last else flat.view(ctx.shape)
        strides, paddings = [ctx.stride] * 2, [ctx.padding] * 2
        needs = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.bias and ctx.needs_input_grad[2]]
        found = torch.ops.aten.convolution_backward(
            grad, x, weight, [weight.shape[0]], strides, paddings, [1, 1], False, [0, 0], 1, needs
        )
        return *(g if need else None for g, need in zip(found, needs, strict=True)), None, None


def binary_conv2d(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, stride: int, padding: int
) -> torch.Tensor:
    """``F.conv2d`` of zeros and ones; can be differentiated once.

    Args:
        x: ``[N, C, H, W]`` of zeros and ones, float32 or float64 on the CPU.
        weight: ``[Cout, C, kh, kw]`` of the same dtype.
        bias: ``[Cout]`` or None.
        stride: of the convolution.
        padding: of the convolution.
    """
    dense = x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)
    if x.numel() % LANES or not dense or not (torch.is_grad_enabled() and weight.requires_grad):
        return F.conv2d(x, weight, bias, stride, padding)
    return _BinaryConv2d.apply(x, weight, bias, stride, padding)
