"""Compile every kernel ahead of time, without a GPU, and tell what it needs.

``python -m benchmarks.compile_kernels [--arch 90] [--quick] [--only output] [--timesteps 5 8] [--jobs 2]`` prints one
line a kernel: registers, bytes of stack (spills), shared memory. Exit status 1 if one spills with up to 8 timesteps.
Kernels, constants and launch settings are recorded from the host functions themselves, called on tensors without memory
(``compile_cases.py``). All of it takes long, ``--quick`` seconds.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from benchmarks.compile_cases import CASES, QUICK
from benchmarks.machine_code import resources
from snn_sparse.ops.triton_launch import Launch

ARCHITECTURES = (80, 90, 100)
TIMESTEPS = (1, 4, 5, 8, 16, 32)
DTYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
_TYPES = {**DTYPES, torch.int32: "i32", torch.uint8: "u8"}
_COLUMNS = "{:<19} {:<34} {:>11} {:>5} {:>3} {:>5} {:>5} {:>10} {:>7} {:>7}"
HEADER = _COLUMNS.format("kernel", "variant", "tile", "warps", "T", "dtype", "arch", "registers", "spills", "shared")


def source(launch: Launch) -> ASTSource:
    """Source that Triton compiles for a launch: types, constants, and which arguments are divisible."""
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    for i, parameter in enumerate(launch.kernel.params):
        value, name = launch.arguments[parameter.name], parameter.name
        special = not parameter.do_not_specialize
        if parameter.is_constexpr or value is None or (special and isinstance(value, int) and value == 1):
            signature[name], constants[name] = "constexpr", value
            continue
        if isinstance(value, torch.Tensor):
            signature[name] = "*" + _TYPES[value.dtype]
        else:
            signature[name] = "fp32" if isinstance(value, float) else ("i32" if value < 2**31 else "i64")
        if isinstance(value, torch.Tensor) or (special and isinstance(value, int) and value % 16 == 0):
            attributes[(i,)] = [["tt.divisibility", 16]]
    return ASTSource(launch.kernel, signature, constants, attributes)


@dataclass(frozen=True)
class Job:
    """One launch to compile for one architecture: its place in what a case records."""

    case: str
    timesteps: int
    dtype: torch.dtype
    index: int
    arch: int


@dataclass(frozen=True)
class Usage:
    """Needs of one compiled kernel: registers a thread, bytes of stack a thread, bytes of shared memory."""

    kernel: str
    tile: str
    warps: int
    job: Job
    registers: int
    spills: int
    shared: int

    def __str__(self) -> str:
        job = self.job
        return _COLUMNS.format(
            self.kernel, job.case, self.tile, self.warps, job.timesteps, DTYPES[job.dtype], f"sm_{job.arch}",
            self.registers, self.spills, self.shared,
        )  # fmt: skip


def _tile(launch: Launch) -> str:
    """Names and values of the constants that say what a program works on."""
    known = (launch.arguments.get(name) for name in ("ROWS", "LANES", "WIDTH", "STEP"))
    return "x".join(str(n) for n in known if n is not None) or "-"


def compile_job(job: Job) -> Usage:
    """Compile one kernel and read what it needs out of its machine code."""
    launch = CASES[job.case](job.timesteps, job.dtype)[job.index]
    compiled = triton.compile(source(launch), target=GPUTarget("cuda", job.arch, 32), options=launch.options)
    found = resources(compiled.asm["cubin"])
    label = launch.kernel.__name__.strip("_").removesuffix("_kernel")
    spills = found["STACK"] + found["LOCAL"]
    return Usage(label, _tile(launch), launch.options["num_warps"], job, found["REG"], spills, compiled.metadata.shared)


def jobs(
    names: Sequence[str], architectures: Sequence[int], timesteps_of: Sequence[int], dtypes: Sequence[torch.dtype]
) -> Iterator[Job]:
    """Everything to compile; a launch that several cases share, once."""
    seen = set()
    for name in names:
        for timesteps in timesteps_of:
            for dtype in dtypes:
                for index, launch in enumerate(CASES[name](timesteps, dtype)):
                    for arch in architectures:
                        key = (source(launch).hash(), str(launch.options), arch)
                        if key not in seen:
                            seen.add(key)
                            yield Job(name, timesteps, dtype, index, arch)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compile_kernels", description=__doc__.split("\n")[0])
    parser.add_argument("--arch", type=int, choices=ARCHITECTURES, help="one architecture (default: all)")
    parser.add_argument("--quick", action="store_true", help="few variants, bfloat16, 5 and 8 timesteps")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name contains this")
    parser.add_argument("--timesteps", type=int, nargs="+", metavar="T", help="values of T (default: several)")
    names = [name.removeprefix("torch.") for name in map(str, DTYPES)]
    parser.add_argument("--dtypes", nargs="+", choices=names, help="default: all, --quick: bfloat16")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes")
    options = parser.parse_args(arguments)
    architectures = (options.arch,) if options.arch else ARCHITECTURES
    cases = [name for name in (QUICK if options.quick else CASES) if options.only in name]
    timesteps = options.timesteps or ((5, 8) if options.quick else TIMESTEPS)
    chosen = options.dtypes or (["bfloat16"] if options.quick else names)
    work = list(jobs(cases, architectures, timesteps, [getattr(torch, name) for name in chosen]))
    print(HEADER)
    worst = 0
    with ProcessPoolExecutor(options.jobs) if options.jobs > 1 else nullcontext() as pool:
        for usage in (pool.map if pool else map)(compile_job, work):
            print(usage, flush=True)
            if usage.job.timesteps <= 8:
                worst = max(worst, usage.spills)
    print(f"{len(work)} kernels compiled; with up to 8 timesteps {worst or 'no'} bytes of stack at most")
    return int(worst > 0)


if __name__ == "__main__":
    sys.exit(main())
