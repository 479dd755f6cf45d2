"""One neuron layer over all timesteps, alone (lif) and behind its batch norm (bn_lif): forward, backward, memory."""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.rows import Row, make_rows
from benchmarks.spikingjelly_nets import use_triton
from benchmarks.timing import Timing, interleaved, ratios
from snn_sparse.nn import LIF, BatchNorm2d
from snn_sparse.ops.fused_neuron import NeuronSpec, Norm
from snn_sparse.ops.neuron_sequence import neuron_sequence
from snn_sparse.ops.spike_bits import Packed

REFERENCE = "SpikingJelly multi-step"
PROVIDERS = (REFERENCE, "plain", "torch.compile", "fused", "fused packed")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# The fewest tensors of x's size that must be read or written; spikes, wherever they go, are counted apart.
LEAST = {("lif", "forward"): 1, ("lif", "backward"): 3, ("bn_lif", "forward"): 2, ("bn_lif", "backward"): 5}
Forward = Callable[[torch.Tensor], torch.Tensor]


def _spikingjelly(norm: nn.Module | None, device: str, dtype: torch.dtype) -> Forward:
    from spikingjelly.activation_based import functional, layer, neuron, surrogate

    node = neuron.LIFNode(tau=4 / 3, surrogate_function=surrogate.ATan(), detach_reset=True, step_mode="m")
    if device.startswith("cuda"):
        use_triton(node, torch.device(device), dtype)
    theirs = None
    if norm is not None:
        theirs = layer.BatchNorm2d(norm.num_features, step_mode="m").to(device)

    def run(x: torch.Tensor) -> torch.Tensor:
        functional.reset_net(node)
        return node(x if theirs is None else theirs(x))

    return run


def _fused(norm: BatchNorm2d | None, packed: bool) -> Forward:
    def run(x: torch.Tensor) -> torch.Tensor:
        record = None
        if norm is not None:
            running = norm.running_mean, norm.running_var
            record = Norm(norm.weight, norm.bias, *running, (0.1,), True, norm.eps, "pooled")
        spikes, _ = neuron_sequence(x, NeuronSpec(), x.shape[0], norm=record, packed=packed)
        return spikes.carrier if isinstance(spikes, Packed) else spikes

    return run


def make_forward(provider: str, op: str, channels: int, device: str, dtype: torch.dtype) -> Forward:
    """The forward pass of one provider."""
    norm = BatchNorm2d(channels, bn_statistics="pooled").to(device) if op == "bn_lif" else None
    if provider == REFERENCE:
        return _spikingjelly(norm, device, dtype)
    if provider.startswith("fused"):
        return _fused(norm, provider == "fused packed")
    layers: Any = nn.Sequential(*([norm] if norm is not None else []), LIF())
    return torch.compile(layers, dynamic=False) if provider == "torch.compile" else layers


def saved_bytes(forward: Forward, x: torch.Tensor) -> float:
    """Bytes an element of ``x`` that autograd keeps for the backward pass, ``x`` itself included if it does."""
    kept: dict[int, int] = {}

    def note(t: torch.Tensor) -> torch.Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        out = forward(x)
    del out
    return sum(kept.values()) / x.numel()


def copy_bandwidth(x: torch.Tensor, rounds: int, device: str) -> Timing:
    """Bytes a second that copying ``x`` reads and writes."""
    to = torch.empty_like(x)
    found = interleaved({"copy": lambda: to.copy_(x)}, rounds, 2, device)["copy"]
    return Timing([2 * x.numel() * x.element_size() / s for s in found.seconds])


def _moved(op: str, way: str, provider: str, x: torch.Tensor) -> float:
    spikes = 0.0
    if way == "forward":
        spikes = 1 / 8 if provider == "fused packed" else x.element_size()
    return x.numel() * (LEAST[op, way] * x.element_size() + spikes)


def one_case(args: argparse.Namespace, op: str, timesteps: int, dtype: str) -> list[Row]:
    """All providers on one input."""
    shape = (timesteps, args.batch_size, args.channels, args.size, args.size)
    x = torch.randn(shape, device=args.device, dtype=DTYPES[dtype]).requires_grad_()
    grad = torch.randn_like(x)
    forwards = {p: make_forward(p, op, args.channels, args.device, x.dtype) for p in args.providers}
    outs = {p: forward(x) for p, forward in forwards.items()}
    passes: dict[str, dict[str, Callable[[], object]]] = {
        "forward": {p: lambda f=f: f(x) for p, f in forwards.items()},  # type: ignore[misc]
        "backward": {
            p: lambda out=out: torch.autograd.grad(out, x, grad, retain_graph=True)  # type: ignore[misc]
            for p, out in outs.items()
        },
    }
    where = f"T={timesteps} batch {args.batch_size} {args.channels}x{args.size}x{args.size} {dtype}"
    bandwidth = copy_bandwidth(x.detach(), args.rounds, args.device).median
    rows: list[Row] = []
    both: dict[str, Timing] = {}
    for way, variants in passes.items():
        timings = interleaved(variants, args.rounds, 2, args.device)
        case = f"{op} {way} {where}"
        rows += make_rows(case, "seconds", timings, args.device)
        rows += make_rows(case, "times faster", ratios(timings, args.providers[0]), args.device)
        share = {p: Timing([_moved(op, way, p, x) / s / bandwidth for s in t.seconds]) for p, t in timings.items()}
        rows += make_rows(case, "of the copy bandwidth", share, args.device)
        both = {
            p: Timing([a + b for a, b in zip(both[p].seconds, t.seconds, strict=True)]) if p in both else t
            for p, t in timings.items()
        }
    rows += make_rows(f"{op} {where}", "times faster", ratios(both, args.providers[0]), args.device)
    saved = {p: Timing([saved_bytes(f, x)]) for p, f in forwards.items()}
    return rows + make_rows(f"{op} {where}", "bytes an element kept for backward", saved, args.device)


def run(args: argparse.Namespace) -> list[Row]:
    """Time every case."""
    unknown = sorted(set(args.providers) - set(PROVIDERS))
    if unknown:
        raise ValueError(f"unknown provider {unknown[0]!r}: choose from {', '.join(PROVIDERS)}")
    args.providers = list(dict.fromkeys([REFERENCE, *args.providers]))
    return [
        row
        for op in ("lif", "bn_lif")
        for dtype in args.dtypes
        for t in args.timesteps
        for row in one_case(args, op, t, dtype)
    ]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of this case."""
    parser.add_argument("--timesteps", nargs="+", type=int, default=[1, 4], help="values of T (default 1 4)")
    parser.add_argument("--batch_size", type=int, default=16, help="samples (default 16)")
    parser.add_argument("--channels", type=int, default=64, help="channels (default 64)")
    parser.add_argument("--size", type=int, default=32, help="side of a map in pixels (default 32)")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["float32"], help="default float32")
    parser.add_argument(
        "--providers", nargs="+", default=[REFERENCE, "plain", "fused"], help=f"of {', '.join(PROVIDERS)}"
    )
