"""Neuron layers that take the batch norm before them, a residual and the max-pool behind them into one operator."""

from dataclasses import replace
from typing import Any

import torch

from snn_sparse.nn.deferred import Deferred, Normed, PackedStored, Spikes, Stored, Sum, plain, stored
from snn_sparse.nn.fused.convolution import Convolved
from snn_sparse.nn.neuron import IF, LIF, Neuron, ParametricLIF
from snn_sparse.ops.device import fusable, on_kernels
from snn_sparse.ops.fused_neuron import Branch, NeuronSpec, Norm, fused_neuron
from snn_sparse.ops.layout import NCHW, PACKED, Layout, layout_of
from snn_sparse.ops.neuron_sequence import neuron_sequence
from snn_sparse.ops.spike_bits import Packed


class FusedNeuron(Neuron):
    """Mixed into a neuron: its input may be deferred, and its spikes are."""

    def spec(self) -> NeuronSpec:
        """What the operator must know of this neuron."""
        raise TypeError(f"{type(self).__name__} has no spec")

    def rate_parameter(self) -> torch.Tensor | None:
        """``w`` of a parametric neuron."""
        return None

    def forward(self, x: Any, v: torch.Tensor | None = None) -> Any:
        """Spikes, deferred for maps; an ordinary tensor where the operator cannot be used or ``v`` is given."""
        if v is not None or not (isinstance(x, Deferred) or (isinstance(x, torch.Tensor) and fusable(x))):
            return super().forward(plain(x), v)
        if x.dim() == 5:
            deferred = x if isinstance(x, Deferred) else stored(x)
            sizes = (deferred.timesteps, *deferred.sizes[1:])
            return Spikes(lambda pool, wish: self._run(deferred, pool, wish), sizes)
        x = plain(x)
        if x.dim() < 2 or x.shape[0] == 0:
            return super().forward(x)
        maps = x.reshape(*x.shape[:2], -1, 1, 1)
        return self._run(stored(maps), pool=False, wish=NCHW).sequence().view(x.shape)

    def _run(self, x: Deferred, pool: bool, wish: Layout | None) -> Stored:
        if isinstance(x, Normed) and isinstance(x.given, Convolved) and not x.norm.training:
            found = x.given.fires(x.norm.record(x.sizes[0], False), self.spec(), self.rate_parameter(), pool)
            if found is not None:
                return found
        (main, norm), residual = _branches(x)
        if on_kernels(main.data):
            return self._run_kernels(x.timesteps, (main, norm), residual, pool, wish == PACKED)
        t, n, c, h, w = sizes = (x.timesteps, *x.sizes[1:])
        layout = wish or main.layout
        steps = main.sizes[0]
        data, _ = fused_neuron(
            Branch(main.data, main.layout, norm.norm.record(steps, norm.first_use()) if norm is not None else None),
            sizes,
            self.spec(),
            static=main.repeat is not None,
            residual=_residual(residual, t),
            w=self.rate_parameter(),
            pool=pool,
            out=layout,
        )
        return Stored(data, (t, n, c, h // 2, w // 2) if pool else sizes, layout, binary=True)

    def _run_kernels(self, timesteps: int, main: "_Side", residual: "_Side | None", pool: bool, packed: bool) -> Stored:
        value, norm = main
        other, norm_other = residual if residual is not None else (None, None)
        given: torch.Tensor | Packed | None = None
        if other is not None:
            keeps_bits = isinstance(other, PackedStored) and norm_other is None and other.layout == value.layout
            given = other.packed if isinstance(other, PackedStored) and keeps_bits else other.sequence()
        spikes, _ = neuron_sequence(
            value.sequence(),
            self.spec(),
            timesteps,
            norm=_record(value, norm),
            residual=given,
            norm_residual=None if other is None else _record(other, norm_other),
            w=self.rate_parameter(),
            pool=pool,
            packed=packed,
        )
        return PackedStored(spikes) if isinstance(spikes, Packed) else Stored(spikes, _sizes(spikes), layout_of(spikes))


def _record(value: Stored, norm: Normed | None) -> Norm | None:
    """What the operator must know of a batch norm, and of the statistics that the producer of its input gave."""
    if norm is None:
        return None
    return replace(norm.norm.record(value.sizes[0], norm.first_use()), parts=value.parts, shift=value.shift)


def _sizes(x: torch.Tensor) -> Any:
    return tuple(x.shape)


_Side = tuple[Stored, Normed | None]


def _side(x: Any) -> _Side:
    return (x.source, x) if isinstance(x, Normed) else (stored(x), None)


def _branches(x: Deferred) -> tuple[_Side, _Side | None]:
    """Main branch and residual; of the two sides of an addition the batch-normed one is the main branch."""
    if not isinstance(x, Sum):
        return _side(x), None
    left, right = _side(x.left), _side(x.right)
    return (right, left) if left[1] is None and right[1] is not None else (left, right)


def _residual(side: _Side | None, timesteps: int) -> Branch | None:
    if side is None:
        return None
    value, norm = side
    return Branch(value.data, value.layout, norm.norm.record(timesteps, norm.first_use()) if norm is not None else None)


class FusedLIF(FusedNeuron, LIF):
    """:class:`snn_sparse.nn.LIF` on the fused operator."""

    def spec(self) -> NeuronSpec:
        """As :meth:`FusedNeuron.spec`."""
        return NeuronSpec("lif", self.tau, self.decay_input, self.firing)


class FusedIF(FusedNeuron, IF):
    """:class:`snn_sparse.nn.IF` on the fused operator."""

    def spec(self) -> NeuronSpec:
        """As :meth:`FusedNeuron.spec`."""
        return NeuronSpec("if", 1.0, True, self.firing)


class FusedParametricLIF(FusedNeuron, ParametricLIF):
    """:class:`snn_sparse.nn.ParametricLIF` on the fused operator."""

    def spec(self) -> NeuronSpec:
        """As :meth:`FusedNeuron.spec`."""
        return NeuronSpec("plif", 1.0, self.decay_input, self.firing)

    def rate_parameter(self) -> torch.Tensor | None:
        """As :meth:`FusedNeuron.rate_parameter`."""
        return self.w
