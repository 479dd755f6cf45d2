"""Compile every kernel ahead of time, without a GPU, and tell what it needs.

``python -m snn_sparse.kernels.compile [--arch 90] [--quick] [--timesteps 5 8] [--jobs 2]`` prints one line a kernel:
registers, bytes of stack (spills), shared memory. Exit status 1 if a kernel spills with up to 8 timesteps. The kernels,
their constants and their launch settings are recorded from the host functions themselves, called on tensors without
memory. All of it takes about 20 minutes an architecture on one core, ``--quick`` half a minute.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from snn_sparse.kernels.inputs import Inputs
from snn_sparse.kernels.launch import Launch, recording
from snn_sparse.kernels.neuron import backward, forward
from snn_sparse.kernels.settings import Neuron, Normalisation
from snn_sparse.kernels.spike_bits import pack, unpack
from snn_sparse.kernels.statistics import batch_statistics

ARCHITECTURES = (80, 90, 100)
TIMESTEPS = (1, 4, 5, 8, 16, 32)
DTYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
_TYPES = {**DTYPES, torch.int32: "i32", torch.uint8: "u8", torch.int64: "i64"}
_COLUMNS = "{:<19} {:<32} {:>3} {:>5} {:>5} {:>10} {:>7} {:>7}"
HEADER = _COLUMNS.format("kernel", "variant", "T", "dtype", "arch", "registers", "spills", "shared")


_LIF = Neuron()


@dataclass(frozen=True)
class Variant:
    """A way to call the host functions; ``norm`` and ``residual`` name a batch norm or a plain tensor."""

    name: str
    norm: str | None = None
    residual: str | None = None
    neuron: Neuron = _LIF
    channels_last: bool = True
    pool: bool = False
    bits: bool = False
    static: bool = False
    v: bool = False


VARIANTS = (
    Variant("nhwc lif per_step bits", "per_step", bits=True),
    Variant("nhwc lif per_step pool bits", "per_step", pool=True, bits=True),
    Variant("nchw lif per_step", "per_step", channels_last=False),
    Variant("nchw lif per_step pool bits", "per_step", channels_last=False, pool=True, bits=True),
    Variant("nhwc lif per_step + normed", "per_step", "per_step"),
    Variant("nchw lif per_step + normed pool", "per_step", "per_step", channels_last=False, pool=True),
    Variant("nhwc lif per_step + bits", "per_step", "bits", bits=True),
    Variant("nchw lif pooled + dense", "pooled", "dense", channels_last=False),
    Variant("nhwc lif static", "per_step", static=True),
    Variant("nhwc lif running", "running"),
    Variant("nchw lif v", v=True, channels_last=False),
    Variant("nhwc plif pooled v", "pooled", neuron=Neuron("plif", detach_reset=False, surrogate="sigmoid"), v=True),
    Variant("nchw if soft", neuron=Neuron("if", v_reset=None, surrogate="triangle"), channels_last=False),
)
QUICK = (VARIANTS[1], VARIANTS[5], VARIANTS[11])


def _meta(shape: tuple[int, ...], dtype: torch.dtype, channels_last: bool = False) -> torch.Tensor:
    """A tensor without memory, ``[..., C, H, W]`` in the layout."""
    if not channels_last:
        return torch.empty(shape, dtype=dtype, device="meta")
    *outer, c, h, w = shape
    return torch.empty((*outer, h, w, c), dtype=dtype, device="meta").movedim(-1, -3)


def _norm(kind: str | None, data: torch.Tensor | None) -> Normalisation | None:
    if data is None or kind not in ("per_step", "pooled", "running"):
        return None
    values = [_meta((data.shape[2],), torch.float32) for _ in range(4)]
    if kind == "running":
        return Normalisation(values[0], running_var=values[1], weight=values[2], bias=values[3])
    mean, invstd = batch_statistics(
        data, 1e-5, pooled=kind == "pooled", running_mean=values[0], running_var=values[1],
        factors=_meta((1 if kind == "pooled" else data.shape[0],), torch.float32),
    )  # fmt: skip
    return Normalisation(mean, invstd, weight=values[2], bias=values[3])


def record(variant: Variant, timesteps: int, dtype: torch.dtype) -> list[Launch]:
    """The launches of one forward and backward pass of a typical layer."""
    shape, last = (timesteps, 128, 256, 16, 16), variant.channels_last
    with recording() as launches:
        y = _meta((1, *shape[1:]) if variant.static else shape, dtype, last)
        residual = _meta(shape, dtype, last) if variant.residual else None
        norm_residual = _norm(variant.residual, residual)
        inputs = Inputs(
            y,
            variant.neuron,
            timesteps,
            norm=_norm(variant.norm, y),
            residual=pack(residual) if residual is not None and variant.residual == "bits" else residual,
            norm_residual=norm_residual,
            rate=_meta((1,), torch.float32) if variant.neuron.kind == "plif" else None,
            v=_meta(shape[1:], torch.float32, last) if variant.v else None,
            pool=variant.pool,
        )
        spikes, v = forward(inputs, bits=variant.bits, final_v=variant.v)
        if variant.bits:
            spikes = unpack(spikes, inputs.output_shape, dtype)
        backward(inputs, spikes, v, inputs.differentiable)
    return launches


def source(launch: Launch) -> ASTSource:
    """What Triton compiles for a launch: types, constants and the divisibility that it notes of aligned arguments."""
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
    """One launch to compile for one architecture: its place in what a variant records."""

    variant: Variant
    timesteps: int
    dtype: torch.dtype
    index: int
    arch: int


@dataclass(frozen=True)
class Usage:
    """What one compiled kernel needs: registers a thread, bytes of stack a thread, bytes of shared memory."""

    kernel: str
    job: Job
    registers: int
    spills: int
    shared: int

    def __str__(self) -> str:
        job = self.job
        return _COLUMNS.format(
            self.kernel, job.variant.name, job.timesteps, DTYPES[job.dtype], f"sm_{job.arch}",
            self.registers, self.spills, self.shared,
        )  # fmt: skip


def compile_job(job: Job) -> Usage:
    """Compile one kernel and read what it needs out of its machine code."""
    launch = record(job.variant, job.timesteps, job.dtype)[job.index]
    compiled = triton.compile(source(launch), target=GPUTarget("cuda", job.arch, 32), options=launch.options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL|SHARED):(\d+)", text)}
    label = launch.kernel.__name__.strip("_").removesuffix("_kernel")
    spills = found["STACK"] + found["LOCAL"]
    return Usage(label, job, found["REG"], spills, compiled.metadata.shared)


def jobs(quick: bool, architectures: tuple[int, ...], timesteps_of: tuple[int, ...] | None = None) -> Iterator[Job]:
    """Everything to compile; a launch that several variants share, once."""
    seen = set()
    for variant in QUICK if quick else VARIANTS:
        for timesteps in timesteps_of or ((5, 8) if quick else TIMESTEPS):
            for dtype in (torch.bfloat16,) if quick else DTYPES:
                for index, launch in enumerate(record(variant, timesteps, dtype)):
                    for arch in architectures:
                        key = (source(launch).hash(), str(launch.options), arch)
                        if key not in seen:
                            seen.add(key)
                            yield Job(variant, timesteps, dtype, index, arch)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m snn_sparse.kernels.compile", description=__doc__.split("\n")[0])
    parser.add_argument("--arch", type=int, choices=ARCHITECTURES, help="one architecture (default: all)")
    parser.add_argument("--quick", action="store_true", help="few variants, bfloat16, 5 and 8 timesteps")
    parser.add_argument("--timesteps", type=int, nargs="+", metavar="T", help="values of T (default: several)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes")
    options = parser.parse_args(arguments)
    architectures = (options.arch,) if options.arch else ARCHITECTURES
    work = list(jobs(options.quick, architectures, tuple(options.timesteps) if options.timesteps else None))
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
