"""``make gpu-check``: everything that needs an NVIDIA GPU, within minutes; its table is printed last."""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parents[1]
SECONDS = 480  # for everything together


@dataclass(frozen=True)
class Step:
    """One command and the seconds that it may take at least; what others leave is added."""

    name: str
    command: list[str]
    limit: int
    needs: str | None = None  # a program without which the step is left out


def steps() -> list[Step]:
    """Correctness before speed."""
    python = [sys.executable, "-m"]
    neuron = [*python, "benchmarks", "neuron", "--device", "cuda", "--batch_size", "128", "--rounds", "5"]
    neuron += ["--providers", "plain", "torch.compile", "fused", "fused packed", "--dtypes", "float32", "bfloat16"]
    training = [*python, "benchmarks", "train-step", "--device", "cuda", "--arch", "vgg16", "--rounds", "5"]
    training += ["--providers", "SpikingJelly multi-step Triton bf16", "fused dense fp32", "fused dense bf16"]
    training += ["fused 95 % uniform bf16", "fused 95 % magnitude bf16"]  # torch.compile takes too long to compile
    checked = "tests/gpu/test_kernels.py::test_against_float64"
    sanitizer = ["compute-sanitizer", "--error-exitcode", "9"]
    chosen = [*python, "pytest", "-m", "gpu", "tests/gpu/test_convolutions.py", "-k", "check_finds_nothing"]
    return [
        Step("GPU tests", [*python, "pytest", "-m", "gpu", "tests/gpu"], 170),
        Step("memory checker", [*sanitizer, *python, "pytest", "-m", "gpu", checked, "-k", "5"], 40, sanitizer[0]),
        Step("memory checker, convolutions", [*sanitizer, *chosen], 35, sanitizer[0]),
        Step("race checker, convolutions", [*sanitizer, "--tool", "racecheck", *chosen], 35, sanitizer[0]),
        Step("training step", training, 100),
        Step("kernel benchmarks", [*neuron, "--timesteps", "5", "4", "8", "16"], 75),
        Step("kernel benchmarks, T = 32", [*neuron, "--timesteps", "32", "--batch_size", "32"], 25),
    ]


def run_steps(chosen: Sequence[Step], seconds: float, run: Callable[..., int]) -> list[tuple[str, str, float]]:
    """Name, outcome and seconds of every step; a step that fails does not stop the ones behind it."""
    found, started = [], time.perf_counter()
    for number, step in enumerate(chosen):
        left = seconds - (time.perf_counter() - started)
        begun = time.perf_counter()
        if step.needs is not None and shutil.which(step.needs) is None:
            outcome = f"left out: no {step.needs}"
        elif left < 5:
            outcome = "left out: no time left"
        else:
            print(f"gpu-check: {step.name}", flush=True)
            spare = left - sum(later.limit for later in chosen[number + 1 :])
            code = run(step.command, min(max(step.limit, spare), left))
            outcome = {0: "passed", 124: "ran out of time"}.get(code, f"FAILED (exit status {code})")
        found.append((step.name, outcome, time.perf_counter() - begun))
    return found


def run_command(command: list[str], limit: float) -> int:
    """Exit status of a command, 124 if it took too long."""
    try:
        return subprocess.run(command, cwd=HERE, timeout=limit, check=False, env=dict(os.environ)).returncode
    except subprocess.TimeoutExpired:
        return 124


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``python -m benchmarks.gpu_check``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=__doc__)
    parser.add_argument("--seconds", type=int, default=SECONDS, help=f"for everything together (default {SECONDS})")
    args = parser.parse_args(argv)
    if not torch.cuda.is_available():
        parser.exit(2, "gpu-check: error: torch sees no NVIDIA GPU\n")
    found = run_steps(steps(), args.seconds, run_command)
    print(f"\ngpu-check on {torch.cuda.get_device_name()}; figures: benchmarks/results/{{neuron,train-step}}.jsonl")
    for name, outcome, seconds in found:
        print(f"  {name:28} {outcome:32} {seconds:6.1f} s")
    return 1 if any(outcome.startswith(("FAILED", "ran")) for _, outcome, _ in found) else 0


if __name__ == "__main__":
    sys.exit(main())
