"""The convolution of packed spikes on a GPU: by torch after unpacking, or by Triton kernels, as each direction says.

What is computed is ``torch.nn.functional.conv2d`` of the unpacked spikes, whose bits are all that backward keeps. The
kernels leave out weights that the mask prunes.
"""

import torch
import torch.nn.functional as F

from snn_sparse.ops.convolution.configuration import tiles_of
from snn_sparse.ops.spikes import dense_spikes, empty_dense
from snn_sparse.specs import ConvGeometry

Tensor = torch.Tensor


def forward(
    x: Tensor, bits: Tensor | None, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, stride: int, padding: int,
    keep: Tensor | None, lists: Tensor | None, numbers: list[int], adds_bias: bool, binary: bool, statistics: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Output, parts of its statistics, and the weight in the output's dtype; the last two empty where there is none."""
    low, none = weight.to(dtype), weight.new_empty(0, dtype=torch.float32)
    saved = weight.new_empty(0) if low is weight else low  # outputs may not be inputs
    chosen, bias = tiles_of("output", lists, numbers), bias if adds_bias else None
    if chosen is None or bits is None:
        dense = x.to(dtype) if bits is None else dense_spikes(bits, tuple(x.shape), dtype)
        bias = None if bias is None else bias.to(dtype)
        y = F.conv2d(dense.flatten(0, 1), low, bias, stride, padding)
        return y.unflatten(0, x.shape[:2]), none, saved
    from snn_sparse.ops.convolution.triton_conv import convolve

    geometry = ConvGeometry.of(x.shape, weight.shape, stride, padding)
    y, parts = convolve(bits, low, bias, geometry, chosen[1], chosen[0], statistics=statistics)
    return y, none if parts is None else parts, saved


def backward(
    grad: Tensor, x: Tensor | None, bits: Tensor | None, weight: Tensor, saved: Tensor, shape: list[int],
    channels_last: bool, stride: int, padding: int, keep: Tensor | None, lists: Tensor | None, numbers: list[int],
    adds_bias: bool, needs: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of spikes, weight and bias (``needs`` 1, 2, 4), empty where not needed; the weight's is masked."""
    low, geometry = saved if saved.numel() else weight, ConvGeometry.of(shape, weight.shape, stride, padding)
    by_input, by_weight = tiles_of("grad_input", lists, numbers), tiles_of("grad_weight", lists, numbers)
    by_torch = (needs & 1 if by_input is None else 0) | (needs & 2 if by_weight is None else 0)
    found = [grad.new_empty(0) for _ in range(2)]
    if by_torch:
        dense = None if x is None else x.to(grad.dtype)
        if dense is None and bits is not None:
            dense = dense_spikes(bits, tuple(shape), grad.dtype) if by_torch & 2 else None
            dense = empty_dense(tuple(shape), bits, grad.dtype) if dense is None else dense
        found = torch_gradients(grad, dense, low, stride, padding, by_torch)
        if by_torch & 2 and keep is not None:
            found[1] = found[1].masked_fill_(~keep, 0)
    if needs & 1 and by_input is not None:
        from snn_sparse.ops.convolution.triton_conv import convolve

        found[0], _ = convolve(grad, low, None, geometry, by_input[1], by_input[0], transposed=True)
    if needs & 2 and by_weight is not None and bits is not None:
        from snn_sparse.ops.convolution.triton_weight import weight_gradient

        found[1] = weight_gradient(bits, grad, geometry, by_weight[1], by_weight[0], keep, weight.dtype)
    grad_bias = weight.new_empty(0)
    if needs & 4:
        exact = torch.promote_types(grad.dtype, torch.float32)
        grad_bias = grad.sum((0, 1, 3, 4), dtype=exact) if adds_bias else weight.new_zeros(len(weight))
    return found[0], found[1].to(weight.dtype), grad_bias.to(weight.dtype)


def torch_gradients(
    grad: Tensor, x: Tensor | None, weight: Tensor, stride: int, padding: int, needs: int
) -> list[Tensor]:
    """Gradients of input and weight by torch, as far as ``needs`` (1, 2) says; the others empty."""
    assert x is not None
    wanted = [bool(needs & 1), bool(needs & 2), False]
    grads = torch.ops.aten.convolution_backward(
        grad.flatten(0, 1), x.flatten(0, 1), weight, [len(weight)], [stride] * 2, [padding] * 2, [1, 1], False, [0, 0],
        1, wanted,
    )  # fmt: skip
    found = [g if need else grad.new_empty(0) for g, need in zip(grads[:2], wanted[:2], strict=True)]
    return [found[0].unflatten(0, x.shape[:2]) if wanted[0] else found[0], found[1]]
