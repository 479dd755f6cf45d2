"""Training steps at a search's levels, with its trained weights, masks and images: fused against the published way."""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import snn_sparse as ss
from benchmarks.machine import Cpu, Gpu
from benchmarks.memory import SETTLING_STEPS
from benchmarks.providers import choose_providers, make_step
from benchmarks.refusals import no_fallback
from benchmarks.rows import Row, make_rows
from benchmarks.timing import Timing, interleaved, ratios
from snn_sparse.tickets.run_files import RunFiles
from snn_sparse.tickets.settings import data_name, network_name
from snn_sparse.training import Dataset, load_dataset

FUSED = {"cpu": "fused dense", "cuda": "fused dense bf16"}


def _batch(data: Dataset, size: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    if data.timesteps is not None:
        raise ValueError("the run's images are sequences of frames, which the published way does not read")
    return data.train.normalise(data.train.images[:size].to(device)), data.train.labels[:size].to(device)


def steps_of(ticket: ss.Ticket, data: Dataset, device: str) -> dict[str, Callable[[], Any]]:
    """A training step of each provider under a ticket's mask, from its trained weights.

    Args:
        ticket: of a network of ours, with trained weights.
        data: images that it was trained on.
        device: ``cpu`` or ``cuda``.
    """
    model = ss.build_model(**ticket.config)
    model.load_state_dict(ticket.state("trained"))
    images = model, *_batch(data, ticket.meta["settings"]["batch_size"], device)
    published, fused = choose_providers([FUSED[device[:4].rstrip(":")]], device)
    pruned = ticket.mask.sparsity > 0
    fused = replace(fused, name="fused", mask=(lambda _: ticket.mask) if pruned else None)
    return {p.name: make_step(p, images) for p in (published, fused)}


def _levels(files: RunFiles) -> list[ss.Ticket]:
    found = [t for level in files.levels() if (t := files.load_ticket(level)) is not None]
    if not found:
        raise ValueError(f"{files.root} has no finished levels")
    return found


def one_run(args: argparse.Namespace, path: str) -> list[Row]:
    """Rows of a run: each of its levels, and all of them together, weighted by their epochs."""
    tickets = _levels(RunFiles(path))
    settings = tickets[0].meta["settings"]
    data = load_dataset(settings["dataset"], args.data_dir)
    name = f"{tickets[0].meta['method']} {network_name(settings)} {data_name(settings)} batch {settings['batch_size']}"
    clock = (Gpu(args.device) if args.device.startswith("cuda") else Cpu()).clock
    together: dict[str, list[float]] = {}
    rows: list[Row] = []
    for ticket in tickets:
        level, meta = f"level {ticket.meta['level']}: {ticket.mask.sparsity:.2f} % pruned", ticket.meta
        with no_fallback():
            timings = interleaved(steps_of(ticket, data, args.device), args.rounds, SETTLING_STEPS, clock)
        for provider, timing in timings.items():
            sums = together.setdefault(provider, [0.0] * args.rounds)
            together[provider] = [s + meta["epochs"] * t for s, t in zip(sums, timing.seconds, strict=True)]
        case = f"trained {name}, {level}, T={meta['timesteps']}"
        spikes = {"fused": Timing([100 - meta["profile"]["activation_sparsity"]])} if meta.get("profile") else {}
        rows += make_rows(case, "times faster", ratios(timings, next(iter(timings))), args.device)
        rows += make_rows(case, "% of activations not zero", spikes, args.device)
    sums_ = {provider: Timing(seconds) for provider, seconds in together.items()}
    reference = next(iter(sums_))
    return rows + make_rows(f"trained {name}, all levels", "times faster", ratios(sums_, reference), args.device)


def run(args: argparse.Namespace) -> list[Row]:
    """Time the levels of every run.

    Raises:
        ValueError: a directory that is no run, has no finished level, or whose images are sequences.
    """
    for path in args.runs:
        if not Path(path).is_dir():
            raise ValueError(f"no run directory {path}")
    try:
        return [row for path in args.runs for row in one_run(args, path)]
    except FileNotFoundError as error:
        raise ValueError(str(error)) from error


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of this case."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run directories of finished searches")
    parser.add_argument("--data_dir", default="dataset", help="where the images of the runs lie (default dataset)")
