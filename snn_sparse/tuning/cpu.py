"""The race of a layer on a CPU: dense in two memory formats, from spikes, and at its live weights in several ways."""

import math
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from snn_sparse.ops.convolution import (
    LayerConfiguration,
    LiveConfiguration,
    SpikeConfiguration,
    convolution,
    live_configuration,
    takes_spikes,
    takes_winograd,
)
from snn_sparse.ops.spikes import NCHW, NHWC, MemoryFormat, convert
from snn_sparse.specs import LANES, ConvGeometry, ceil_div
from snn_sparse.tuning.race import processor, race
from snn_sparse.tuning.winner import Winner

MARGIN = 0.97  # another configuration must beat the dense one by this factor to be chosen
MIXED_MARGIN = (
    0.85  # from spikes against at live weights: other layers of a pruned network are lanes, and neurons convert
)
LINEAR_MARGIN = 0.6  # for a linear layer, whose conversions are not in its time
FORMAT = 5  # of the cache; raised when winners of an older version no longer hold
# Packing takes the same time at any density: little beside a convolution at 25 %, much beside one at 2 %.
PACK_ABOVE = 0.15
RATES = (2, 5, 10, 20, 35, 60)  # percent of the input that may spike in a race
FIRST_RATE = 20  # before any input was seen
RACED = 160  # images of a race, those of all timesteps: more take longer, and hardly change who wins
UNKNOWN_RATE = 0.2  # share of ones where the input may hold any numbers


def nearest_rate(share: float) -> int:
    """The percentage among :data:`RATES` that is closest to a share of spikes, by ratio."""
    percent = max(100 * share, RATES[0] / 2)
    return min(RATES, key=lambda rate: abs(math.log(rate / percent)))


def left_rate(rate: int, share: float) -> bool:
    """Whether a share of spikes is beyond half or double of the percentage that was raced, and nearer to another."""
    return not rate / 2 <= 100 * share <= 2 * rate and nearest_rate(share) != rate


