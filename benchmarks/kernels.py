"""Instructions of the neuron's GPU kernels for each neuron and step, and what they predict; needs no GPU.

The kernels of VGG16's layers (batch norm per step, LIF, packed spikes, channels last) are compiled and their machine
code is read. A *neuron-step* is one neuron at one timestep. *Predicted* is the longer of a kernel's traffic at 3 TB/s
and its instructions at 65 % of an H100's issue rate: a model, no measurement.
"""

import argparse
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from benchmarks.compiled import write

KEY = ("kernel", "pool", "dtype", "timesteps", "arch", "commit")
MAX_TIMESTEPS = 8  # beyond, steps are cut into segments, whose loops this does not count
BATCH = 128
# Channels, pixels a side, whether a pool follows: the neurons of VGG16 on images of 32x32.
VGG16 = (
    *((64, 32, False), (64, 32, True), (128, 16, False), (128, 16, True)),
    *((256, 8, False), (256, 8, False), (256, 8, True)),
    *((512, 4, False), (512, 4, False), (512, 4, True)),
    *((512, 2, False), (512, 2, False), (512, 2, True)),
)
BANDWIDTH = 3.0e12  # bytes a second that copies reach on an H100
ISSUE_RATE = 0.65 * 132 * 4 * 1.755e9  # instructions of a warp a second: multiprocessors, schedulers, clock
_WARP = 32
_CASES = {False: "nhwc lif per_step bits", True: "nhwc lif per_step pool bits"}


@dataclass(frozen=True)
class Kernel:
    """One kernel as compiled, and what that predicts for all of VGG16's layers with such a kernel.

    Attributes:
        kernel: what it computes.
        pool: whether a pool follows the neuron.
        dtype: of maps.
        timesteps: T.
        arch: such as 90.
        instructions: for each neuron-step, on average over these layers.
        loads: widths in bytes of the loads from global memory, with their number.
        stores: likewise.
        barriers: all of them.
        barriers_of_a_tile: of these, in what runs for each tile, which holds the loop over t.
        registers: of a thread.
        spills: bytes of stack of a thread.
        bytes: moved for each neuron-step, if everything is moved once.
        traffic_ms: predicted for ``bytes``, batch 128.
        issue_ms: predicted for ``instructions``.
        triton: its version.
        commit: of this checkout.
    """

    kernel: str
    pool: bool
    dtype: str
    timesteps: int
    arch: int
    instructions: float
    loads: str
    stores: str
    barriers: int
    barriers_of_a_tile: int
    registers: int
    spills: int
    bytes: float
    traffic_ms: float
    issue_ms: float
    triton: str
    commit: str


def name_of(launch: Any) -> str | None:
    """What a recorded launch computes; None if it is not one of the kernels that touch every neuron."""
    name = launch.kernel.__name__
    if name == "_backward_kernel":
        return f"backward pass {1 if launch.arguments['SLOTS'] else 2}"
    return {"_forward_kernel": "forward", "_partial_statistics_kernel": "statistics"}.get(name)


def _elements(arguments: dict[str, Any]) -> int:
    """Neurons of a tile."""
    return int(arguments["ROWS"] * arguments["LANES"] * (4 if arguments["POOL"] else 1))


def _layers(name: str, pool: bool) -> list[tuple[int, int, bool]]:
    """Layers of VGG16 that have this kernel; statistics do not know of the pool."""
    return [layer for layer in VGG16 if layer[2] == pool or name == "statistics"]


def _passes(launch: Any, name: str, channels: int, side: int, timesteps: int) -> float:
    """Tiles of a program, one after the other, in a layer; as the kernels' hosts cut it."""
    from snn_sparse.ops.neuron.triton_statistics import programs_of
    from snn_sparse.ops.spikes.triton_tiles import cut

    given = launch.arguments
    if given.get("tiles") == given.get("programs"):  # as many programs as tiles: no loop, or one pass of it
        return 1.0
    shape = (BATCH, channels, side, side)
    tiling = cut(shape, _elements(given), channels_last=True, pool=given["POOL"])
    return tiling.tiles / (programs_of(tiling, timesteps) if name == "statistics" else tiling.summing_programs)


