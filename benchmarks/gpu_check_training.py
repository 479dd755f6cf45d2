"""Training steps of one network on a GPU, a provider at a time: its rows are written before the next is begun.

``python -m benchmarks.gpu_check_training vgg16 PROVIDER ... --out rows.jsonl [--profile profile.txt]``. A provider of
ours that would run on plain PyTorch, or whose step cannot be captured, is not timed but fails.
"""

import argparse
import copy
import dataclasses
import gc
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import snn_sparse as ss
from benchmarks.gpu_check_rows import append
from benchmarks.machine import Gpu, breakdown
from benchmarks.providers import BF16, PROVIDERS, Images, Provider, Step, prepare
from benchmarks.refusals import Refused, attempt, no_fallback
from benchmarks.rows import make_rows, skipped_rows
from benchmarks.step_rows import floor_rows, kernel_rows
from benchmarks.timing import Timing, interleaved
from snn_sparse.models import SpikingNetwork

REPLAYED = ", replayed"  # behind the name of a provider: its whole step as a CUDA graph, as ours always is
SHOWN_KERNELS = 40  # in a profile


def _compiled(model: SpikingNetwork) -> nn.Module:
    net: Any = torch.compile(copy.deepcopy(model), mode="reduce-overhead", dynamic=False)
    return net


COMPILED = Provider("plain bf16 torch.compile reduce-overhead", "cuda", _compiled, BF16)


def known() -> dict[str, Provider]:
    """All providers by name; those that are not ours also as replayed graphs."""
    found = {p.name: p for p in (*PROVIDERS, COMPILED) if p.device == "cuda"}
    others = {n + REPLAYED: dataclasses.replace(p, name=n + REPLAYED) for n, p in found.items() if not p.fused}
    return found | others


@contextmanager
def _fused_networks() -> Iterator[list[nn.Module]]:
    """Inside, every network that is fused is listed."""
    made: list[nn.Module] = []
    fuse: Any = ss.fuse

    def noted(*args: Any, **kwargs: Any) -> nn.Module:
        made.append(fuse(*args, **kwargs))
        return made[-1]

    ss.fuse = noted
    try:
        yield made
    finally:
        ss.fuse = fuse


def insist_on_stages(networks: Sequence[nn.Module]) -> None:
    """Return if every part of the networks runs in a stage.

    Raises:
        Refused: the compiler, or its comparison with the original, has left something as it was.
    """
    for network in networks:
        for name, reason in ss.explain(network).left.items():
            raise Refused(f"{name or 'the network'} was left as it was: {reason}")


def replayed(step: Step) -> Step:
    """A step as one CUDA graph; the learning rate is that of the capture."""
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(3):
            loss = step()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()

    def run() -> torch.Tensor:
        graph.replay()
        return loss

    return run


def _build(machine: Gpu, provider: Provider, images: Images) -> tuple[Step, float]:
    with _fused_networks() as made:
        step, peak = machine.build(provider, images, True)
    insist_on_stages(made)
    if provider.name.endswith(REPLAYED):
        step = replayed(step)
    loss = float(step())
    if not loss < float("inf"):
        raise Refused(f"the loss is {loss}")
    return step, peak


def _profile(machine: Gpu, step: Step, title: str, file: Path) -> Any:
    """The kernels of a step by class; every kernel's share goes into ``file``."""
    with no_fallback():
        found = machine.profile(step)
    if not found:
        raise RuntimeError("the profiler saw no kernels")
    times, calls = defaultdict[str, float](float), Counter(name for name, _ in found)
    for name, seconds in found:
        times[name] += seconds
    shares = sorted(times.items(), key=lambda share: -share[1])
    lines = [f"{1e6 * spent:10.1f} us {calls[name]:5} x {name[:110]}" for name, spent in shares]
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as text:
        text.write(
            "\n".join([title, *lines[:SHOWN_KERNELS], f"{1e6 * sum(times.values()):10.1f} us in all", ""]) + "\n"
        )
    return breakdown(found)


def measure(machine: Gpu, provider: Provider, images: Images, case: str, args: argparse.Namespace) -> bool:
    """Build, time and profile one provider, and write its rows; whether it was timed."""
    skipped: dict[str, str] = {}
    name, device = provider.name, "cuda"
    built = attempt(name, partial(_build, machine, provider, images), skipped)
    timings = None
    if built is not None:
        timings = attempt(name, partial(interleaved, {name: built[0]}, args.rounds, 1, machine.clock), skipped)
    if built is None or timings is None:
        append(skipped_rows(case, skipped, device), args.out)
        return False
    rows = make_rows(case, "seconds", timings, device)
    images_a_second = Timing([args.batch_size / s for s in timings[name].seconds])
    rows += make_rows(case, "images/s", {name: images_a_second}, device)
    rows += make_rows(case, "peak MB", {name: Timing([built[1]])}, device)
    masks = {} if provider.mask is None else {name: provider.mask(images[0])}
    rows += floor_rows(case, images[0], tuple(images[1].shape), timings, masks, device)
    append(rows, args.out)  # before the profile, which may fail
    if args.profile is not None:
        title = f"{case} | {name}"
        found = attempt(name, partial(_profile, machine, built[0], title, args.profile), {}, "not profiled")
        append([] if found is None else kernel_rows(case, {name: found}, device), args.out)
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``python -m benchmarks.gpu_check_training``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check_training", description=__doc__)
    parser.add_argument("arch", help="vgg16, resnet19 ...")
    parser.add_argument("providers", nargs="+", metavar="PROVIDER", help="in the order of worth")
    parser.add_argument("--out", type=Path, required=True, help="file to which rows are appended")
    parser.add_argument("--profile", type=Path, metavar="FILE", help="list the kernels of each step there")
    parser.add_argument("--batch_size", type=int, default=128, help="images a step (default 128)")
    parser.add_argument("--timestep", type=int, default=5, help="timesteps T (default 5)")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds of ten steps (default 5)")
    args = parser.parse_args(argv)
    if not torch.cuda.is_available():
        parser.exit(2, "gpu_check_training: error: torch sees no NVIDIA GPU\n")
    unknown = sorted(set(args.providers) - set(known()))
    if unknown:
        parser.exit(2, f"gpu_check_training: error: unknown provider {unknown[0]!r}: {', '.join(known())}\n")
    case = f"train-step {args.arch} 3x32x32 T={args.timestep} batch {args.batch_size}"
    machine, failed = Gpu("cuda"), False
    for provider in (known()[name] for name in args.providers):
        done = measure(machine, provider, prepare(args.arch, args.timestep, args.batch_size, "cuda"), case, args)
        failed = failed or (not done and provider.fused)
        gc.collect()
        torch.compiler.reset()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
