"""The one to ask how a layer computes: what is known, is on disk, or is raced now."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch

from snn_sparse.ops.backend import choose
from snn_sparse.ops.cache import Cache
from snn_sparse.ops.convolution import Grouper, LayerConfiguration, LiveConfiguration, live_configuration, tiled
from snn_sparse.ops.spikes import NCHW, MemoryFormat
from snn_sparse.specs import MAX_KERNEL, MAX_PADDING, MAX_STRIDE, ConvGeometry
from snn_sparse.tuning import cpu, gpu
from snn_sparse.tuning.rule import by_rule
from snn_sparse.tuning.winner import Winner

Tensor = torch.Tensor


class Store(Protocol):
    """Where winners are remembered, by the name of their race."""

    def get(self, key: str, parse: Callable[[Any], Winner]) -> Winner | None:
        """Return what ``parse`` makes of the value under ``key``; None without one."""

    def put(self, key: str, value: Any) -> None:
        """Remember a value that JSON can hold."""


@dataclass(frozen=True)
class _Choosing:
    store: Store | None = None
    by: Literal["race", "rule", "dense", "look"] = "race"


_now = _Choosing()


@contextmanager
def choosing(store: Store | None = None, timed: bool = True) -> Iterator[None]:
    """Inside, winners are remembered in ``store`` (the machine's cache if left out), or chosen without timing."""
    with _chosen(_Choosing(store, "race" if timed else "rule")):
        yield


@contextmanager
def without_races() -> Iterator[None]:
    """Inside, nothing is timed: what is not known yet is computed densely."""
    with _chosen(replace(_now, by="dense")):
        yield


@contextmanager
def looking() -> Iterator[None]:
    """Inside, layers whose plans are new compute densely, and look how much of their binary inputs spikes."""
    with _chosen(replace(_now, by="look")):
        yield


@contextmanager
def _chosen(choice: _Choosing) -> Iterator[None]:
    global _now
    before, _now = _now, choice
    try:
        yield
    finally:
        _now = before


class LayerTuner:
    """Configurations of one layer under one mask.

    Args:
        keep: bool ``[Cout, Cin, kh, kw]`` (or ``[Cout, Cin]`` of a linear layer), the live weights; None: all are.
        rate: percent of a binary input that is taken to spike at first.

    Attributes:
        winners: of every shape and dtype that was asked for.
        rate: percent of a binary input that is taken to spike, one of :data:`snn_sparse.tuning.cpu.RATES`.
        watching: whether the rate of the next input is wanted; set it to follow a rate that may have drifted.
        moved: whether the rate has moved since configurations were asked for, which may be others now.
    """

    def __init__(self, keep: Tensor | None, rate: int = cpu.FIRST_RATE) -> None:
        self.keep = keep[..., None, None] if keep is not None and keep.dim() == 2 else keep
        self.winners: dict[tuple[ConvGeometry, torch.dtype], Winner] = {}
        self.rate, self.watching, self.moved = rate, True, False
        self._live: dict[tuple[LiveConfiguration, int, int], LayerConfiguration] = {}
        self._tiled: dict[tuple[ConvGeometry, torch.dtype, torch.dtype, torch.device], LayerConfiguration] = {}

    @functools.cached_property
    def density(self) -> float:
        """Share of the weights that are alive."""
        return 1.0 if self.keep is None else int(self.keep.count_nonzero()) / self.keep.numel()

    def see(self, x: Tensor) -> None:
        """Look how much of a binary input spikes: one pass, if :attr:`watching`.

        Where plans are to stay it does nothing, but inside :func:`looking`.
        """
        if self.watching and (_now.by == "look" or (_now.by == "race" and _now.store is None)):
            self.watching, share = False, int(x.count_nonzero()) / x.numel()
            if cpu.left_rate(self.rate, share):
                self.rate, self.moved = cpu.nearest_rate(share), True

    def on_cpu(
        self, g: ConvGeometry, dtype: torch.dtype, binary: bool = False
    ) -> tuple[MemoryFormat, LayerConfiguration]:
        """Memory format of input and output, and the configuration, for C++ operators.

        Args:
            g: sizes of the layer.
            dtype: float32 or float64.
            binary: whether the input holds zeros and ones only, so that spikes may be listed.
        """
        self.moved = False
        winner, rate = self.winners.get((g, dtype)), self.rate if binary else None
        if winner is None or winner.rate != rate:
            if _now.by in ("dense", "look"):
                return NCHW, LayerConfiguration.dense(self.keep)
            winner = self.winners[(g, dtype)] = self._find_on_cpu(g, dtype, rate)
        if winner.spikes is not None:
            return winner.memory_format, LayerConfiguration.of_spikes(self.keep, winner.spikes)
        if winner.live is None or self.keep is None:
            return winner.memory_format, LayerConfiguration.dense(self.keep)
        place = (winner.live, g.stride, g.padding)
        if place not in self._live:
            self._live[place] = live_configuration(self.keep.cpu(), g.stride, g.padding, winner.live)
        return winner.memory_format, self._live[place]

    def _find_on_cpu(self, g: ConvGeometry, dtype: torch.dtype, rate: int | None) -> Winner:
        keep = None if self.keep is None or not _walkable(g) else self.keep.cpu()
        density = None if keep is None else self.density
        if _now.by == "rule":
            return by_rule(g, density, rate)
        g = cpu.raced(g)
        store, key = _now.store or Cache(), cpu.key(g, dtype, density, rate)
        found = store.get(key, Winner.parse)
        if found is None or (found.live is not None and keep is None) or found.rate != rate:
            with torch.inference_mode(False), torch.enable_grad():
                found = cpu.choose(g, dtype, keep, rate)
            store.put(key, found.as_dict())
        return found

    def on_gpu(
        self, g: ConvGeometry, dtype: torch.dtype, weight: torch.dtype, device: torch.device
    ) -> LayerConfiguration:
        """The configuration for packed spikes; by torch alone where the Triton kernels do not run.

        The first batch decides for batches and sequences of other lengths, which hardly differ. While a graph is
        captured or compiled nothing can be raced: what is not known yet is left to torch then.
        """
        dense = LayerConfiguration.dense(None if self.keep is None else self.keep.to(device))
        if _now.by != "race" or torch.compiler.is_compiling() or choose("convolution", device, dtype).name != "triton":
            return dense
        place = (replace(g, steps=1, images=1), dtype, weight, device)
        if place not in self._tiled:
            if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
                return dense
            with torch.inference_mode(False), torch.no_grad():
                grouper = Grouper(self.keep, g.weight_shape)
                store, key = _now.store or Cache(), gpu.key(g, dtype, weight, self.keep, device)
                found = store.get(key, Winner.parse)
                if found is None or len(found.seconds) == 1:
                    found = gpu.choose(g, grouper, dtype, weight, device)
                    store.put(key, found.as_dict())
                self._tiled[place] = tiled(found.directions, grouper, device)
                self.winners[(g, dtype)] = found
        return self._tiled[place]


def _walkable(g: ConvGeometry) -> bool:
    """Whether the kernels at live weights are made for such a layer."""
    return max(g.kernel) <= MAX_KERNEL and g.stride <= MAX_STRIDE and g.padding <= MAX_PADDING
