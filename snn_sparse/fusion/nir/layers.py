"""Nodes of NIR as layers."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import nn

from snn_sparse.fusion.nir.neurons import neuron_layer
from snn_sparse.fusion.nir.package import require_nir
from snn_sparse.nn import AvgPool2d, Conv1d, Conv2d


def torch_layer(name: str, node: Any, dt: float, surrogate: Any) -> nn.Module:
    """The layer that computes what a node says.

    Raises:
        ValueError: there is none; names the node.
    """
    nir = require_nir()
    if isinstance(node, nir.LIF | nir.IF):
        return neuron_layer(name, node, dt, surrogate)
    if isinstance(node, nir.Affine | nir.Linear):
        return _linear(name, node)
    if isinstance(node, nir.Conv1d | nir.Conv2d):
        return _convolution(name, node, 1 if isinstance(node, nir.Conv1d) else 2)
    if isinstance(node, nir.AvgPool2d | nir.SumPool2d):
        kernel, stride, padding = (_pair(size) for size in (node.kernel_size, node.stride, node.padding))
        total = isinstance(node, nir.SumPool2d)
        return AvgPool2d(kernel, stride, padding, divisor_override=1 if total else None)
    if isinstance(node, nir.Flatten):
        # NIR counts the axes of a sample, torch those of [T, N, ...]
        start, end = int(node.start_dim), int(node.end_dim)
        return nn.Flatten(start + 2 if start >= 0 else start, end + 2 if end >= 0 else end)
    raise ValueError(
        f"node {name!r} is a {type(node).__name__}; read are Affine, Linear, Conv1d, Conv2d, SumPool2d, AvgPool2d, "
        "Flatten, LIF and IF"
    )


def _linear(name: str, node: Any) -> nn.Module:
    weight = np.asarray(node.weight)
    if weight.ndim != 2:
        raise ValueError(f"weight of node {name!r} must have two axes, got shape {weight.shape}")
    outputs, inputs = weight.shape
    return _filled(name, nn.Linear(inputs, outputs, bias=hasattr(node, "bias"), device="meta"), node)


def _convolution(name: str, node: Any, axes: int) -> nn.Module:
    weight, groups = np.asarray(node.weight), int(node.groups)
    if weight.ndim != axes + 2:
        raise ValueError(f"weight of node {name!r} must have {axes + 2} axes, got shape {weight.shape}")
    channels, kernel = (weight.shape[1] * groups, weight.shape[0]), weight.shape[2:]
    stride, dilation = _sizes(node.stride, axes), _sizes(node.dilation, axes)
    padding = node.padding if isinstance(node.padding, str) else _sizes(node.padding, axes)
    kind: Any = Conv1d if axes == 1 else Conv2d
    try:
        layer = kind(*channels, kernel, stride, padding, dilation, groups, device="meta")
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"node {name!r} is no convolution that torch knows: {error}") from None
    return _filled(name, layer, node)


def _filled(name: str, layer: nn.Module, node: Any) -> nn.Module:
    """Give a layer the weights of a node."""
    for key, meta in list(layer.named_parameters()):
        value = torch.from_numpy(np.array(getattr(node, key)))
        if value.shape != meta.shape:
            raise ValueError(f"{key} of node {name!r} must be {tuple(meta.shape)}, got {tuple(value.shape)}")
        setattr(layer, key, nn.Parameter(value if value.is_floating_point() else value.float()))
    return layer


def _sizes(value: Any, axes: int) -> tuple[int, ...]:
    return tuple(int(v) for v in np.broadcast_to(np.asarray(value), axes))


def _pair(value: Any) -> tuple[int, int]:
    height, width = _sizes(value, 2)
    return height, width


def parameter_dtype(nodes: Iterable[Any]) -> torch.dtype:
    """The widest of the dtypes of the weights; float32 where none is of floating point."""
    weights = [np.asarray(node.weight).dtype for node in nodes if hasattr(node, "weight")]
    widest = np.result_type(*weights) if weights else np.dtype(np.float32)
    return torch.from_numpy(np.empty(0, widest)).dtype if widest.kind == "f" else torch.float32
