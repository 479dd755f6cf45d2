"""Compiles ``csrc/`` into one library: kernels once for each instruction set, bindings against torch's stable ABI.

Used by ``setup.py``; ``python csrc/build.py OUTPUT [--sanitize]`` builds by hand. Objects newer than their sources are
kept.
"""

import argparse
import importlib.util
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
COMMON = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-DNDEBUG", "-Wall", "-Wextra", "-Wno-psabi"]
# No contraction: forward and backward of a neuron must compute h by the same instructions.
EXACT, MULTIPLY_ADD = "-ffp-contract=off", "-ffp-contract=fast"
X86 = platform.machine().lower() in ("x86_64", "amd64")
WIDE = ["-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mfma", "-mprefer-vector-width=512"]
INSTRUCTION_SETS = {"portable": [], **({"avx2": ["-mavx2", "-mfma"], "avx512": WIDE} if X86 else {})}
# Compiled once for each instruction set.
KERNELS = {
    "convolution/kernels.cpp": [MULTIPLY_ADD],  # slowest first: it decides how long a build takes
    "convolution/spike_kernels.cpp": [EXACT],
    "convolution/winograd_kernels.cpp": [MULTIPLY_ADD],
    "neuron/kernels.cpp": [EXACT, "-fno-math-errno", "-Wno-ignored-attributes"],
    "spikes/convert_kernels.cpp": [EXACT],
}
PLAIN = ["common/isa.cpp", "convolution/core.cpp", "convolution/plan.cpp"]
# The stable ABI as of torch 2.11: one binary serves that and later versions.
BINDINGS = [
    "convolution/index_lists.cpp",
    "convolution/operators.cpp",
    "convolution/spike_operators.cpp",
    "convolution/winograd_operators.cpp",
    "live/live.cpp",
    "neuron/operators.cpp",
    "spikes/bits.cpp",
    "spikes/convert.cpp",
]
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020b000000000000"


def torch_folder() -> Path:
    """Where torch is installed; found without importing it.

    Raises:
        RuntimeError: torch is not installed.
    """
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise RuntimeError("torch is not installed where it is built (pip brings it, unless --no-build-isolation)")
    return Path(spec.origin).parent


def _jobs(objects: Path, extra: list[str]) -> list[tuple[Path, Path, list[str]]]:
    """(source, object, flags) of every compilation."""
    jobs = [
        (source, f"_{name}", [*flags, *machine, f"-DSNN_SPARSE_ISA={name}"])
        for source, flags in KERNELS.items()
        for name, machine in INSTRUCTION_SETS.items()
    ]
    include = f"-isystem{torch_folder() / 'include'}"
    jobs += [(source, "", [EXACT]) for source in PLAIN]
    jobs += [(source, "", [EXACT, STABLE_ABI, include]) for source in BINDINGS]
    every = [
        (HERE / source, objects / f"{source[:-4].replace('/', '_')}{name}.o", [*COMMON, f"-I{HERE}", *flags])
        for source, name, flags in jobs
    ]
    # Sanitized AVX-512 tiles take a compiler half an hour, and their source is that of the AVX2 ones.
    spared = any("sanitize" in flag for flag in extra)
    return [(s, t, flags if spared and "-mavx512f" in flags else [*flags, *extra]) for s, t, flags in every]


def build(output: Path, objects: Path, extra: list[str] | None = None) -> Path:
    """Compile what is out of date and link ``output``.

    Raises:
        RuntimeError: no torch. OSError or subprocess.CalledProcessError: no compiler, or it failed.
    """
    compiler, extra = os.environ.get("CXX", "c++"), extra or []
    objects.mkdir(parents=True, exist_ok=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    newest_header = max(p.stat().st_mtime for p in [*HERE.rglob("*.h"), Path(__file__)])
    jobs = _jobs(objects, extra)

    def stale(source: Path, target: Path) -> bool:
        return not target.exists() or target.stat().st_mtime < max(source.stat().st_mtime, newest_header)

    commands = [
        [compiler, *flags, "-c", str(source), "-o", str(target)]
        for source, target, flags in jobs
        if stale(source, target)
    ]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2) as pool:
        list(pool.map(lambda command: subprocess.run(command, check=True), commands))
    newest_object = max(target.stat().st_mtime for _, target, _ in jobs)
    if not output.exists() or output.stat().st_mtime < newest_object:
        lib = torch_folder() / "lib"
        linked = [str(target) for _, target, _ in jobs]
        torch_libraries = [f"-L{lib}", "-ltorch_cpu", "-ltorch", "-lc10"]
        subprocess.run([compiler, "-shared", *extra, *linked, "-o", str(output), *torch_libraries], check=True)
    return output


def main() -> None:
    """``python csrc/build.py OUTPUT [--sanitize]``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path, help="the library to make")
    parser.add_argument("--sanitize", action="store_true", help="with address and undefined behaviour sanitizers")
    args = parser.parse_args()
    extra = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-g1", "-O1"] if args.sanitize else []
    print(build(args.output, args.output.parent / f"{args.output.stem}.objects", extra))


if __name__ == "__main__":
    sys.exit(main())
