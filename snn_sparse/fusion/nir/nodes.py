"""Layers with weights, pools and flattening, as nodes of NIR."""

import math
from typing import Any

import numpy as np
import torch
from torch import nn

from snn_sparse.fusion.nir.package import require_nir
from snn_sparse.nn import AvgPool2d, BatchNorm2d, Conv1d, Conv2d

LINEAR = (nn.Linear,)
CONVOLUTIONS = {nn.Conv1d: 2, Conv1d: 2, nn.Conv2d: 3, Conv2d: 3}  # with the number of axes of a sample
POOLS = (nn.AvgPool2d, AvgPool2d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, BatchNorm2d)

Shape = tuple[int, ...]


def _array(t: torch.Tensor) -> np.ndarray:
    return t.detach().cpu().numpy().copy()


def linear_node(layer: Any) -> Any:
    """``Affine``, or ``Linear`` where there is no bias."""
    nir, weight = require_nir(), _array(layer.weight)
    return nir.Linear(weight=weight) if layer.bias is None else nir.Affine(weight=weight, bias=_array(layer.bias))


def conv_node(name: str, layer: Any, sample: Shape) -> Any:
    """``Conv1d`` or ``Conv2d`` for inputs ``sample`` (without T and N).

    Raises:
        ValueError: padding of another kind than zeros; names the layer.
    """
    nir = require_nir()
    if layer.padding_mode != "zeros":
        raise ValueError(f"NIR cannot express layer {name!r}: it pads with zeros, not by {layer.padding_mode!r}")
    weight = _array(layer.weight)
    bias = np.zeros(weight.shape[0], weight.dtype) if layer.bias is None else _array(layer.bias)
    one = isinstance(layer, nn.Conv1d)

    def sizes(value: Any) -> Any:
        return value[0] if one and not isinstance(value, str) else value

    kind, size = (nir.Conv1d, sample[1]) if one else (nir.Conv2d, sample[1:])
    padding, groups = sizes(layer.padding), layer.groups
    return kind(size, weight, sizes(layer.stride), padding, sizes(layer.dilation), groups, bias)


def pool_node(name: str, layer: nn.AvgPool2d) -> Any:
    """``AvgPool2d``, or ``SumPool2d`` for ``divisor_override=1``.

    Raises:
        ValueError: an option that NIR does not have; names the layer.
    """
    nir = require_nir()
    padding = _pair(layer.padding)
    if layer.ceil_mode or (padding.any() and not layer.count_include_pad) or layer.divisor_override not in (None, 1):
        raise ValueError(f"NIR cannot express layer {name!r}: ceil_mode, count_include_pad=False or divisor_override")
    kind = nir.AvgPool2d if layer.divisor_override is None else nir.SumPool2d
    return kind(kernel_size=_pair(layer.kernel_size), stride=_pair(layer.stride), padding=padding)


def mean_node(sample: Shape) -> Any:
    """The average over whole maps ``[C, H, W]``."""
    size = np.array(sample[1:])
    return require_nir().AvgPool2d(kernel_size=size, stride=size, padding=np.zeros(2, int))


def _pair(value: Any) -> np.ndarray:
    return np.array([value, value] if isinstance(value, int) else value)


def flatten_node(name: str, before: Shape, after: Shape) -> Any:
    """``Flatten`` that turns samples ``before`` into ``after``.

    Raises:
        ValueError: no flattening does; names the function or layer.
    """
    for start in range(len(before)):
        for end in range(start + 1, len(before)):
            if (*before[:start], math.prod(before[start : end + 1]), *before[end + 1 :]) == after:
                end = -1 if end == len(before) - 1 else end
                return require_nir().Flatten({"input": np.array(before)}, start_dim=start, end_dim=end)
    raise ValueError(f"NIR cannot express {name!r}: samples of shape {before} become {after}, which is no flattening")


def fold_norm(name: str, node: Any, norm: Any) -> Any:
    """``node`` (a convolution or linear layer) and the batch norm behind it, with its running statistics, as one.

    Raises:
        ValueError: the batch norm has no running statistics; names it.
    """
    if norm.running_mean is None:
        raise ValueError(f"NIR cannot express layer {name!r}: a batch norm without running statistics")
    mean, variance = _array(norm.running_mean).astype(np.float64), _array(norm.running_var).astype(np.float64)
    scale = 1 / np.sqrt(variance + norm.eps)
    scale = scale if norm.weight is None else scale * _array(norm.weight)
    shift = -mean * scale if norm.bias is None else _array(norm.bias) - mean * scale
    dtype = node.weight.dtype
    weight = (node.weight * scale.reshape(-1, *[1] * (node.weight.ndim - 1))).astype(dtype)
    bias = (getattr(node, "bias", 0.0) * scale + shift).astype(dtype)
    nir = require_nir()
    if isinstance(node, nir.Linear | nir.Affine):
        return nir.Affine(weight=weight, bias=bias)
    node.weight, node.bias = weight, bias
    return node
