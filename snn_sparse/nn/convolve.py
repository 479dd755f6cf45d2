"""Convolutions and linear layers on sequences [T, N, C, H, W]: how one is computed here, and computing it.

A linear layer is a 1x1 convolution, a ``Conv1d`` one of maps of width 1.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from snn_sparse.nn.masked import Masked, computes, product_dtype
from snn_sparse.ops import Packed
from snn_sparse.ops.convolution import LayerConfiguration, convolution
from snn_sparse.ops.spikes import NCHW, NHWC, PACKED, MemoryFormat, Sizes, convert, ordered
from snn_sparse.specs import ConvGeometry
from snn_sparse.tuning import PACK_ABOVE, LayerTuner

Tensor = torch.Tensor


@dataclass(frozen=True)
class ConvPlan:
    """How a layer computes for inputs of one shape.

    Attributes:
        implementation: ``cpp``, ``triton``, or ``plain``: by torch's layer itself.
        sizes: of the output (T, N, Cout, Ho, Wo).
        memory_format: of input and output.
        configuration: of the operator; unused by ``plain``.
        binary: whether the input holds zeros and ones only.
    """

    implementation: str
    sizes: Sizes
    memory_format: MemoryFormat = NCHW
    configuration: LayerConfiguration = field(default_factory=LayerConfiguration)
    binary: bool = False


def tuner_of(conv: nn.Module) -> LayerTuner:
    """The tuner of a layer: its own, if it owns a mask, else one for dense layers."""
    if isinstance(conv, Masked):
        return conv.tuner
    if "_tuner" not in conv.__dict__:
        conv.__dict__["_tuner"] = LayerTuner(None)
    return conv.__dict__["_tuner"]


def _window(conv: Any) -> tuple[int, int] | None:
    """Stride and padding, where the operators can take the layer; else None."""
    if isinstance(conv, nn.Linear):
        return 1, 0
    if isinstance(conv.padding, str) or conv.groups != 1 or set(conv.dilation) != {1} or conv.padding_mode != "zeros":
        return None
    if isinstance(conv, nn.Conv1d):
        return (1, 0) if (conv.kernel_size, conv.stride, conv.padding) == ((1,), (1,), (0,)) else None
    if not isinstance(conv, nn.Conv2d) or len(set(conv.stride)) > 1 or len(set(conv.padding)) > 1:
        return None
    return conv.stride[0], int(conv.padding[0])


def _four(weight: Tensor) -> Tensor:
    return weight.reshape(*weight.shape, *(1,) * (4 - weight.dim()))


def output_sizes(conv: Any, sizes: Sizes) -> Sizes:
    """Sizes (T, N, Cout, Ho, Wo) of what a layer makes of (T, N, Cin, H, W)."""
    t, n, _, h, w = sizes
    if isinstance(conv, nn.Linear):
        return (t, n, conv.out_features, h, w)
    found = []
    for i, size in enumerate((h,) if isinstance(conv, nn.Conv1d) else (h, w)):
        reach = conv.dilation[i] * (conv.kernel_size[i] - 1)
        padding = {"same": reach, "valid": 0}[conv.padding] if isinstance(conv.padding, str) else 2 * conv.padding[i]
        found.append((size + padding - reach - 1) // conv.stride[i] + 1)
    return (t, n, conv.out_channels, *(*found, 1)[:2])


def plan(conv: Any, sizes: Sizes, binary: bool, like: Tensor | None = None) -> ConvPlan:
    """Choose how a layer computes; measures where that is not known yet.

    Args:
        conv: ``Conv2d``, ``Conv1d`` or ``Linear``.
        sizes: of the input (T, N, Cin, H, W).
        binary: whether the input holds zeros and ones only.
        like: tells device and dtype of the input; None: those of the weight.
    """
    out, window = output_sizes(conv, sizes), _window(conv)
    what = "plain" if window is None else computes(like, conv.weight, conv.bias)
    if what == "plain" or window is None:
        return ConvPlan("plain", out)
    g, tuner = ConvGeometry.of(sizes, _four(conv.weight).shape, *window), tuner_of(conv)
    if what == "cpp":
        memory_format, how = tuner.on_cpu(g, conv.weight.dtype, binary)
        if isinstance(conv, nn.Linear) and how.live is None and how.spikes is None:
            return ConvPlan("plain", out, NCHW if sizes[3:] == (1, 1) else NHWC)
        return ConvPlan("cpp", out, memory_format, how, binary and (how.live is None or tuner.density > PACK_ABOVE))
    if not isinstance(conv, nn.Conv2d):
        return ConvPlan("plain", out)
    packs = torch.is_grad_enabled() or conv.weight.permute(0, 2, 3, 1).is_contiguous()
    how = LayerConfiguration.dense(conv.keep() if isinstance(conv, Masked) else None)
    if packs and binary:
        how = tuner.on_gpu(g, product_dtype(conv.weight), conv.weight.dtype, conv.weight.device)
    return ConvPlan("triton", out, PACKED if packs and binary else NHWC, how)


def convolve(
    conv: Any, x: Tensor | Packed, how: ConvPlan, *, adds_bias: bool = True, statistics: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Compute a layer as planned.

    Args:
        conv: ``Conv2d``, ``Conv1d`` or ``Linear``.
        x: the input in the plan's memory format; ordinary maps ``[T, N, C, H, W]`` or packed spikes by Triton.
        how: the plan.
        adds_bias: see :func:`snn_sparse.ops.convolution.convolution`.
        statistics: likewise.

    Returns:
        the output in the plan's memory format, or ordinary maps by Triton; parts of its statistics or None.
    """
    if how.implementation == "plain":
        assert isinstance(x, Tensor)
        return _plain(conv, x), None
    window, live = _window(conv), how.configuration.live is not None
    assert window is not None
    if isinstance(conv, Masked):
        conv.hold_mask(written=not live)  # live kernels read no pruned weight
    if how.binary and isinstance(x, Tensor) and not torch.compiler.is_compiling():
        tuner_of(conv).see(x)
    given = (_four(conv.weight), conv.bias, *window, how.configuration)
    y, parts = convolution(x, *given, binary=how.binary, adds_bias=adds_bias, statistics=statistics)
    if how.implementation == "cpp" and not live:
        y = ordered(y, how.memory_format)
    return y, parts


