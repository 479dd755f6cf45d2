"""One training step (forward, loss, backward, SGD) of the published networks, providers side by side."""

import argparse
from functools import partial

from benchmarks.machine import Breakdown, Cpu, Gpu
from benchmarks.masks import load_tickets
from benchmarks.providers import Provider, Step, choose_providers, of_ticket, prepare
from benchmarks.refusals import attempt, no_fallback
from benchmarks.rows import Row, make_rows, skipped_rows
from benchmarks.step_rows import HOURS, floor_rows, hours, kernel_rows, speed_rows
from benchmarks.timing import Timing, interleaved, ratios


def _compare(args: argparse.Namespace, providers: list[Provider], arch: str, machine: Cpu | Gpu) -> list[Row]:
    """The rows of one network: every provider is built by itself, one that fails or falls back is left out."""
    case = f"train-step {arch} 3x32x32 T={args.timestep} batch {args.batch_size}"
    device, reference = args.device, providers[0].name
    images = prepare(arch, args.timestep, args.batch_size, device)
    masks = {p.name: p.mask(images[0]) for p in providers if p.mask is not None}
    steps: dict[str, Step] = {}
    peaks: dict[str, Timing] = {}
    kernels: dict[str, Breakdown] = {}
    skipped: dict[str, str] = {}
    for p in providers:
        built = attempt(p.name, partial(machine.build, p, images, args.only != "time"), skipped)
        if built is None:
            continue
        steps[p.name], peaks[p.name] = built[0], Timing([built[1]])
        if args.only is None:
            found = attempt(p.name, partial(machine.kernels, built[0]), {}, "kernels not counted")
            kernels |= {} if found is None else {p.name: found}
    if reference in skipped:
        raise ValueError(f"{reference} was left out, and nothing can be compared with it: {skipped[reference]}")
    rows: list[Row] = []
    if args.only != "memory":
        with no_fallback():
            timings = interleaved(steps, args.rounds, 1, machine.clock)
        rows += speed_rows(case, timings, reference, args.batch_size, device)
        if isinstance(machine, Gpu):
            rows += make_rows(case, HOURS, hours(timings, masks, args.batch_size), device)
            rows += floor_rows(case, images[0], tuple(images[1].shape), timings, masks, device)
    if args.only != "time":
        rows += make_rows(case, "peak MB", peaks, device)
        rows += make_rows(case, "of the reference's memory", ratios(peaks, reference, inverse=True), device)
    return rows + kernel_rows(case, kernels, device) + skipped_rows(case, skipped, device)


def run(args: argparse.Namespace, machine: Cpu | Gpu | None = None) -> list[Row]:
    """Build every provider by itself, then time all of them in turn.

    Args:
        args: flags of the case.
        machine: where; that of ``args.device`` if not given.

    Raises:
        ValueError: an unknown provider, a ticket that does not fit, or a reference that does not run.
    """
    on_gpu = args.device.startswith("cuda")
    if args.batch_size is None:
        args.batch_size = 128 if on_gpu else 16
    if args.batch_size < 1:
        raise ValueError(f"--batch_size must be at least 1, got {args.batch_size}")
    if args.ticket and not on_gpu:
        raise ValueError("--ticket needs --device cuda")
    providers = choose_providers(args.providers or (), args.device)
    tickets = load_tickets(args.ticket, args.arch)
    machine = machine or (Gpu(args.device) if on_gpu else Cpu())
    rows: list[Row] = []
    for arch in args.arch:
        own = [of_ticket(ticket) for ticket in tickets if ticket.arch == arch]
        rows += _compare(args, [*providers, *own], arch, machine)
    return rows


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of this case."""
    parser.add_argument("--arch", nargs="+", default=["vgg16", "resnet19"], help="networks (default vgg16 resnet19)")
    parser.add_argument("--batch_size", type=int, help="images a step (default 16, on a GPU 128)")
    parser.add_argument("--timestep", type=int, default=5, help="timesteps T (default 5)")
    parser.add_argument("--only", choices=("time", "memory"), help="one of the two (default both)")
    parser.add_argument("--providers", nargs="+", help="which ones (default all)")
    parser.add_argument(
        "--ticket", nargs="+", default=[], metavar="FILE", help="on a GPU: step under the masks of these tickets too"
    )
