"""Which modules are convolutions, linear layers and batch norms, of torch, of SpikingJelly or ours."""

from typing import Any, Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import SyncBatchNorm, _BatchNorm
from torch.nn.modules.conv import _ConvNd

from snn_sparse.nn import BatchNorm2d, Conv1d, Conv2d, SyncBatchNorm2d
from snn_sparse.specs import BatchNormStatistics

Kind = Literal["conv", "linear", "norm"]
_BASES: tuple[tuple[type, Kind], ...] = ((_ConvNd, "conv"), (nn.Linear, "linear"), (_BatchNorm, "norm"))
_OURS = (Conv1d, Conv2d, BatchNorm2d)
# Authors of forward passes in SpikingJelly that compute what the layer of torch does, on sequences too.
_SPIKINGJELLY = {
    *("Conv1d", "Conv2d", "Conv3d", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "Linear"),
    *("_ThresholdDependentBatchNormBase", "_MultiStepThresholdDependentBatchNormBase"),
}


def _author(kind: type) -> type:
    """The class whose ``forward`` a module runs."""
    return next(c for c in kind.__mro__ if "forward" in vars(c))


def kind_of(module: nn.Module) -> Kind | None:
    """Name the kind of a layer whose forward pass is torch's, SpikingJelly's or ours; None: another's."""
    if isinstance(module, (SyncBatchNorm, SyncBatchNorm2d, nn.LazyLinear)) or getattr(module, "transposed", False):
        return None
    known = _is_known(_author(type(module)))
    return next((kind for base, kind in _BASES if known and isinstance(module, base)), None)


def _is_known(author: type) -> bool:
    where = author.__module__
    if where.startswith("spikingjelly."):
        return author.__name__ in _SPIKINGJELLY
    return author in _OURS or where.startswith(("torch.nn.", "snn_sparse.nn"))


def is_plain(module: nn.Module) -> bool:
    """Whether a module of torch must stay whole: recurrent layers and the like, which no function stands for."""
    return isinstance(module, (nn.RNNBase, nn.RNNCellBase, SyncBatchNorm, _BatchNorm))


def _rank(module: nn.Module) -> int:
    """Dimensions of a batch; 0: the name does not tell."""
    ranks = {"1d": 3, "2d": 4, "3d": 5}
    return next((ranks[kind.__name__[-2:]] for kind in type(module).__mro__ if kind.__name__[-2:] in ranks), 0)


def merges(module: nn.Module, args: tuple[Any, ...]) -> bool:
    """Whether a layer is called with a sequence [T, N, ...], of which it merges the first two dimensions."""
    x = args[0] if len(args) == 1 else None
    if not isinstance(x, torch.Tensor) or kind_of(module) not in ("conv", "norm"):
        return False
    if isinstance(module, _OURS):
        return x.dim() == _rank(module) + 1
    always = _author(type(module)).__name__.endswith("ThresholdDependentBatchNormBase")
    if not always and getattr(module, "step_mode", None) != "m":
        return False
    return x.dim() == _rank(module) + 1 or (x.dim() == 3 and isinstance(module, nn.BatchNorm1d))  # [T, N, C]


def statistics_of(module: nn.Module) -> BatchNormStatistics:
    """The statistics of a batch norm that is called with a sequence."""
    return getattr(module, "bn_statistics", "pooled")