def measure(launch: Any, arch: int, name: str, pool: bool, timesteps: int, dtype: str) -> Kernel:
    """Compile one launch and count."""
    import torch
    import triton
    from triton.backends.compiler import GPUTarget

    from benchmarks.compile_kernels import source
    from benchmarks.machine_code import barriers, cuobjdump, read_code, resources, widths
    from benchmarks.rows import commit

    given = launch.arguments
    compiled = triton.compile(source(launch), target=GPUTarget("cuda", arch, 32), options=launch.options)
    used = resources(compiled.asm["cubin"])
    code = read_code(cuobjdump(compiled.asm["cubin"], "-sass"))
    steps = 1 if name == "statistics" else timesteps  # a program of the statistics has one step
    of_a_tile = _elements(given) * steps / (_WARP * launch.options["num_warps"])  # neuron-steps of a thread
    layers = [
        (BATCH * timesteps * c * side**2, _passes(launch, name, c, side, timesteps))
        for c, side, _ in _layers(name, pool)
    ]
    neuron_steps = sum(n for n, _ in layers)
    issued = sum(n * code.executed(passes) / (of_a_tile * passes) for n, passes in layers)
    moved = sum(x.numel() * x.element_size() for x in given.values() if isinstance(x, torch.Tensor))
    each = moved / given["y"].numel()
    return Kernel(
        *(name, pool, dtype, timesteps, arch, round(issued / neuron_steps, 1)),
        *(widths(code.instructions, "LDG"), widths(code.instructions, "STG")),
        *(barriers(code.instructions), barriers(code.loop or code.instructions)),
        *(used["REG"], used["STACK"] + used["LOCAL"], round(each, 2)),
        traffic_ms=round(1e3 * each * neuron_steps / BANDWIDTH, 3),
        issue_ms=round(1e3 * issued / _WARP / ISSUE_RATE, 3),
        triton=triton.__version__,
        commit=commit(),
    )


def _launches(pool: bool, timesteps: int, dtype: str) -> Iterator[tuple[str, Any]]:
    import torch

    from benchmarks.compile_cases import CASES

    for launch in CASES[_CASES[pool]](timesteps, getattr(torch, dtype)):
        name = name_of(launch)
        if name and not (pool and name == "statistics"):  # a pool comes after the statistics
            yield name, launch


def _measure(work: tuple[str, int, str, bool, int]) -> Kernel:
    only, arch, dtype, pool, timesteps = work
    launch = next(launch for name, launch in _launches(pool, timesteps, dtype) if name == only)
    return measure(launch, arch, only, pool, timesteps, dtype)


def count(args: argparse.Namespace) -> list[Kernel]:
    """Compile the chosen kernels and count their instructions."""
    work = [
        (name, args.arch, dtype, pool, args.timesteps)
        for dtype in args.dtypes
        for pool in (False, True)
        for name, _ in _launches(pool, args.timesteps, dtype)
        if args.only in name
    ]
    with ProcessPoolExecutor(args.jobs) if args.jobs > 1 else nullcontext() as pool:
        return list((pool.map if pool else map)(_measure, work))


_COLUMNS = "{:<16} {:<5} {:<9} {:>6} {:>5} {:>5} {:>9} {:>7} {:>10} {:>9}  {}"
HEADER = _COLUMNS.format(
    *("kernel", "pool", "dtype", "instr.", "bytes", "regs", "barriers", "spills", "traffic ms", "issue ms"),
    "loads; stores (bytes x number)",
)


def as_line(row: Kernel) -> str:
    """A line of the table."""
    waits = f"{row.barriers} ({row.barriers_of_a_tile})"
    return _COLUMNS.format(
        *(row.kernel, "pool" if row.pool else "-", row.dtype, row.instructions, row.bytes, row.registers, waits),
        *(row.spills, row.traffic_ms, row.issue_ms, f"{row.loads}; {row.stores}"),
    )


def run(args: argparse.Namespace) -> int:
    """Count, write the rows, print the table; the exit status."""
    rows = count(args)
    print(HEADER)
    for row in rows:
        print(as_line(row))
    print("barriers in brackets: in the code of a tile, which holds the loop over t. Nothing here was timed.")
    for dtype in args.dtypes:
        longer = sum(max(row.traffic_ms, row.issue_ms) for row in rows if row.dtype == dtype)
        print(f"predicted for the neurons of VGG16, T={args.timesteps}, batch {BATCH}, {dtype}: {longer:.2f} ms")
    print(f"rows: {write(rows, 'kernels', KEY)}")
    return 0


def _timesteps(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_TIMESTEPS:
        raise argparse.ArgumentTypeError(f"must be 1 to {MAX_TIMESTEPS}, got {text}")
    return int(text)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of this command."""
    parser.add_argument("--arch", type=int, default=90, metavar="SM", help="architecture (default 90)")
    parser.add_argument("--dtypes", nargs="+", choices=("bfloat16", "float16", "float32"), default=["bfloat16"])
    parser.add_argument("--timesteps", type=_timesteps, default=5, metavar="T", help="1 to 8 (default 5)")
    parser.add_argument("--only", default="", metavar="TEXT", help="kernels whose name contains this")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes")
