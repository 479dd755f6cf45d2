"""The convolution on a CPU: dense by torch, at the live weights of a mask in lanes, or from spikes, channels last."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from snn_sparse.ops.backend import implementation, need_library
from snn_sparse.ops.convolution.configuration import (
    LayerConfiguration,
    LiveConfiguration,
    SpikeConfiguration,
    live_of,
    spikes_of,
)
from snn_sparse.ops.spikes import NHWC, empty, is_channels_last, ordered
from snn_sparse.specs import LANES, MAX_KERNEL, MAX_PADDING, MAX_SPIKE_WIDTH, MAX_STRIDE, ConvGeometry

Tensor = torch.Tensor


def packs(x: Tensor) -> bool:
    """Whether spikes ``x`` can be kept for backward at one bit each: dense in memory, whole bytes of them."""
    dense = x.is_contiguous() or is_channels_last(x)
    return x.numel() % LANES == 0 and dense and implementation("convolution", x) == "cpp"


def takes_spikes(g: ConvGeometry) -> bool:
    """Whether the kernels that compute from spikes are made for such a layer; its spikes must fill whole bytes."""
    fits = max(g.kernel) <= MAX_KERNEL and g.stride <= MAX_STRIDE and g.padding <= MAX_PADDING
    return fits and g.width <= MAX_SPIKE_WIDTH and math.prod(g.input_shape) % LANES == 0


def takes_winograd(g: ConvGeometry) -> bool:
    """Whether Winograd's F(2x2, 3x3) is made for the input's gradient of such a layer."""
    return g.kernel == (3, 3) and g.stride == 1 and g.padding <= 2


def live_configuration(keep: Tensor, stride: int, padding: int, configuration: LiveConfiguration) -> LayerConfiguration:
    """List where the live weights of a mask are, for all directions.

    Args:
        keep: bool ``[Cout, Cin, kh, kw]`` on the CPU; kh and kw at most 7.
        stride: of the convolution, 1 to 8.
        padding: of the convolution, 0 to 64.
        configuration: how the kernels walk.

    Raises:
        TypeError: ``keep`` is no bool tensor on the CPU, or a number no int. ValueError: out of those bounds; named.
        RuntimeError: the C++ operators are not there.
    """
    if not isinstance(keep, Tensor) or keep.dtype != torch.bool or keep.device.type != "cpu":
        got = f"{keep.dtype} on {keep.device}" if isinstance(keep, Tensor) else type(keep).__name__
        raise TypeError(f"keep must be a bool tensor on the CPU, got {got}")
    if keep.dim() != 4 or keep.numel() == 0 or max(keep.shape[2:]) > MAX_KERNEL:
        most = f"kernels of at most {MAX_KERNEL}x{MAX_KERNEL}"
        raise ValueError(f"keep must be [Cout, Cin, kh, kw], not empty, {most}, got {list(keep.shape)}")
    for name, value, low, high in (("stride", stride, 1, MAX_STRIDE), ("padding", padding, 0, MAX_PADDING)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must be an int, got {type(value).__name__}")
        if not low <= value <= high:
            raise ValueError(f"{name} must be in {low}..{high}, got {value}")
    need_library()
    keep, c = keep.contiguous(), configuration
    lists = (
        torch.ops.snn_sparse.live_index_lists(keep, stride, c.channel_block, transposed, c.rows_outermost)
        for transposed in (False, True)
    )
    return LayerConfiguration.of_live(keep, c, *lists)


def forward(
    x: Tensor, bits: Tensor | None, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, stride: int, padding: int,
    keep: Tensor | None, lists: Tensor | None, numbers: list[int], adds_bias: bool, binary: bool, statistics: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Output, nothing (no parts of statistics), and the bits of ``x``, if ``binary``, or the weight in ``dtype``."""
    none, bias = weight.new_empty(0, dtype=torch.float32), bias if adds_bias else None
    live, spikes = live_of(lists, numbers), spikes_of(numbers)
    if spikes is not None and spikes.output:
        packed = _pack(x)
        y = torch.ops.snn_sparse.spike_convolution(
            packed, _images(x.shape), weight.contiguous(), bias if bias is None else bias.contiguous(), stride, padding
        )
        y = y.unflatten(0, x.shape[:2]).movedim(-1, 2)
        return y, none, packed if binary else weight.new_empty(0)
    if live is None:
        x = x if spikes is None else ordered(x, NHWC)
        lines = x.permute(0, 1, 3, 4, 2) if is_channels_last(x) else x  # as they lie in memory
        low = weight.to(dtype)
        saved = weight.new_empty(0) if low is weight else low  # outputs may not be inputs
        saved = torch.ops.snn_sparse.pack_bits(lines.reshape(-1)) if binary else saved
        bias = None if bias is None else bias.to(dtype)
        y = F.conv2d(x.to(dtype).flatten(0, 1), low, bias, stride, padding)
        return y.unflatten(0, x.shape[:2]), none, saved
    (c, found), x = live, x.contiguous()
    y = torch.ops.snn_sparse.live_convolution(
        x, weight.contiguous(), bias if bias is None else bias.contiguous(), *found[:3], stride, padding, c.pack
    )
    return y, none, torch.ops.snn_sparse.pack_bits(x) if binary else weight.new_empty(0)


