"""Neuron layers that take the batch norm before them, a residual and the max-pool behind them into one operator."""

from dataclasses import replace
from typing import Any

import torch

from snn_sparse.nn.deferred import Deferred, Normed, PackedStored, Spikes, Stored, Sum, plain, stored
from snn_sparse.nn.fused.convolution import Convolved
from snn_sparse.nn.neuron import IF, LIF, Neuron, ParametricLIF
from snn_sparse.ops import Norm, Packed, neuron_sequence
from snn_sparse.ops.backend import implementation, runs
from snn_sparse.ops.spikes import NCHW, PACKED, MemoryFormat, format_of

_Side = tuple[Stored, Normed | None]


class FusedNeuron(Neuron):
    """Mixed into a neuron: its input may be deferred, and its spikes are."""

    def forward(self, x: Any, v: torch.Tensor | None = None) -> Any:
        """Spikes, deferred for maps; an ordinary tensor where the operator cannot be used or ``v`` is given."""
        if v is not None or not (isinstance(x, Deferred) or (isinstance(x, torch.Tensor) and runs("neuron", x))):
            return super().forward(plain(x), v)
        if x.dim() == 5:
            deferred = x if isinstance(x, Deferred) else stored(x)
            sizes = (deferred.timesteps, *deferred.sizes[1:])
            return Spikes(lambda pool, wanted: self._run(deferred, pool, wanted), sizes)
        x = plain(x)
        if x.dim() < 2 or x.shape[0] == 0:
            return super().forward(x)
        maps = x.reshape(*x.shape[:2], -1, 1, 1)
        return self._run(stored(maps), pool=False, wanted=NCHW).sequence().view(x.shape)

    def _run(self, x: Deferred, pool: bool, wanted: MemoryFormat | None) -> Stored:
        if isinstance(x, Normed) and isinstance(x.given, Convolved) and not x.norm.training:
            found = x.given.fires(x.norm.at_work(x.sizes[0], False), self.spec, self.rate(), pool)
            if found is not None:
                return found
        (main, norm), residual = _branches(x)
        on_gpu = implementation("neuron", main.data) == "triton"
        other, norm_other = residual if residual is not None else (None, None)
        spikes, _ = neuron_sequence(
            main.sequence() if on_gpu else main.data,
            self.spec,
            x.timesteps,
            norm=_at_work(main, norm),
            residual=None if other is None else _data(other, norm_other, main, on_gpu),
            norm_residual=None if other is None else _at_work(other, norm_other),
            rate=self.rate(),
            pool=pool,
            packed=wanted == PACKED,
            images=x.sizes[1],
            constant=main.sizes[0] == 1 < x.timesteps,
            memory_format=main.memory_format,
            residual_format=None if other is None else other.memory_format,
            out_format=None if wanted == PACKED else wanted,
        )
        if isinstance(spikes, Packed):
            return PackedStored(spikes)
        t, n, c, h, w = sizes = (x.timesteps, *x.sizes[1:])
        sizes = (t, n, c, h // 2, w // 2) if pool else sizes
        written = wanted or main.memory_format
        return Stored(spikes, sizes, written if written.kind == "lanes" else format_of(spikes), binary=True)


def _data(other: Stored, norm: Normed | None, main: Stored, on_gpu: bool) -> torch.Tensor | Packed:
    """A residual as the operator takes it; packed spikes stay packed where they lie as the main branch does."""
    if isinstance(other, PackedStored) and norm is None and other.memory_format == main.memory_format:
        return other.packed
    return other.sequence() if on_gpu else other.data


def _at_work(value: Stored, norm: Normed | None) -> Norm | None:
    """Describe a batch norm to the operator, with the statistics that the producer of its input gave."""
    if norm is None:
        return None
    return replace(norm.norm.at_work(value.sizes[0], norm.first_use()), parts=value.parts, shift=value.shift)


def _side(x: Any) -> _Side:
    return (x.source, x) if isinstance(x, Normed) else (stored(x), None)


def _branches(x: Deferred) -> tuple[_Side, _Side | None]:
    """Main branch and residual; of the two sides of an addition the batch-normed one is the main branch."""
    if not isinstance(x, Sum):
        return _side(x), None
    left, right = _side(x.left), _side(x.right)
    return (right, left) if left[1] is None and right[1] is not None else (left, right)


class FusedLIF(FusedNeuron, LIF):
    """:class:`snn_sparse.nn.LIF` on the fused operator."""


class FusedIF(FusedNeuron, IF):
    """:class:`snn_sparse.nn.IF` on the fused operator."""


class FusedParametricLIF(FusedNeuron, ParametricLIF):
    """:class:`snn_sparse.nn.ParametricLIF` on the fused operator."""
