"""Answer of recognising a neuron: how somebody else's module computes, as our operator takes it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from snn_sparse.specs import NeuronSpec

Tensor = torch.Tensor
Reading = tuple[NeuronSpec, Tensor | None]


def rest(module: nn.Module, like: Tensor, v: Tensor | None = None) -> Tensor | None:
    """Start from rest, or from ``v`` if the module was called with one: what a module without state does."""
    return v


def drop(module: nn.Module, v: Tensor) -> None:
    """Keep no potential."""


@dataclass(frozen=True)
class Dynamics:
    """How a neuron module computes, as our operator takes it.

    Args:
        read: the module's numbers as they stand now: its specification, and its learnt rate or decay (differentiable,
            one entry, no dimension) or None.
        time_axis: axis of time in input and output; None: the module takes one timestep a call.
        state: attribute that keeps the potential between calls; None: it keeps none.
        start: ``start(module, like, v=None)``: potential to start from, shaped like ``like``, the input of one
            timestep; None: rest. ``v`` is the potential that the module was called with, if any.
        finish: ``finish(module, v)`` stores the potential ``v`` after the last timestep where the module keeps its own.
        explicit: whether it is called as ``module(x, v)``, or as ``module(x)`` before there is a ``v``.
        returns_potential: whether it answers ``(spikes, v)`` rather than spikes.
        gain: factor on the input before the operator.
        settle: from the potential that the module stores and hands on, which is the one before the reset to zero, to
            ours, the one after it; None: they are the same. What we store then differs from what the module would where
            the last step fired, and leads to the same future.
        unpack: from the state that the module is called with and answers, if that is no tensor, to the potential.
        pack: the other way round.
    """

    read: Callable[[nn.Module], Reading]
    time_axis: int | None
    state: str | None = None
    start: Callable[..., Tensor | None] = rest
    finish: Callable[[nn.Module, Tensor], None] = drop
    explicit: bool = False
    returns_potential: bool = False
    gain: float = 1.0
    settle: Callable[[nn.Module, Tensor], Tensor] | None = None
    unpack: Callable[[Any], Tensor | None] | None = None
    pack: Callable[[Tensor], Any] | None = None


def number(value: Any) -> float | None:
    """Return a plain number, or a fixed tensor's one entry, as a float; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return float(value)
    if isinstance(value, Tensor) and value.numel() == 1 and not value.requires_grad and not value.is_complex():
        return float(value)
    return None


def settle_to_zero(threshold: float, strict: bool, v: Tensor) -> Tensor:
    """Reset a potential to zero where it has fired."""
    return v * (v <= threshold if strict else v < threshold).to(v.dtype)
