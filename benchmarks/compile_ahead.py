"""Launches of kernels as lines of a file, and their compilation ahead of time into Triton's cache, on all cores.

``python -m benchmarks.compile_ahead LAUNCHES [--jobs 16] [--arch 90] [--probe]`` compiles by the very way of a launch,
up to the launch itself, so that Triton's key of every entry is the one that a launch looks for. ``--arch`` names the
GPU where there is none. ``--probe`` compiles the first line only; exit status 3: the cache did not have it.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget

from snn_sparse.ops.triton_launch import Launch

MISSED = 3  # exit status of a probe that the cache did not have
ALIGNED = 16  # bytes; Triton compiles other code for tensors that start elsewhere
_STAND_IN_FOR_LIBCUDA = "void snn_sparse_stands_in_for_the_driver(void) {}\n"


class Pointer:
    """In place of a tensor: Triton looks at dtype and alignment only."""

    def __init__(self, dtype: torch.dtype, aligned: bool) -> None:
        self.dtype, self.aligned = dtype, aligned

    def data_ptr(self) -> int:
        """An address of the alignment."""
        return 0 if self.aligned else ALIGNED // 2

    @staticmethod
    def ptr_range() -> int:
        """Bytes behind it; 0 stands for few."""
        return 0


class Driver:
    """In place of Triton's driver, which needs a GPU: everything is compiled for ``target``."""

    def __init__(self, target: GPUTarget) -> None:
        self.target = target

    def get_current_target(self) -> GPUTarget:
        """The GPU."""
        return self.target

    def get_current_device(self) -> int:
        """Its index."""
        return 0

    def get_current_stream(self, _device: int | None = None) -> int:
        """The default stream."""
        return 0


def as_line(launch: Launch) -> str:
    """Everything about a launch that decides what is compiled, as one line of JSON."""
    return json.dumps(
        {
            "kernel": [launch.kernel.fn.__module__, launch.kernel.fn.__name__],
            "options": launch.options,
            "arguments": {name: _written(value) for name, value in launch.arguments.items()},
        }
    )


def _written(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return {"dtype": str(value.dtype).removeprefix("torch."), "aligned": value.data_ptr() % ALIGNED == 0}
    return value


def _read(value: Any) -> Any:
    if isinstance(value, dict):
        return Pointer(getattr(torch, value["dtype"]), value["aligned"])
    return value


def compile_line(line: str) -> Any:
    """Compile one launch, or find it in Triton's cache; the compiled kernel."""
    said = json.loads(line)
    module, name = said["kernel"]
    kernel = getattr(importlib.import_module(module), name)
    arguments = {name: _read(value) for name, value in said["arguments"].items()}
    return kernel.warmup(grid=(1,), **arguments, **said["options"])


class _Unloaded:
    """In place of a module in C that was compiled, but cannot be loaded without a driver."""

    def __getattr__(self, name: str) -> None:
        return None


@contextmanager
def _built_only(folder: Path) -> Iterator[None]:
    """Inside, what Triton compiles in C is put into its cache but not loaded; an empty library is linked."""
    from triton.runtime import build

    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "libcuda.so.1").exists():
        source, made = (folder / f"libcuda{os.getpid()}{suffix}" for suffix in (".c", ".so"))
        source.write_text(_STAND_IN_FOR_LIBCUDA)
        subprocess.check_call([os.environ.get("CC", "cc"), "-shared", "-fPIC", str(source), "-o", str(made)])
        made.replace(folder / "libcuda.so.1")
    load, build._load_module_from_path = build._load_module_from_path, lambda name, path: _Unloaded()
    try:
        yield
    finally:
        build._load_module_from_path = load


def compile_launcher(kernel: Any, folder: Path) -> None:
    """Compile the C code by which Triton 3.6 launches a kernel; later versions need none.

    Args:
        kernel: compiled.
        folder: for what stands in for the driver's library.
    """
    from triton.backends.nvidia import driver

    if not hasattr(driver, "make_launcher"):
        return
    triton.knobs.nvidia.libcuda_path = str(folder)
    with _built_only(folder):
        driver.CudaUtils()
        driver.CudaLauncher(kernel.src, kernel.metadata)


def _start(target: tuple[str, Any, int] | None) -> None:
    if target is not None:
        triton.runtime.driver.set_active(Driver(GPUTarget(*target)))


def _compile(work: tuple[str, str | None]) -> str:
    """Compile one line; what went wrong, or nothing."""
    line, folder = work
    try:
        kernel = compile_line(line)
        if folder is not None:
            compile_launcher(kernel, Path(folder))
    except Exception as error:  # one kernel that does not compile must not hide the others
        name = json.loads(line)["kernel"][1]
        return f"{name}: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return ""


def compile_all(
    lines: Iterable[str], jobs: int, target: GPUTarget | None = None, launchers: Path | None = None
) -> list[str]:
    """Compile launches in ``jobs`` processes.

    Args:
        lines: as :func:`as_line` writes them; the same one is compiled once.
        jobs: processes.
        target: the GPU to compile for; None: the one of this machine.
        launchers: where the C code that launches is compiled too: a folder for what stands in for the driver's library.

    Returns:
        what went wrong, a line each.
    """
    given = None
    if target is not None:
        given = (target.backend, target.arch, target.warp_size)
    work = [(line, None if launchers is None else str(launchers)) for line in dict.fromkeys(lines)]
    with ProcessPoolExecutor(jobs, initializer=_start, initargs=(given,)) as pool:
        return [problem for problem in pool.map(_compile, work, chunksize=1) if problem]


def entries() -> int:
    """Number of entries in Triton's cache."""
    folder = Path(triton.knobs.cache.dir)
    return sum(1 for _ in folder.iterdir()) if folder.is_dir() else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``python -m benchmarks.compile_ahead``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compile_ahead", description=__doc__)
    parser.add_argument("launches", type=Path, help="the file of launches")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    parser.add_argument("--arch", type=int, metavar="SM", help="the GPU, such as 90 (default: this machine's)")
    parser.add_argument("--launchers", type=Path, metavar="DIR", help="compile the C code that launches too; needs DIR")
    parser.add_argument("--probe", action="store_true", help="the first line only; exit status 3: it was not there")
    args = parser.parse_args(argv)
    try:
        lines = list(dict.fromkeys(args.launches.read_text().splitlines()))
    except OSError as error:
        parser.exit(2, f"compile_ahead: error: {error}\n")
    target = GPUTarget("cuda", args.arch, 32) if args.arch else triton.runtime.driver.active.get_current_target()
    if args.probe:
        _start((target.backend, target.arch, target.warp_size))
        before = entries()
        problem = _compile((lines[0], None)) if lines else ""
        missed = entries() > before
        print(f"probe: {problem or ('the cache did not have the kernel' if missed else 'the cache has the kernel')}")
        return 1 if problem else MISSED if missed else 0
    problems = compile_all(lines, args.jobs, target, args.launchers)
    print("\n".join([*problems, f"{len(lines)} launches, {len(problems)} failed; {entries()} entries in the cache"]))
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
