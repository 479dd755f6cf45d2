"""Which modules are convolutions, linear layers and batch norms, of torch, of SpikingJelly or ours."""

from typing import Any, Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import SyncBatchNorm, _BatchNorm
from torch.nn.modules.conv import _ConvNd

from snn_sparse.nn import BatchNorm2d, Conv1d, Conv2d
from snn_sparse.specs import BatchNormStatistics

Kind = Literal["conv", "linear", "norm"]
_BASES: tuple[tuple[type, Kind], ...] = ((_ConvNd, "conv"), (nn.Linear, "linear"), (_BatchNorm, "norm"))
_OURS = (Conv1d, Conv2d, BatchNorm2d)


def _author(kind: type) -> type:
    """The class whose ``forward`` a module runs."""
    return next(c for c in kind.__mro__ if "forward" in vars(c))


def kind_of(module: nn.Module) -> Kind | None:
    """Name the kind of a layer whose forward pass is torch's, SpikingJelly's or ours; None: another's."""
    if isinstance(module, (SyncBatchNorm, nn.LazyLinear)) or getattr(module, "transposed", False):
        return None
    author = _author(type(module))
    known = author.__module__.startswith(("torch.nn.", "spikingjelly.")) or author in _OURS or _is_masked(author)
    return next((kind for base, kind in _BASES if known and isinstance(module, base)), None)


def _is_masked(author: type) -> bool:
    return author.__module__.startswith("snn_sparse.nn")


def is_plain(module: nn.Module) -> bool:
    """Whether a module of torch must stay whole: recurrent layers and the like, which no function stands for."""
    return isinstance(module, (nn.RNNBase, nn.RNNCellBase, SyncBatchNorm, _BatchNorm))


def _rank(module: nn.Module) -> int:
    name = type(module).__name__
    for base in type(module).__mro__:
        if base.__module__.startswith("torch.nn."):
            name = base.__name__
            break
    return {"1d": 3, "2d": 4, "3d": 5}.get(name[-2:], 0)


def merges(module: nn.Module, args: tuple[Any, ...]) -> bool:
    """Whether a layer is called with a sequence [T, N, ...], of which it merges the first two dimensions."""
    x = args[0] if len(args) == 1 else None
    if not isinstance(x, torch.Tensor) or kind_of(module) not in ("conv", "norm"):
        return False
    if isinstance(module, _OURS):
        return x.dim() == _rank(module) + 1
    if getattr(module, "step_mode", None) != "m":
        return False
    return x.dim() == _rank(module) + 1 or (x.dim() == 3 and isinstance(module, nn.BatchNorm1d))  # [T, N, C]


def statistics_of(module: nn.Module) -> BatchNormStatistics:
    """The statistics of a batch norm that is called with a sequence."""
    return getattr(module, "bn_statistics", "pooled")
