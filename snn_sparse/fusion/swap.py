"""Drop-in: swap the layers of an existing network for ours, with the same parameters and the same results."""

import copy
from typing import Any

from torch import nn

from snn_sparse.fusion.spikingjelly import counterpart
from snn_sparse.nn import IF, LIF, BatchNorm2d, Conv2d, MaxPool2d, ParametricLIF
from snn_sparse.nn.deferred import plain
from snn_sparse.nn.fused import (
    FusedBatchNorm2d,
    FusedConv2d,
    FusedIF,
    FusedLIF,
    FusedLinear,
    FusedMaxPool2d,
    FusedParametricLIF,
)

FUSED: dict[type[nn.Module], type[nn.Module]] = {
    Conv2d: FusedConv2d,
    BatchNorm2d: FusedBatchNorm2d,
    MaxPool2d: FusedMaxPool2d,
    LIF: FusedLIF,
    IF: FusedIF,
    ParametricLIF: FusedParametricLIF,
    nn.Linear: FusedLinear,
}


def fuse(model: nn.Module) -> nn.Module:
    """Put a network on fused layers; parameters and buffers are shared with ``model``, not copied.

    Batch norm, neuron, residual and 2x2 max-pool run as one operator over all timesteps: in C++ on a CPU, by Triton
    kernels on an NVIDIA GPU. On a CPU, under a mask (:meth:`snn_sparse.Mask.apply_`), a layer convolves at its live
    weights where that was measured to be faster. Elsewhere, and without the compiled operators, the layers compute as
    the plain ones.

    Known are our own networks and layers, and SpikingJelly's multi-step (``step_mode="m"``) LIF, IF and parametric LIF
    nodes with an ATan, Sigmoid or PiecewiseQuadratic surrogate, convolutions, batch norms (statistics stay pooled over
    time), max-pools and linear layers. Everything else stays as it is. ``state_dict`` keys do not change. Neurons start
    every call at ``v_reset``, as SpikingJelly's do after ``functional.reset_net``, which may still be called.

    Args:
        model: any module; not changed.

    Raises:
        TypeError: ``model`` is no module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    shared: dict[int, Any] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    twin = _swap(copy.deepcopy(model, shared))
    for module in list(twin.modules()):
        for name, child in module.named_children():
            new = _swap(child)
            if new is not child:
                setattr(module, name, new)
    for module in twin.modules():
        module.__class__ = FUSED.get(type(module), type(module))
    if not any(hook is _ordinary for hook in twin._forward_hooks.values()):
        twin.register_forward_hook(_ordinary)
    return twin


def _swap(module: nn.Module) -> nn.Module:
    new = counterpart(module)
    return module if new is None else new.train(module.training)


def _ordinary(_module: nn.Module, _inputs: Any, output: Any) -> Any:
    """Forward hook: what leaves the network is an ordinary tensor."""
    return plain(output)
