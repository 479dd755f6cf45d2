"""Layers that own the mask of their weight."""

from typing import Any

import torch
from torch import nn

from snn_sparse.nn.convolve import sequence_of
from snn_sparse.nn.layers import Conv2d
from snn_sparse.nn.masked import Masked


class MaskedConv2d(Masked, Conv2d):
    """``torch.nn.Conv2d`` that owns its mask and computes under it, on a batch or a sequence ``[T, N, C, H, W]``.

    On a CPU it runs at its live weights only, where that was measured to be faster. The gradient of a pruned weight is
    exactly zero.

    Args:
        *args, **kwargs: as ``torch.nn.Conv2d``. Give it a mask by :meth:`set_mask`.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve ``[N, C, H, W]`` or ``[T, N, C, H, W]``."""
        return sequence_of(self, x) if x.numel() else super().forward(x)


class MaskedLinear(Masked, nn.Linear):
    """``torch.nn.Linear`` that owns its mask and computes under it; see :class:`MaskedConv2d`.

    Args:
        *args, **kwargs: as ``torch.nn.Linear``.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer to ``[..., F]``."""
        if x.dim() < 2 or not x.numel():
            return nn.functional.linear(x, self.masked_weight(), self.bias)
        y = sequence_of(self, x.reshape(1, -1, x.shape[-1], 1, 1))
        return y.reshape(*x.shape[:-1], self.out_features)


class _Foreign(Masked):
    """Mixed into a layer of somebody else's: its own forward pass sees the masked weight."""

    def _conv_forward(self, x: torch.Tensor, weight: torch.Tensor, bias: Any) -> torch.Tensor:
        return super()._conv_forward(x, self.masked_weight(), bias)  # type: ignore[misc]

    def __reduce_ex__(self, _protocol: Any) -> Any:
        """For copies and pickles: the class is made again."""
        return _rebuild, (type(self).foreign,), self.__getstate__()  # type: ignore[attr-defined]


class _ForeignLinear(_Foreign):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer under its mask."""
        return nn.functional.linear(x, self.masked_weight(), self.bias)  # type: ignore[attr-defined]


_classes: dict[Any, type[nn.Module]] = {}


def masked_class(kind: type[nn.Module]) -> type[nn.Module]:
    """A subclass of a convolution or linear layer's class that owns its mask; always the same for a class."""
    if kind not in _classes:
        _classes[kind] = _subclass(kind)
    return _classes[kind]


def _subclass(kind: type[nn.Module]) -> type[nn.Module]:
    base = _ForeignLinear if issubclass(kind, nn.Linear) else _Foreign
    about = {"__doc__": kind.__doc__, "__module__": kind.__module__, "foreign": kind}
    return type(f"Masked{kind.__name__}", (base, kind), about)


def _rebuild(kind: type[nn.Module]) -> nn.Module:
    made = masked_class(kind)
    return made.__new__(made)


def foreign_class(module: nn.Module) -> None:
    """Turn a layer of :func:`masked_class` back into what it was; its mask is gone."""
    if isinstance(module, _Foreign):
        for key in ("keep_mask", "_tuner", "_version"):
            module.__dict__.pop(key, None)
        module.__class__ = type(module).foreign  # type: ignore[attr-defined]