def raced(g: ConvGeometry) -> ConvGeometry:
    """The sizes that a layer is raced at: fewer images where there are many, as when a network is evaluated."""
    fewer = replace(g, images=min(g.images, max(LANES, RACED // g.steps // LANES * LANES)))
    return fewer if takes_spikes(fewer) == takes_spikes(g) else g


def key(g: ConvGeometry, dtype: torch.dtype, density: float | None, rate: int | None = None) -> str:
    """Name of a race in the cache: shape, density to two digits, rate, processor, instruction set and threads."""
    dense = "dense" if density is None else f"{density:.2g}"
    sizes, weight = "x".join(map(str, g.input_shape)), "x".join(map(str, g.weight_shape))
    how = f"s{g.stride}p{g.padding} {str(dtype).removeprefix('torch.')}"
    dense += "" if rate is None else f" {rate}% spikes"
    machine = f"{processor()} {os.environ.get('SNN_SPARSE_ISA', '')} {torch.get_num_threads()} threads"
    return f"cpu v{FORMAT} {sizes} {weight} {how} {dense} | {machine}"


def choose(g: ConvGeometry, dtype: torch.dtype, keep: torch.Tensor | None, rate: int | None = None) -> Winner:
    """Race all configurations of a layer on random spikes under its mask (None: dense).

    Args:
        g: sizes of the layer.
        dtype: float32 or float64.
        keep: bool ``[Cout, Cin, kh, kw]`` on the CPU.
        rate: percent of the input that spikes; None: it may hold any numbers, and spikes cannot be listed.
    """
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(g.input_shape, generator=generator) < (UNKNOWN_RATE if rate is None else rate / 100)).to(dtype)
    weight = torch.randn(g.weight_shape, generator=generator, dtype=dtype)
    weight = weight if keep is None else weight * keep
    entries: list[_Entry] = [(NCHW, None, None), (NHWC, None, None)]
    runs = [_step(x, weight, g, f, LayerConfiguration(keep), True) for f, *_ in entries]
    for spikes in of_spikes(g) if rate is not None else ():
        entries.append((NHWC, None, spikes))
        runs.append(_step(x, weight, g, NHWC, LayerConfiguration.of_spikes(keep, spikes), True))
    if keep is not None:
        density = int(keep.count_nonzero()) / keep.numel()
        for live in candidates(g, density):
            how, lanes = live_configuration(keep, g.stride, g.padding, live), MemoryFormat("lanes", live.vectors)
            runs.append(_step(x, weight, g, lanes, how, density > PACK_ABOVE))
            entries.append((lanes, live, None))
    seconds = race(runs, torch.device("cpu"), always=2)
    best = _best(g, entries, seconds)
    memory_format, at_live, from_spikes = entries[best]
    times = (seconds[best],), (min(seconds[:2]),)
    return Winner(*times, memory_format, at_live, spikes=from_spikes, rate=rate)


def _best(g: ConvGeometry, entries: "list[_Entry]", seconds: list[float]) -> int:
    """Index of the winner; who wins hardly, or would make others convert, does not."""
    best = min(range(len(entries)), key=lambda i: seconds[i] / _margin(g, *entries[i][1:]))
    lives = [i for i, (_, live, _) in enumerate(entries) if live is not None]
    if entries[best][2] is None or not lives:
        return best
    rival = min(lives, key=seconds.__getitem__)
    close = seconds[best] > MIXED_MARGIN * seconds[rival]
    return rival if close and seconds[rival] < _margin(g, *entries[rival][1:]) * min(seconds[:2]) else best


_Entry = tuple[MemoryFormat, LiveConfiguration | None, SpikeConfiguration | None]


def _margin(g: ConvGeometry, live: LiveConfiguration | None, spikes: SpikeConfiguration | None) -> float:
    if live is None:
        return 1 if spikes is None else MARGIN
    return LINEAR_MARGIN if (g.height, g.width) == (1, 1) else MARGIN


def of_spikes(g: ConvGeometry) -> list[SpikeConfiguration]:
    """List what may be fastest where the input spikes, most of it at first."""
    if not takes_spikes(g):
        return []
    listed = ((True, True), (True, False), (False, True))
    found = [SpikeConfiguration(*one, grad_input) for one in listed for grad_input in (True, False)]
    found.append(SpikeConfiguration(False, False, True))
    return [f for f in found if takes_winograd(g) or not f.grad_input]


def candidates(g: ConvGeometry, density: float) -> list[LiveConfiguration]:
    """List the configurations that were fastest for some mask of such a map and density."""
    if density > 0.6:
        return []
    pixels, vectors = max(g.height, g.width), g.steps * ceil_div(g.images, LANES)
    if pixels >= 6:
        found = [(8, False, False), (16, True, True), (32, True, True), (64, False, False), (0, False, False)]
        widths = [1, 2]
    elif pixels >= 3:
        found = [(16, False, False), (32, False, False), (64, False, False), (64, True, True), (0, False, False)]
        widths = [2, 3, 5]
    else:
        found, widths = [(32, False, False), (64, False, False), (0, False, False)], [5, 3, 2]
    if density < 0.04:
        found = [f for f in found if f[0] in (0, 64)]
    even = [v for v in widths if vectors % v == 0] or [1]
    blocks = dict.fromkeys((0 if block >= g.inputs else block, rows, pack) for block, rows, pack in found)
    return [LiveConfiguration(v, *block) for v in even for block in blocks]


def _step(
    x: torch.Tensor, weight: torch.Tensor, g: ConvGeometry, memory_format: MemoryFormat, how: LayerConfiguration,
    binary: bool,
) -> Callable[[], Any]:  # fmt: skip
    """Forward and backward as a training step runs them."""
    data = convert(x, g.input_shape, NCHW, memory_format).requires_grad_()
    w = weight.clone().requires_grad_()

    def run() -> torch.Tensor:
        return convolution(data, w, None, g.stride, g.padding, how, binary=binary)[0]

    grad = torch.ones_like(run())
    return lambda: torch.autograd.grad(run(), (data, w), grad)
