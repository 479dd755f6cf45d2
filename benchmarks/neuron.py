"""One neuron layer over all timesteps, alone (lif) and behind its batch norm (bn_lif): forward, backward, memory."""

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.refusals import attempt, insist
from benchmarks.rows import Row, make_rows, skipped_rows
from benchmarks.spikingjelly_nets import use_triton
from benchmarks.timing import Timing, graph_clock, interleaved, ratios, wall_clock
from snn_sparse.nn import LIF, BatchNorm2d
from snn_sparse.ops import Norm, Packed, neuron_sequence
from snn_sparse.specs import BatchNormSpec, NeuronSpec

Forward = Callable[[torch.Tensor], torch.Tensor]
Runs = Mapping[str, Callable[[], object]]
REFERENCE = "SpikingJelly multi-step"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# The fewest tensors of x's size that must be read or written; spikes, wherever they go, are counted apart.
LEAST = {("lif", "forward"): 1, ("lif", "backward"): 3, ("bn_lif", "forward"): 2, ("bn_lif", "backward"): 5}


def _spikingjelly(norm: BatchNorm2d | None, x: torch.Tensor) -> Forward:
    from spikingjelly.activation_based import functional, layer, neuron, surrogate

    node = neuron.LIFNode(tau=4 / 3, surrogate_function=surrogate.ATan(), detach_reset=True, step_mode="m")
    if x.is_cuda:
        use_triton(node, x.device, x.dtype)
    theirs = None if norm is None else layer.BatchNorm2d(norm.num_features, step_mode="m").to(x.device)

    def run(x: torch.Tensor) -> torch.Tensor:
        functional.reset_net(node)
        return node(x if theirs is None else theirs(x))

    return run


def _plain(norm: BatchNorm2d | None, x: torch.Tensor) -> Forward:
    return nn.Sequential(*([norm] if norm is not None else []), LIF())


def _compiled(norm: BatchNorm2d | None, x: torch.Tensor) -> Forward:
    compiled: Any = torch.compile(_plain(norm, x), dynamic=False)
    return compiled


def _fused(norm: BatchNorm2d | None, x: torch.Tensor, packed: bool = False) -> Forward:
    insist("neuron", device=x.device, dtype=x.dtype, on="triton" if packed else None)

    def run(x: torch.Tensor) -> torch.Tensor:
        record = None
        if norm is not None:
            tensors = norm.weight, norm.bias, norm.running_mean, norm.running_var
            record = Norm(BatchNormSpec("pooled", norm.eps), *tensors, (0.1,))
        spikes, _ = neuron_sequence(x, NeuronSpec(), x.shape[0], norm=record, packed=packed)
        return spikes.carrier if isinstance(spikes, Packed) else spikes

    return run


PROVIDERS: dict[str, Callable[[BatchNorm2d | None, torch.Tensor], Forward]] = {
    REFERENCE: _spikingjelly,
    "plain": _plain,
    "torch.compile": _compiled,
    "fused": _fused,
    "fused packed": partial(_fused, packed=True),
}


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


def copy_bandwidth(x: torch.Tensor, rounds: int) -> float:
    """Bytes a second that copying ``x`` reads and writes."""
    to = torch.empty_like(x)
    clock = graph_clock if x.is_cuda else wall_clock
    return (
        2 * x.numel() * x.element_size() / interleaved({"copy": lambda: to.copy_(x)}, rounds, 2, clock)["copy"].median
    )


def _moved(op: str, way: str, provider: str, x: torch.Tensor) -> float:
    spikes = 0.0
    if way == "forward":
        spikes = 1 / 8 if provider == "fused packed" else x.element_size()
    return x.numel() * (LEAST[op, way] * x.element_size() + spikes)


def time_passes(
    forwards: Mapping[str, Forward], x: torch.Tensor, rounds: int, graphs: bool
) -> dict[str, dict[str, Timing]]:
    """Time forward and backward of all in turn, with ``graphs`` replayed from CUDA graphs.

    A graph holds no backward pass alone, which runs on its forward's stream: it is what both take less the forward.
    """
    grad = torch.randn_like(x)
    forward: Runs = {p: partial(f, x) for p, f in forwards.items()}
    if graphs:
        both: Runs = {p: lambda f=f: torch.autograd.grad(f(x), x, grad) for p, f in forwards.items()}  # type: ignore[misc]
        first, sums = (interleaved(runs, rounds, 1, graph_clock) for runs in (forward, both))
        rest = {p: Timing([b - a for a, b in zip(first[p].seconds, sums[p].seconds, strict=True)]) for p in first}
        return {"forward": first, "backward": rest}
    outs = {p: f(x) for p, f in forwards.items()}
    backward: Runs = {p: partial(torch.autograd.grad, out, x, grad, retain_graph=True) for p, out in outs.items()}
    return {"forward": interleaved(forward, rounds, 2), "backward": interleaved(backward, rounds, 2)}


def _build(provider: str, op: str, x: torch.Tensor) -> Forward:
    """The forward pass of one provider, tried out as it is timed."""
    norm = BatchNorm2d(x.shape[2], bn_statistics="pooled").to(x.device) if op == "bn_lif" else None
    forward = PROVIDERS[provider](norm, x)
    time_passes({provider: forward}, x, 1, x.is_cuda)
    return forward


def one_case(args: argparse.Namespace, op: str, timesteps: int, dtype: str) -> list[Row]:
    """All providers on one input."""
    shape = (timesteps, args.batch_size, args.channels, args.size, args.size)
    x = torch.randn(shape, device=args.device, dtype=DTYPES[dtype]).requires_grad_()
    where = f"T={timesteps} batch {args.batch_size} {args.channels}x{args.size}x{args.size} {dtype}"
    skipped: dict[str, str] = {}
    built = {p: attempt(p, partial(_build, p, op, x), skipped) for p in args.providers}
    forwards = {p: f for p, f in built.items() if f is not None}
    rows = skipped_rows(f"{op} {where}", skipped, args.device)
    if REFERENCE not in forwards:
        return rows
    bandwidth = copy_bandwidth(x.detach(), args.rounds)
    passes = time_passes(forwards, x, args.rounds, x.is_cuda)
    for way, timings in passes.items():
        case = f"{op} {way} {where}"
        rows += make_rows(case, "seconds", timings, args.device)
        rows += make_rows(case, "times faster", ratios(timings, REFERENCE), args.device)
        share = {p: Timing([_moved(op, way, p, x) / s / bandwidth for s in t.seconds]) for p, t in timings.items()}
        rows += make_rows(case, "of the copy bandwidth", share, args.device)
    both = {
        p: Timing([a + b for a, b in zip(*(passes[way][p].seconds for way in passes), strict=True)]) for p in forwards
    }
    rows += make_rows(f"{op} {where}", "times faster", ratios(both, REFERENCE), args.device)
    saved = {p: Timing([saved_bytes(f, x)]) for p, f in forwards.items()}
    return rows + make_rows(f"{op} {where}", "bytes an element kept for backward", saved, args.device)


def run(args: argparse.Namespace) -> list[Row]:
    """Time every case."""
    unknown = sorted(set(args.providers) - set(PROVIDERS))
    if unknown:
        raise ValueError(f"unknown provider {unknown[0]!r}: choose from {', '.join(PROVIDERS)}")
    args.providers = list(dict.fromkeys([REFERENCE, *args.providers]))
    cases = [(op, t, dtype) for op in ("lif", "bn_lif") for dtype in args.dtypes for t in args.timesteps]
    return [row for case in cases for row in one_case(args, *case)]


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
