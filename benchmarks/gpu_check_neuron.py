"""The neuron operator in channels-last, bf16, by graph replays, and the card's copy bandwidth, as rows.

``python -m benchmarks.gpu_check_neuron --out rows.jsonl``: each T's rows are written before the next T is begun.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks import neuron
from benchmarks.gpu_check_rows import append
from benchmarks.refusals import attempt
from benchmarks.rows import make_rows, skipped_rows
from benchmarks.timing import Timing
from snn_sparse.nn import BatchNorm2d
from snn_sparse.ops.spikes import NHWC, ordered

TIMESTEPS = (5, 2, 4, 8, 16, 32)
BATCH, CHANNELS, SIDE = 128, 64, 32
OURS = ("fused", "fused packed")


def maps(timesteps: int, batch: int) -> torch.Tensor:
    """Random maps ``[T, N, 64, 32, 32]``, bfloat16, channels last, that want a gradient."""
    x = torch.randn(timesteps, batch, CHANNELS, SIDE, SIDE, device="cuda", dtype=torch.bfloat16)
    return ordered(x, NHWC).requires_grad_()


def _build(provider: str, x: torch.Tensor) -> neuron.Forward:
    norm = BatchNorm2d(CHANNELS, bn_statistics="pooled").to(x.device)
    return neuron.PROVIDERS[provider](norm, x)


def ours(x: torch.Tensor) -> Mapping[str, neuron.Forward]:
    """Our ways to run batch norm and neuron on ``x``, by provider."""
    return {provider: _build(provider, x) for provider in OURS}


def _timed(provider: str, x: torch.Tensor, rounds: int) -> dict[str, Timing]:
    passes = neuron.time_passes({provider: _build(provider, x)}, x, rounds, graphs=True)
    return {way: timings[provider] for way, timings in passes.items()}


def run(timesteps: int, batch: int, rounds: int, out: Path) -> int:
    """Time all providers at one T and append their rows; how many of ours failed."""
    x, skipped = maps(timesteps, batch), dict[str, str]()
    case = f"bn_lif T={timesteps} batch {batch} {CHANNELS}x{SIDE}x{SIDE} bfloat16 channels last"
    bandwidth = neuron.copy_bandwidth(x.detach(), rounds)
    append(make_rows(case, "copy TB/s", {"copy": Timing([bandwidth / 1e12])}, "cuda"), out)
    for provider in (*OURS, neuron.REFERENCE):
        found = attempt(provider, partial(_timed, provider, x, rounds), skipped)
        for way, timing in (found or {}).items():
            least = neuron._moved("bn_lif", way, provider, x)
            share = Timing([least / s / bandwidth for s in timing.seconds])
            append(make_rows(f"{case} {way}", "seconds", {provider: timing}, "cuda"), out)
            append(make_rows(f"{case} {way}", "of the copy bandwidth", {provider: share}, "cuda"), out)
    append(skipped_rows(case, skipped, "cuda"), out)
    return sum(provider in skipped for provider in OURS)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``python -m benchmarks.gpu_check_neuron``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check_neuron", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="file to which rows are appended")
    parser.add_argument("--timesteps", type=int, nargs="+", default=TIMESTEPS, help="values of T")
    parser.add_argument("--batch_size", type=int, default=BATCH, help=f"samples (default {BATCH})")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds (default 5)")
    args = parser.parse_args(argv)
    if not torch.cuda.is_available():
        parser.exit(2, "gpu_check_neuron: error: torch sees no NVIDIA GPU\n")
    return int(sum(run(t, args.batch_size, args.rounds, args.out) for t in args.timesteps) > 0)


if __name__ == "__main__":
    sys.exit(main())
