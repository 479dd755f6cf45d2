"""Needs of the compiled GPU kernels, as rows: registers, bytes of stack (spills), shared memory; needs no GPU.

A kernel that spills is a row like any other: registers are handed out by the compiler, whose versions differ.
"""

import argparse
import json
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import benchmarks.rows

KEY = ("kernel", "variant", "dtype", "arch")


@dataclass(frozen=True)
class Compiled:
    """One kernel as compiled for one architecture; registers and spills of a thread, bytes of spills and shared."""

    kernel: str
    variant: str
    dtype: str
    arch: int
    registers: int
    spills: int
    shared: int
    triton: str


def compile_all(args: argparse.Namespace) -> list[Compiled]:
    """Compile the chosen kernels."""
    import torch
    import triton

    from benchmarks import compile_kernels as ahead

    cases = [name for name in (ahead.QUICK if args.quick else ahead.CASES) if args.only in name]
    timesteps = args.timesteps or ((5, 8) if args.quick else ahead.TIMESTEPS)
    dtypes = [torch.bfloat16] if args.quick else list(ahead.DTYPES)
    work = list(ahead.jobs(cases, args.arch or ahead.ARCHITECTURES, timesteps, dtypes))
    with ProcessPoolExecutor(args.jobs) if args.jobs > 1 else nullcontext() as pool:
        run: Callable[..., Iterable[Any]] = map if pool is None else partial(pool.map, chunksize=1)
        return [as_row(usage, triton.__version__) for usage in run(ahead.compile_job, work)]


def as_row(usage: Any, triton_version: str) -> Compiled:
    """Turn what ``compile_kernels`` has found of a kernel into a row."""
    job = usage.job
    variant = f"{job.case}, {usage.tile}, {usage.warps} warps, T={job.timesteps}"
    dtype = str(job.dtype).removeprefix("torch.")
    return Compiled(usage.kernel, variant, dtype, job.arch, usage.registers, usage.spills, usage.shared, triton_version)


def write(rows: Iterable[Any], file: str = "compile", key: tuple[str, ...] = KEY) -> Path:
    """Put dataclasses into a file of ``benchmarks/results``; older rows with the same fields ``key`` make way."""
    path = benchmarks.rows.RESULTS / f"{file}.jsonl"
    found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    by_key = {tuple(row[k] for k in key): row for row in [*found, *map(asdict, rows)]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in by_key.values()))
    return path


def run(args: argparse.Namespace) -> int:
    """Compile, write the rows, print those that spill; the exit status."""
    rows = compile_all(args)
    spilling = [row for row in rows if row.spills]
    for row in spilling:
        where = f"{row.kernel} ({row.variant}, {row.dtype}, sm_{row.arch})"
        print(f"  {where}: {row.spills} bytes spilled, {row.registers} registers")
    print(f"{len(rows)} kernels compiled, {len(spilling)} spill\nrows: {write(rows)}")
    return 0


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of this command."""
    parser.add_argument("--arch", type=int, nargs="+", metavar="SM", help="architectures such as 90 (default: several)")
    parser.add_argument("--quick", action="store_true", help="few variants, bfloat16, 5 and 8 timesteps")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name contains this")
    parser.add_argument("--timesteps", type=int, nargs="+", metavar="T", help="values of T (default: several)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes")
