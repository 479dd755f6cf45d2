"""Other people's networks before and after ``ss.fuse``: what is fused, how far results differ, a training step."""

import argparse
import copy
import random
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_flatten

import snn_sparse as ss
from benchmarks.model_zoo import count_neurons, networks
from benchmarks.rows import Row, make_rows, skipped_rows
from benchmarks.timing import Timing, interleaved, ratios, wall_clock
from snn_sparse.fusion.explanation import explain
from snn_sparse.fusion.repeatable import Repeatable

FUSED, WHOLE = "ss.fuse", "the network"
NEURONS, FOUND = "neurons", "neurons fused"
OUTPUTS, GRADIENTS, SINGLE = "difference of outputs", "difference of gradients", "float32 only"
BEFORE, AFTER, FASTER = "ms before", "ms after", "times faster"
READING = 0.05  # seconds that a timed reading takes at least


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of this case."""
    parser.add_argument("--networks", nargs="+", metavar="NAME", help="which ones (default all)")


def run(args: argparse.Namespace) -> list[Row]:
    """Measure one network after the other.

    Args:
        args: flags of the case; at least five rounds give a median to go by.

    Raises:
        ValueError: an unknown network, or another device than a CPU.
    """
    if args.device != "cpu":
        raise ValueError(f"fusing is measured on a CPU, got --device {args.device}")
    known = networks()
    unknown = set(args.networks or ()) - known.keys()
    if unknown:
        raise ValueError(f"--networks {', '.join(sorted(unknown))}: unknown, use some of {', '.join(known)}")
    rows = []
    for name in args.networks or known:
        print(name, flush=True)
        rows += _measure(known[name], args.rounds, args.device)
    return rows


def _measure(network: Any, rounds: int, device: str) -> list[Row]:
    """Rows of one network."""
    case = f"{network.name}: {network.style}"
    torch.manual_seed(0)
    model, inputs = network.build(), network.inputs()
    dtype = torch.float64 if network.float64 else torch.float32
    outputs, gradients = differences(model, inputs, network.reset, dtype)
    fast = ss.fuse(model)
    timings = _timed(model, fast, network, inputs, rounds)
    neurons, left = _told(fast)
    found = {
        NEURONS: Timing([network.neurons or count_neurons(model)]),
        FOUND: Timing([neurons]),
        OUTPUTS: Timing([outputs]),
        GRADIENTS: Timing([gradients]),
        **({} if network.float64 else {SINGLE: Timing([1.0])}),
        BEFORE: Timing([1e3 * s for s in timings["before"].seconds]),
        AFTER: Timing([1e3 * s for s in timings["after"].seconds]),
        FASTER: ratios(timings, "before")["after"],
    }
    rows = [row for metric, timing in found.items() for row in make_rows(case, metric, {FUSED: timing}, device)]
    return rows + skipped_rows(case, left, device)


def _told(fast: nn.Module) -> tuple[int, dict[str, str]]:
    """How many neurons run in stages; what was left -> why, without the names of folders."""
    told, compiler = explain(fast), fast.__dict__["_fused_compiler"]
    left = {name: re.sub(r"\((?:[^()]*/)?([^()/]+\.py:\d+)", r"(\1", reason) for name, reason in told.left.items()}
    if "" in left:
        return 0, {WHOLE: left[""]}
    return len(set(compiler.last.sites.neurons) & set(told.fused)), left


def loss_of(out: Any) -> torch.Tensor:
    """Mean squares of whatever a network answers, in sum."""
    answers = [v for v in tree_flatten(out)[0] if isinstance(v, torch.Tensor) and v.requires_grad]
    return torch.stack([v.square().mean() for v in answers]).sum()


def _step(model: nn.Module, inputs: Sequence[Any], reset: Callable[[nn.Module], object]) -> Callable[[], None]:
    """One training step as a call: forward, loss, backward, SGD."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)

    def step() -> None:
        reset(model)
        optimizer.zero_grad()
        loss_of(model(*inputs)).backward()
        optimizer.step()

    return step


def _timed(model: nn.Module, fast: nn.Module, network: Any, inputs: Sequence[Any], rounds: int) -> dict[str, Timing]:
    """Seconds of a step before and after, in turn; a reading is of as many steps as fill its time."""
    steps = {"before": _step(model, inputs, network.reset), "after": _step(fast, inputs, network.reset)}
    for step in steps.values():
        step()  # captured, checked and planned
    calls = {name: max(1, int(READING / wall_clock(step))) for name, step in steps.items()}

    readings = {name: partial(_repeat, step, calls[name]) for name, step in steps.items()}
    timings = interleaved(readings, rounds)
    return {name: Timing([s / calls[name] for s in t.seconds]) for name, t in timings.items()}


def _repeat(step: Callable[[], None], calls: int) -> None:
    for _ in range(calls):
        step()


def differences(
    model: nn.Module, inputs: Sequence[Any], reset: Callable[[nn.Module], object], dtype: torch.dtype
) -> tuple[float, float]:
    """How far outputs and gradients of a network and its fused twin are apart, each relative to the largest.

    Args:
        model: as its author wrote it; not changed.
        inputs: of a call.
        reset: puts the neurons of a network to rest.
        dtype: to compute in; in float64 no spike depends on the order in which a sum is rounded.
    """
    given = [x.to(dtype) if x.is_floating_point() else x for x in inputs]
    found = []
    for twin in (copy.deepcopy(model).to(dtype), ss.fuse(copy.deepcopy(model).to(dtype))):
        random.seed(0)
        with Repeatable():  # dropout and other random numbers of torch
            reset(twin)
            out = twin(*given)
            loss_of(out).backward()
        answers = [v.detach().flatten().to(dtype) for v in tree_flatten(out)[0] if isinstance(v, torch.Tensor)]
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in twin.parameters()]
        found.append((torch.cat(answers), torch.cat([g.flatten() for g in grads])))
    return _apart(found[0][0], found[1][0]), _apart(found[0][1], found[1][1])


def _apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / a.abs().max().clamp(min=1e-30))
