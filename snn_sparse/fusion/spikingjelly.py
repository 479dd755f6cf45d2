"""Our layer for each of SpikingJelly's multi-step ones, around the very same tensors."""

from typing import Any

from torch import nn

from snn_sparse.nn import IF, LIF, BatchNorm2d, Conv2d, MaxPool2d, ParametricLIF
from snn_sparse.ops import SURROGATES, Surrogate

# SpikingJelly's surrogates by class name; any other is left alone, with its neuron.
_SURROGATES = {"ATan": "atan", "Sigmoid": "sigmoid", "PiecewiseQuadratic": "piecewise_quadratic"}


def counterpart(module: nn.Module) -> nn.Module | None:
    """Our layer for one of SpikingJelly's (2.0 and 0.0.0.0.14), holding the same tensors; None: not known."""
    kind = type(module)
    if not kind.__module__.startswith("spikingjelly.") or getattr(module, "step_mode", None) != "m":
        return None
    make = _MAKERS.get(kind.__name__)
    return make(module) if make is not None else None


def _firing(node: Any) -> dict[str, Any] | None:
    surrogate = node.surrogate_function
    name = _SURROGATES.get(type(surrogate).__name__)
    if name is None or not surrogate.spiking or getattr(node, "store_v_seq", False):
        return None
    ours: Surrogate = SURROGATES[name](float(surrogate.alpha))
    return {
        "v_threshold": float(node.v_threshold),
        "v_reset": None if node.v_reset is None else float(node.v_reset),
        "detach_reset": node.detach_reset,
        "surrogate": ours,
    }


def _lif(node: Any) -> nn.Module | None:
    firing = _firing(node)
    return None if firing is None else LIF(tau=float(node.tau), decay_input=node.decay_input, **firing)


def _if(node: Any) -> nn.Module | None:
    firing = _firing(node)
    return None if firing is None else IF(**firing)


def _plif(node: Any) -> nn.Module | None:
    firing = _firing(node)
    if firing is None:
        return None
    ours = ParametricLIF(decay_input=node.decay_input, **firing)
    ours.w = node.w
    return ours


def _share(ours: nn.Module, theirs: nn.Module) -> nn.Module:
    """Give ``ours`` the very parameters and buffers of ``theirs``."""
    for name, parameter in theirs.named_parameters(recurse=False):
        setattr(ours, name, parameter)
    for name, buffer in theirs.named_buffers(recurse=False):
        setattr(ours, name, buffer)
    return ours


def _conv(c: Any) -> nn.Module:
    ours = Conv2d(
        c.in_channels,
        c.out_channels,
        c.kernel_size,
        c.stride,
        c.padding,
        c.dilation,
        c.groups,
        c.bias is not None,
        c.padding_mode,
        device="meta",
    )
    return _share(ours, c)


def _batch_norm(b: Any) -> nn.Module:
    ours = BatchNorm2d(b.num_features, b.eps, b.momentum, b.affine, b.track_running_stats, bn_statistics="pooled")
    return _share(ours, b)


def _max_pool(p: Any) -> nn.Module:
    return MaxPool2d(p.kernel_size, p.stride, p.padding, p.dilation, p.return_indices, p.ceil_mode)


def _linear(old: Any) -> nn.Module:
    return _share(nn.Linear(old.in_features, old.out_features, old.bias is not None, device="meta"), old)


_MAKERS = {
    "LIFNode": _lif,
    "IFNode": _if,
    "ParametricLIFNode": _plif,
    "Conv2d": _conv,
    "BatchNorm2d": _batch_norm,
    "MaxPool2d": _max_pool,
    "Linear": _linear,
}