def backward(
    grad: Tensor, x: Tensor | None, bits: Tensor | None, weight: Tensor, saved: Tensor, shape: list[int],
    channels_last: bool, stride: int, padding: int, keep: Tensor | None, lists: Tensor | None, numbers: list[int],
    adds_bias: bool, needs: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of input, weight and bias (``needs`` 1, 2, 4), empty where not needed; the weight's is masked."""
    live, spikes = live_of(lists, numbers), spikes_of(numbers)
    if spikes is not None:
        return _of_spikes(spikes, grad, x, weight, saved, shape, stride, padding, keep, adds_bias, needs)
    if x is None:
        x = _unpack(saved, weight, shape, channels_last)
    if live is None:
        low = saved if saved.dtype == grad.dtype != weight.dtype else weight.to(grad.dtype)
        given = grad, x.to(grad.dtype), low, stride, padding, keep, adds_bias, needs
        grad_x, grad_weight, grad_bias = _dense_gradients(*given)
        return grad_x, grad_weight.to(weight.dtype), grad_bias.to(weight.dtype)
    configuration, found = live
    grad, weight, x = grad.contiguous(), weight.contiguous(), x.contiguous()
    grad_x = grad_weight = grad_bias = weight.new_empty(0)
    if needs & 1:
        grad_x = torch.ops.snn_sparse.live_convolution_grad_input(
            grad, weight, *found[3:], shape[2], shape[3], stride, padding, configuration.pack
        )
    if needs & 6:
        zeros, with_bias = torch.zeros_like(weight), bool(needs & 4) and adds_bias
        given = torch.ops.snn_sparse.live_convolution_grad_weight(
            x, grad, *found[:3], zeros, stride, padding, with_bias, configuration.pack
        )
        grad_weight = zeros if needs & 2 else grad_weight
        grad_bias = given if with_bias else weight.new_zeros(weight.shape[0]) if needs & 4 else grad_bias
    return grad_x, grad_weight, grad_bias


def _pack(x: Tensor) -> Tensor:
    """Spikes ``[T, N, C, H, W]`` as bits, channels innermost."""
    return torch.ops.snn_sparse.pack_bits(x.movedim(2, -1).reshape(-1))


def _images(shape: Sequence[int]) -> list[int]:
    t, n, *others = shape
    return [t * n, *others]


def _unpack(bits: Tensor, like: Tensor, shape: list[int], channels_last: bool) -> Tensor:
    """Spikes ``[T, N, C, H, W]`` from bits that were packed as they lay in memory."""
    flat = torch.ops.snn_sparse.unpack_bits(bits, like)
    if not channels_last:
        return flat.view(shape)
    t, n, c, h, w = shape
    return flat.view(t, n, h, w, c).permute(0, 1, 4, 2, 3)


def _of_spikes(
    how: SpikeConfiguration, grad: Tensor, x: Tensor | None, weight: Tensor, bits: Tensor, shape: list[int],
    stride: int, padding: int, keep: Tensor | None, adds_bias: bool, needs: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of a layer whose input spikes, each from the bits, by Winograd or by torch as ``how`` says."""
    none, grad = weight.new_empty(0), ordered(grad, NHWC)
    lines = grad.movedim(2, -1).flatten(0, 1)
    grad_x = grad_weight = grad_bias = none
    if needs & 1 and how.grad_input:
        found = torch.ops.snn_sparse.winograd_grad_input(lines, weight.contiguous(), *shape[3:], padding)
        grad_x = found.unflatten(0, shape[:2]).movedim(-1, 2)
    elif needs & 1:  # torch looks at the size and strides of an input, not at what it holds
        images = empty(tuple(shape), grad.dtype, grad.device, NHWC)
        grad_x = _dense_gradients(grad, images, weight, stride, padding, None, False, 1)[0]
    if needs & 6 and how.grad_weight and x is None:
        grad_weight, grad_bias = torch.ops.snn_sparse.spike_convolution_grad_weight(
            bits, _images(shape), lines, *weight.shape[2:], stride, padding, bool(needs & 4) and adds_bias
        )
        if keep is not None:
            grad_weight = grad_weight.masked_fill_(~keep, 0)
        if needs & 4 and not adds_bias:
            grad_bias = weight.new_zeros(len(weight))
    elif needs & 6:
        x = _unpack(bits, weight, shape, True) if x is None else x
        _, grad_weight, grad_bias = _dense_gradients(grad, x, weight, stride, padding, keep, adds_bias, needs & 6)
    return grad_x, grad_weight if needs & 2 else none, grad_bias


def _dense_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, keep: Tensor | None, adds_bias: bool, needs: int
) -> tuple[Tensor, Tensor, Tensor]:
    with_bias = bool(needs & 4) and adds_bias
    wanted = [bool(needs & 1), bool(needs & 2), with_bias]
    images, grad = x.flatten(0, 1), grad.flatten(0, 1)
    if stride > 1 and weight.shape[2:] == (1, 1):  # channels last, oneDNN writes beyond its memory for few channels
        images, grad = images.contiguous(), grad.contiguous()
    found = torch.ops.aten.convolution_backward(
        grad, images, weight, [len(weight)], [stride] * 2, [padding] * 2, [1, 1], False, [0, 0],
        1, wanted,
    )  # fmt: skip
    none = weight.new_empty(0)
    grad_x = found[0].unflatten(0, x.shape[:2]) if wanted[0] else none
    grad_weight = found[1] if wanted[1] else none
    if wanted[1] and keep is not None:
        grad_weight = grad_weight.masked_fill_(~keep, 0)
    grad_bias = found[2] if with_bias else weight.new_zeros(len(weight)) if needs & 4 else none
    return grad_x, grad_weight, grad_bias