def _plain(conv: Any, x: Tensor) -> Tensor:
    """The layer by torch, on ordinary maps."""
    weight = conv.masked_weight() if isinstance(conv, Masked) else conv.weight
    if isinstance(conv, nn.Linear):
        if x.shape[3:] == (1, 1):
            return F.linear(x.flatten(2), weight, conv.bias)[..., None, None]
        return F.linear(x.movedim(2, -1), weight, conv.bias).movedim(-1, 2)
    batch = x.flatten(0, 1)
    batch = batch[..., 0] if isinstance(conv, nn.Conv1d) else batch
    y = conv._conv_forward(batch, weight, conv.bias)
    y = y.unsqueeze(-1) if isinstance(conv, nn.Conv1d) else y
    return y.unflatten(0, x.shape[:2])


def sequence_of(conv: Any, x: Tensor) -> Tensor:
    """Compute a layer on an ordinary batch ``[N, C, H, W]`` or sequence ``[T, N, C, H, W]``, as planned for it now."""
    maps = x if x.dim() == 5 else x.unsqueeze(0)
    sizes: Sizes = tuple(maps.shape)  # type: ignore[assignment]
    how = plan(conv, sizes, False, x)
    source = NCHW if how.memory_format == PACKED else how.memory_format
    given = maps if how.implementation == "triton" else convert(maps, sizes, NCHW, source)
    y, _ = convolve(conv, given, how)
    y = convert(y, how.sizes, source, NCHW) if source.kind == "lanes" else y
    return y if x.dim() == 5 else y[0]
