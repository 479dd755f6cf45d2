"""The race of a layer on a CPU: dense in two memory formats, and at its live weights in several configurations."""

import os
from collections.abc import Callable
from typing import Any

import torch

from snn_sparse.ops.convolution import LayerConfiguration, LiveConfiguration, convolution, live_configuration
from snn_sparse.ops.spikes import NCHW, NHWC, MemoryFormat, convert
from snn_sparse.specs import LANES, ConvGeometry, ceil_div
from snn_sparse.tuning.race import processor, race
from snn_sparse.tuning.winner import Winner

MARGIN = 0.97  # a configuration at live weights must beat the dense one by this factor to be chosen
LINEAR_MARGIN = 0.6  # for a linear layer, whose conversions are not in its time
FORMAT = 2  # of the cache; raised when winners of an older version no longer hold
# Packing takes the same time at any density: little beside a convolution at 25 %, much beside one at 2 %.
PACK_ABOVE = 0.15


def key(g: ConvGeometry, dtype: torch.dtype, density: float | None) -> str:
    """Name of a race in the cache: shape, density to two digits, processor, instruction set and threads."""
    dense = "dense" if density is None else f"{density:.2g}"
    sizes, weight = "x".join(map(str, g.input_shape)), "x".join(map(str, g.weight_shape))
    how = f"s{g.stride}p{g.padding} {str(dtype).removeprefix('torch.')}"
    machine = f"{processor()} {os.environ.get('SNN_SPARSE_ISA', '')} {torch.get_num_threads()} threads"
    return f"cpu v{FORMAT} {sizes} {weight} {how} {dense} | {machine}"


def choose(g: ConvGeometry, dtype: torch.dtype, keep: torch.Tensor | None) -> Winner:
    """Race all configurations of a layer on random spikes under its mask (None: dense).

    Args:
        g: sizes of the layer.
        dtype: float32 or float64.
        keep: bool ``[Cout, Cin, kh, kw]`` on the CPU.
    """
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(g.input_shape, generator=generator) < 0.2).to(dtype)
    weight = torch.randn(g.weight_shape, generator=generator, dtype=dtype)
    entries: list[tuple[MemoryFormat, LiveConfiguration | None]] = [(NCHW, None), (NHWC, None)]
    runs = [_step(x, weight, g, f, LayerConfiguration(), True) for f, _ in entries]
    if keep is not None:
        density = int(keep.count_nonzero()) / keep.numel()
        for live in candidates(g, density):
            how, lanes = live_configuration(keep, g.stride, g.padding, live), MemoryFormat("lanes", live.vectors)
            runs.append(_step(x, weight * keep, g, lanes, how, density > PACK_ABOVE))
            entries.append((lanes, live))
    seconds = race(runs, torch.device("cpu"), always=2)
    margin = LINEAR_MARGIN if (g.height, g.width) == (1, 1) else MARGIN
    best = min(range(len(runs)), key=lambda i: seconds[i] / (1 if entries[i][1] is None else margin))
    return Winner((seconds[best],), (min(seconds[:2]),), *entries[best])


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
