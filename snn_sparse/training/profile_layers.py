"""Synaptic operations of convolutions and linear layers, counted exactly from what they read."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import prod
from typing import Any

import torch
from torch import nn

from snn_sparse.nn import masked

CONNECTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_BASES: tuple[tuple[Any, int], ...] = ((nn.Conv1d, 1), (nn.Conv2d, 2), (nn.Conv3d, 3), (nn.Linear, 0))


@dataclass
class Operations:
    """Synaptic operations of a layer or network.

    Attributes:
        dense: products of every weight with every input that it meets; padding is none.
        macs: those of non-zero weights with non-zero inputs, where some input is neither 0 nor 1 nor -1.
        acs: the same where inputs are spikes, 0, 1 or -1: an addition each.
        counter_macs: what SpikingJelly's ``MACCounter`` counts.
        counter_acs: what its ``SynOpCounter`` counts.
    """

    dense: float = 0
    macs: float = 0
    acs: float = 0
    counter_macs: float = 0
    counter_acs: float = 0

    def __add__(self, other: "Operations") -> "Operations":
        return Operations(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __mul__(self, factor: float) -> "Operations":
        return Operations(*(getattr(self, f.name) * factor for f in fields(self)))


def weight_of(layer: Any) -> torch.Tensor:
    """The weight that a layer computes with: under its own mask, if it has one."""
    return (layer.masked_weight() if isinstance(layer, masked.Masked) else layer.weight).detach()


class Counter:
    """Count the operations of a layer, call by call.

    A count is linear in the input: all samples are added up to one map of how often each input is non-zero, and all
    filters to one of how many live weights read it. So it costs one small convolution, in float64 on the CPU, where
    sums of integers are exact below 2**53.

    Args:
        layer: ``Conv1d``, ``Conv2d``, ``Conv3d`` or ``Linear``; its weight must not change between calls.
    """

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.base, self.dims = next((base, dims) for base, dims in _BASES if isinstance(layer, base))
        self.groups = layer.groups if self.dims else 1
        self.channels = layer.in_channels if self.dims else layer.in_features
        weight = weight_of(layer)
        self.weights, self.live = weight.numel(), int(weight.count_nonzero())
        self._fan_out = self._summed((weight != 0).cpu())
        self._full = self._summed(torch.ones(weight.shape, dtype=torch.bool))
        self._binary = _holds(weight, 0, 1)

    def _summed(self, keep: torch.Tensor) -> torch.Tensor:
        """Add up the filters of each group: ``[groups, Cin / groups, ...]``."""
        return keep.unflatten(0, (self.groups, -1)).sum(1).double()

    def takes(self, x: torch.Tensor) -> bool:
        """Whether an input has the layer's dimensions and channels; if not, the layer itself complains best."""
        return x.dim() > self.dims and x.shape[-1 - self.dims] == self.channels

    def rows(self, x: torch.Tensor) -> int:
        """Number of maps (of a linear layer: vectors) in an input: a sample at a timestep each."""
        return prod(x.shape[: -1 - self.dims])

    def _read(self, times: torch.Tensor, fan_out: torch.Tensor) -> tuple[int, int]:
        """Sum over all connections of how often they are used, and the output positions of a map."""
        if not self.dims:
            return int((times * fan_out[0]).sum()), 1
        y = self.base._conv_forward(self.layer, times.unsqueeze(0), fan_out, None)
        return int(y.sum()), prod(y.shape[2:])

    def count(self, x: torch.Tensor) -> Operations:
        """Count one call with input ``x`` of any leading dimensions."""
        rows = self.rows(x)
        maps = x.detach().reshape(rows, *x.shape[-1 - self.dims :])
        times = (maps != 0).sum(0).cpu().double()
        effective, _ = self._read(times, self._fan_out)
        dense, positions = self._read(torch.full_like(times, rows), self._full)
        found = Operations(dense)
        if _holds(maps, 0, 1, -1):
            found.acs = effective
        else:
            found.macs = effective
        if _holds(maps, 0, 1):
            found.counter_acs = effective if self._binary else self._read(times, self._full)[0]
        elif self._binary:
            found.counter_acs = self.live * positions * rows
        else:
            found.counter_macs = self.weights * positions * rows
        return found


def _holds(x: torch.Tensor, *values: int) -> bool:
    """Whether a tensor has no other entries than these."""
    allowed = x == values[0]
    for value in values[1:]:
        allowed = allowed | (x == value)
    return bool(allowed.all())


def footprints(model: nn.Module, keep: Mapping[str, torch.Tensor]) -> tuple[int, int]:
    """Bytes of a network and of its ticket.

    Args:
        model: its parameters and buffers count, as NeuroBench's ``Footprint`` does.
        keep: masks of weights by name; those count in the ticket with their live weights and a bit an entry.

    Returns:
        bytes of all parameters and buffers; the same with live weights alone, and the masks packed to bits.
    """
    full = ticket = 0
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        size = value.numel() * value.element_size()
        full += size
        if name in keep:
            size = int(keep[name].count_nonzero()) * value.element_size() + -(-value.numel() // 8)
        ticket += size
    return full, ticket
