"""Everything that needs an NVIDIA GPU, in order of worth, on a machine that may be bare and offline.

``python3 -m benchmarks.gpu_check --kit FOLDER --out FOLDER`` needs torch, Triton and pytest alone, and what
`make gpu-kit` has put into the kit: no network, no git, no environment. After every step what there is lies in
``--out``: rows.jsonl, profile.txt, report.txt, log.txt, measured.json, search.json. ``--rehearse`` runs all of it
without a GPU, on small sizes.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.gpu_check_run import run_timed
from benchmarks.gpu_check_setup import Ready, set_up
from benchmarks.gpu_check_steps import Place, Step, choose

LOG_BYTES = 8 * 2**20  # of the log that is copied out: its end
COPIED = {name: name for name in ("rows.jsonl", "profile.txt", "measured.json")} | {"search/report.json": "search.json"}
Found = list[tuple[str, str, float]]  # name, outcome, seconds
Run = Callable[..., tuple[str, float]]


def run_steps(chosen: Sequence[Step], place: Place, ready: Ready, out: Path, seconds: float, run: Run) -> Found:
    """Run the steps in turn, and copy out what there is after each; one that fails stops none behind it."""
    found, started, log = Found(), time.perf_counter(), place.work / "log.txt"
    for step in chosen:
        left = seconds - (time.perf_counter() - started)
        outcome, took = _left_out(step, place, left), 0.0
        if not outcome:
            print(f"gpu-check: {step.name}", flush=True)
            with log.open("a") as text:
                text.write(f"\n==== {step.name}\n")
            outcome, took = run(step.command(place), min(step.limit, left), log, _environment(step, place, ready))
        found.append((step.name, outcome, took))
        copy_out(place, ready, found, out)
    return found


def _left_out(step: Step, place: Place, left: float) -> str:
    """Why a step is left out; empty where it runs."""
    if left < 5:
        return "left out: no time left"
    if step.needs is None or (place.work / step.needs).exists() or shutil.which(step.needs):
        return ""
    program = step.command(place)[0] == step.needs
    return f"left out: no {step.needs}" if program or not place.rehearsed or step.group == "d" else ""


def _environment(step: Step, place: Place, ready: Ready) -> dict[str, str]:
    extra = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"} if step.group == "e" else {}
    if place.rehearsed and step.group in "bcd":
        extra |= {"GPU_CHECK_LAUNCHES": str(place.work / "launches.jsonl"), "GPU_CHECK_REHEARSES": "1"}
    elif place.rehearsal == "whole":
        extra |= {"TRITON_INTERPRET": "1"}
    if place.rehearsed:
        extra["TORCHDYNAMO_DISABLE"] = "1"  # torch.compile would compile for the CPU that stands in
    return ready.environment | extra


def copy_out(place: Place, ready: Ready, found: Found, out: Path) -> None:
    """Copy what there is: at most six files, the report last."""
    from benchmarks.gpu_check_rows import table

    out.mkdir(parents=True, exist_ok=True)
    for source, name in COPIED.items():
        if (place.work / source).exists():
            shutil.copyfile(place.work / source, out / name)
    log = place.work / "log.txt"
    if log.exists():
        (out / "log.txt").write_bytes(log.read_bytes()[-LOG_BYTES:])
    lines = [*ready.said, *(f"{name:28} {outcome:34} {seconds:6.1f} s" for name, outcome, seconds in found)]
    (out / "report.txt").write_text("\n".join([*lines, *table(place.work / "rows.jsonl")]) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``python -m benchmarks.gpu_check``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=__doc__)
    parser.add_argument("--kit", type=Path, metavar="FOLDER", help="what `make gpu-kit` has made")
    parser.add_argument("--out", type=Path, metavar="FOLDER", default=Path("runs/gpu-check"), help="for what is found")
    parser.add_argument("--only", metavar="STEP,STEP", help="groups (a to e) or names of steps")
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="for all steps together (default: no limit)"
    )
    parser.add_argument(
        "--rehearse", nargs="?", const="whole", default="", choices=("quick", "whole"), help="without a GPU"
    )
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="gpu_check_") as folder:
        place = Place(Path(folder), args.rehearse)
        try:
            chosen = choose(args.only)
            _need_gpu(place)
            ready = set_up(args.kit, place.work, place.work / "log.txt", place.rehearsed)
        except ValueError as error:
            parser.exit(2, f"gpu-check: error: {error}\n")
        print("\n".join(ready.said), flush=True)
        found = run_steps(chosen, place, ready, args.out, args.seconds, run_timed)
        copy_out(place, ready, found, args.out)
    print((args.out / "report.txt").read_text())
    print(f"gpu-check: {args.out}{os.sep} has the rows, the profile and the log")
    return 1 if any(outcome.startswith(("FAILED", "ran")) for _, outcome, _ in found) else 0


def _need_gpu(place: Place) -> None:
    """Return where torch sees a GPU, or one is stood in for.

    Raises:
        ValueError: otherwise.
    """
    import torch

    if not place.rehearsed and not torch.cuda.is_available():
        raise ValueError("torch sees no NVIDIA GPU; --rehearse does without")


if __name__ == "__main__":
    sys.exit(main())
