"""The training step on an NVIDIA GPU: time, memory, kernels, distance from the floor, length of a whole search."""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TypeVar

import torch

import snn_sparse as ss
from benchmarks.floor import Chip, chip_of, floor
from benchmarks.gpu_measure import Breakdown, Gpu, Step, build_alone, profile_step
from benchmarks.gpu_providers import COMPILED, FUSED_DENSE, MULTI_STEP, PROVIDERS, REFERENCE, make_step
from benchmarks.masks import load_tickets, masks_of
from benchmarks.projection import search_hours
from benchmarks.publish import FLOOR
from benchmarks.rows import Row, device_name, make_rows
from benchmarks.timing import Clock, EventClock, Timing, interleaved, ratios
from snn_sparse.models import SpikingNetwork

__all__ = ["PROVIDERS", "run"]
HOURS = "projected search hours"
Result = TypeVar("Result")
Prepare = Callable[[argparse.Namespace, str], tuple[SpikingNetwork, torch.Tensor, torch.Tensor]]


@contextmanager
def _alike(device: str) -> Iterator[None]:
    """On this device; cuDNN times its algorithms on the first call of each shape, for all providers alike."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        with torch.cuda.device(device) if device.startswith("cuda") else nullcontext():
            yield
    finally:
        torch.backends.cudnn.benchmark = before


def _unless_it_fails(said: str, action: Callable[[], Result]) -> Result | None:
    """What the action returns; if it fails, whatever the reason, one line that begins with ``said``, and None."""
    try:
        return action()
    except Exception as error:
        reason = " ".join((str(error) or type(error).__name__).split())[:200]
        print(f"{said}: {reason}", file=sys.stderr)
        return None


def build_all(
    makers: Mapping[str, Callable[[], Step]], gpu: Gpu, profiled: bool = True
) -> tuple[dict[str, Step], dict[str, Timing], dict[str, Breakdown]]:
    """Build and measure every provider by itself; one that fails is told of in a line and left out.

    Args:
        makers: what builds the step of each.
        gpu: the device.
        profiled: whether kernels are looked at too.

    Returns:
        steps, peak megabytes and kernels, by provider.
    """
    steps: dict[str, Step] = {}
    peaks: dict[str, Timing] = {}
    kernels: dict[str, Breakdown] = {}
    for name, make in makers.items():
        built = _unless_it_fails(f"left out: {name}", partial(build_alone, make, gpu))
        if built is None:
            continue
        steps[name], peaks[name] = built[0], Timing([built[1] / 2**20])
        if profiled:
            found = _unless_it_fails(f"kernels not counted: {name}", partial(profile_step, built[0], gpu))
            kernels.update({name: found} if found is not None else {})
    return steps, peaks, kernels


def _best_multi_step(timings: Mapping[str, Timing]) -> str | None:
    there = [name for name in (MULTI_STEP, COMPILED) if name in timings]
    return min(there, key=lambda name: timings[name].median, default=None)


def hours(timings: Mapping[str, Timing], masks: Mapping[str, ss.Mask], batch_size: int) -> dict[str, Timing]:
    """Hours of the published search, round by round, at the step time of each dense provider all along.

    For each kind of mask besides: fused, from level to level at the step times under masks of that kind.
    """

    def over_rounds(measured: Mapping[float, Timing]) -> Timing:
        rounds = zip(*(timing.seconds for timing in measured.values()), strict=True)
        return Timing([search_hours(dict(zip(measured, seconds, strict=True)), batch_size) for seconds in rounds])

    found = {name: over_rounds({0.0: timing}) for name, timing in timings.items() if name not in masks}
    if FUSED_DENSE in timings:
        for kind in ("uniform", "magnitude", "ticket"):
            sparse = {masks[name].sparsity: t for name, t in timings.items() if name in masks and f" {kind} " in name}
            if sparse:
                found[f"fused bf16, {kind} masks, level by level"] = over_rounds({0.0: timings[FUSED_DENSE], **sparse})
    return found


def _speed_rows(case: str, timings: dict[str, Timing], args: argparse.Namespace) -> list[Row]:
    images = {name: Timing([args.batch_size / s for s in t.seconds]) for name, t in timings.items()}
    rows = make_rows(case, "seconds", timings, args.device)
    rows += make_rows(case, "images/s", images, args.device)
    rows += make_rows(case, "times faster", ratios(timings, REFERENCE), args.device)
    best = _best_multi_step(timings)
    if best is not None:
        rows += make_rows(case, "times faster than multi-step", ratios(timings, best), args.device)
    return rows


def _kernel_rows(case: str, kernels: Mapping[str, Breakdown], device: str) -> list[Row]:
    rows = make_rows(case, "kernels", {p: Timing([k.kernels]) for p, k in kernels.items()}, device)
    classes = dict.fromkeys(c for k in kernels.values() for c, seconds in k.seconds.items() if seconds)
    for kind in classes:
        times = {p: Timing([1e6 * k.seconds[kind]]) for p, k in kernels.items()}
        rows += make_rows(case, f"us {kind}", times, device)
    return rows


def _floor_rows(
    case: str,
    model: SpikingNetwork,
    shape: tuple[int, ...],
    timings: Mapping[str, Timing],
    masks: Mapping[str, ss.Mask],
    chip: Chip,
    device: str,
) -> list[Row]:
    """The dense floor, and how far each provider is from that of its own mask."""
    dense = floor(model, shape, model.timesteps, chip=chip)
    rows = [
        row
        for name, seconds in dense.items()
        for row in make_rows(case, f"{FLOOR}{name}", {f"dense bf16 on {chip.name}": Timing([1e6 * seconds])}, device)
    ]
    times = {}
    for name, timing in timings.items():
        density = {n: float(m.float().mean()) for n, m in masks[name].items()} if name in masks else None
        least = floor(model, shape, model.timesteps, density, chip)["overlapped"] if density else dense["overlapped"]
        times[name] = Timing([s / least for s in timing.seconds])
    return rows + make_rows(case, "times the floor", times, device)


def _run_arch(
    args: argparse.Namespace,
    model: SpikingNetwork,
    x: torch.Tensor,
    y: torch.Tensor,
    masks: Mapping[str, ss.Mask],
    providers: Sequence[str],
    gpu: Gpu,
    clock: Clock,
) -> list[Row]:
    case = f"train-step {model.config['arch']} 3x32x32 T={args.timestep} batch {args.batch_size}"
    makers = {p: lambda p=p: make_step(p, model, x, y, masks.get(p)) for p in providers}
    steps, peaks, kernels = build_all(makers, gpu, args.only is None)
    args.left_out += [p for p in providers if p not in steps]
    if REFERENCE not in steps:
        raise ValueError(f"{REFERENCE} was left out, and nothing can be compared with it")
    rows: list[Row] = []
    if args.only != "memory":
        timings = interleaved(steps, args.rounds, 1, args.device, clock)
        rows += _speed_rows(case, timings, args)
        rows += make_rows(case, HOURS, hours(timings, masks, args.batch_size), args.device)
        chip = chip_of(device_name(args.device))
        rows += _floor_rows(case, model, tuple(x.shape), timings, masks, chip, args.device)
    if args.only != "time":
        rows += make_rows(case, "peak MB", peaks, args.device)
        rows += make_rows(case, "of the reference's memory", ratios(peaks, REFERENCE, inverse=True), args.device)
    return rows + _kernel_rows(case, kernels, args.device)


def run(args: argparse.Namespace, prepare: Prepare, gpu: Gpu | None = None, clock: Clock | None = None) -> list[Row]:
    """Measure every provider by itself, then time all of them in turn.

    Args:
        args: flags of the case; ``left_out`` is set to the providers that failed.
        prepare: gives network, images and labels of an architecture.
        gpu: the device; of ``args.device`` if not given.
        clock: of the time of a step; CUDA events around ten of them if not given.

    Raises:
        ValueError: an unknown provider, a ticket that does not fit, or a reference that does not run.
    """
    unknown = sorted(set(args.providers) - set(PROVIDERS))
    if unknown:
        raise ValueError(f"unknown provider {unknown[0]!r}: choose from {', '.join(PROVIDERS)}")
    tickets = load_tickets(args.ticket, args.arch)
    rows: list[Row] = []
    args.left_out = []
    for arch in args.arch:
        model, x, y = prepare(args, arch)
        own = [ticket for ticket in tickets if ticket.arch == arch]
        providers = list(dict.fromkeys([REFERENCE, *args.providers, *(ticket.provider for ticket in own)]))
        masks = masks_of(model, providers, own)
        x = x.contiguous(memory_format=torch.channels_last)
        with _alike(args.device):
            rows += _run_arch(args, model, x, y, masks, providers, gpu or Gpu(args.device), clock or EventClock())
    return rows
