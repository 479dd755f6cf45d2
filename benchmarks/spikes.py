"""A convolution of spikes on a CPU, by layer and firing rate, each direction by itself.

Dense, from spikes (the input's gradient by Winograd), at live weights.
"""

import argparse
from collections.abc import Callable, Mapping
from functools import partial

import torch

from benchmarks.refusals import attempt, insist
from benchmarks.rows import Row, make_rows, skipped_rows
from benchmarks.timing import Timing, interleaved, ratios
from snn_sparse.ops.convolution import (
    LayerConfiguration,
    LiveConfiguration,
    SpikeConfiguration,
    convolution,
    live_configuration,
)
from snn_sparse.ops.spikes import NCHW, NHWC, MemoryFormat, convert
from snn_sparse.specs import ConvGeometry
from snn_sparse.tuning.cpu import candidates

DENSE = ("dense nchw", "dense nhwc")  # the faster of them is what others are held against
SPIKES = "spikes"
LAYERS = ((64, 32), (128, 16), (256, 8), (512, 4), (512, 2))  # channels in and out, height and width: VGG16's
DIRECTIONS = ("output", "weight gradient", "input gradient")
Runs = dict[str, Callable[[], object]]


def live_name(sparsity: float) -> str:
    """Name of the provider that computes at the live weights of a mask."""
    return f"live {sparsity:g} %"


def configured(provider: str, g: ConvGeometry) -> tuple[MemoryFormat, LayerConfiguration]:
    """The memory format of a provider, and how its convolution is computed."""
    if provider in DENSE:
        return (NCHW if provider == "dense nchw" else NHWC), LayerConfiguration()
    if provider == SPIKES:
        return NHWC, LayerConfiguration.of_spikes(None, SpikeConfiguration(grad_input=True))
    density = 1 - float(provider.split()[1]) / 100
    keep = torch.rand(g.weight_shape) < density
    live = next(iter(candidates(g, density)), LiveConfiguration())
    return MemoryFormat("lanes", live.vectors), live_configuration(keep, g.stride, g.padding, live)


def directions(provider: str, g: ConvGeometry, rate: float) -> Runs:
    """What computes each direction alone, spikes kept as bits where that is what a training step does."""
    if provider not in DENSE:
        insist("convolution", device="cpu", dtype=torch.float32, on="cpp")
    memory_format, how = configured(provider, g)
    x = convert((torch.rand(g.input_shape) < rate / 100).float(), g.input_shape, NCHW, memory_format)
    weight = torch.randn(g.weight_shape)

    def forward(*needs: bool) -> tuple[torch.Tensor, list[torch.Tensor]]:
        given, w = (t.detach().requires_grad_(need) for t, need in zip((x, weight), needs, strict=True))
        y, _ = convolution(given, w, None, g.stride, g.padding, how, binary=True)
        return y, [t for t in (given, w) if t.requires_grad]

    def backward(*needs: bool) -> Callable[[], object]:
        y, leaves = forward(*needs)
        return partial(torch.autograd.grad, y, leaves, torch.randn_like(y), retain_graph=True)

    found = partial(forward, False, True), backward(False, True), backward(True, False)
    return dict(zip(DIRECTIONS, found, strict=True))


def _faster_dense(timings: Mapping[str, Timing]) -> Timing:
    pairs = zip(*(timings[name].seconds for name in DENSE), strict=True)
    return Timing([min(pair) for pair in pairs])


def one_case(args: argparse.Namespace, channels: int, size: int, rate: float) -> list[Row]:
    """All providers on one layer, every direction."""
    g = ConvGeometry(args.timesteps, args.batch_size, channels, channels, size, size, (3, 3), 1, 1)
    providers = [*DENSE, SPIKES, *(live_name(s) for s in args.sparsities)]
    where, skipped = f"{channels}x{size}x{size} {rate:g} % spikes, T={g.steps} batch {g.images}", dict[str, str]()
    made = {name: attempt(name, partial(directions, name, g, rate), skipped) for name in providers}
    rows = skipped_rows(f"convolution {where}", skipped, args.device)
    for way in DIRECTIONS:
        runs = {name: found[way] for name, found in made.items() if found is not None}
        timings = interleaved(runs, args.rounds, 1)
        timings["dense"] = _faster_dense(timings)
        case = f"{way} {where}"
        rows += make_rows(case, "seconds", timings, args.device)
        rows += make_rows(case, "times faster", ratios(timings, "dense"), args.device)
    return rows


def run(args: argparse.Namespace) -> list[Row]:
    """Time every layer at every rate.

    Raises:
        ValueError: another device than a CPU.
    """
    if args.device != "cpu":
        raise ValueError("--device must be cpu: a GPU computes on packed spikes")
    torch.manual_seed(0)
    layers = [layer for layer in LAYERS if layer[1] in args.sizes]
    return [row for layer in layers for rate in args.rates for row in one_case(args, *layer, rate)]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of this case."""
    sizes = [size for _, size in LAYERS]
    parser.add_argument("--sizes", nargs="+", type=int, choices=sizes, default=sizes, help="maps of the layers")
    parser.add_argument("--rates", nargs="+", type=float, default=[2, 5, 10, 20, 35], help="percent that spikes")
    parser.add_argument("--sparsities", nargs="+", type=float, default=[75, 90, 98], help="percent of weights pruned")
    parser.add_argument("--timesteps", type=int, default=5, help="T (default 5)")
    parser.add_argument("--batch-size", type=int, default=16, help="images (default 16)")
