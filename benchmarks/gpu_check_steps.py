"""The steps of ``gpu_check`` in order of worth: commands with limits, and what a rehearsal changes in them."""

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.gpu_check_training import COMPILED, REPLAYED

MULTI_STEP, TIME_LOOP = "SpikingJelly multi-step Triton bf16", "SpikingJelly time loop fp32"
SPIKINGJELLY = (MULTI_STEP, TIME_LOOP, MULTI_STEP + REPLAYED)
DENSE = ("fused dense bf16", "fused dense fp32")
MASKED = tuple(f"fused {s} % {kind} bf16" for s in (95, 90, 98) for kind in ("uniform", "magnitude"))
FASHION = "FashionMNIST"


@dataclass(frozen=True)
class Place:
    """Folders of one run.

    Attributes:
        work: of this run, for its own files; ``rows.jsonl`` and ``profile.txt`` are copied out after every step.
        rehearsal: empty on a GPU; else a CPU stands in for it, and sizes are small: "quick" only collects the tests,
            "whole" runs those that Triton's interpreter can run.
    """

    work: Path
    rehearsal: Literal["", "quick", "whole"] = ""

    @property
    def rehearsed(self) -> bool:
        """Whether a CPU stands in."""
        return bool(self.rehearsal)


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        group: the letter by which ``--only`` takes it, with others of its group.
        name: by which ``--only`` takes it alone.
        command: given the folders.
        limit: seconds after which it is killed with all its children.
        needs: a program, or a folder in the working directory, without which it is left out.
    """

    group: str
    name: str
    command: Callable[[Place], list[str]]
    limit: int
    needs: str | None = None


def _python(place: Place, *module: str) -> list[str]:
    stand_in = ["benchmarks.gpu_check_stand_in"] if place.rehearsed else []
    return [sys.executable, "-m", *stand_in, *module]


def _pytest(*chosen: str, workers: int = 8, seconds: int = 120) -> Callable[[Place], list[str]]:
    def command(place: Place) -> list[str]:
        options = ["-m", "gpu", "-p", "no:cacheprovider", "-ra", "--tb=short"]
        if importlib.util.find_spec("xdist") and workers > 1 and not place.rehearsed:
            options += ["-n", str(workers)]
        if importlib.util.find_spec("pytest_timeout"):
            options += ["--timeout", str(seconds)]
        if place.rehearsal == "quick":
            options += ["--collect-only"]
        return [sys.executable, "-m", "pytest", *options, *chosen]

    return command


def _training(arch: str, *providers: str, profile: bool = False) -> Callable[[Place], list[str]]:
    def command(place: Place) -> list[str]:
        names = providers[:1] if place.rehearsal == "quick" else providers
        found = [*_python(place, "benchmarks.gpu_check_training"), "vgg_small" if place.rehearsed else arch, *names]
        found += ["--out", str(place.work / "rows.jsonl")]
        found += ["--profile", str(place.work / "profile.txt")] if profile else []
        return found + (["--batch_size", "2", "--timestep", "2", "--rounds", "1"] if place.rehearsed else [])

    return command


def _neuron(place: Place) -> list[str]:
    found = [*_python(place, "benchmarks.gpu_check_neuron"), "--out", str(place.work / "rows.jsonl")]
    return found + (["--timesteps", "2", "5", "--batch_size", "1", "--rounds", "1"] if place.rehearsed else [])


def _search(place: Place) -> list[str]:
    found = [*_python(place, "snn_sparse"), "search", "--method", "imp", "--dataset", "fmnist", "--device", "cuda"]
    found += ["--data_dir", str(place.work), "--out", str(place.work / "search")]
    found += ["--precision", "bf16", "--prune_percent", "50", "--prune_iterations", "3", "--learning_rate", "0.1"]
    size = ("vgg_small", "2", "2") if place.rehearsed else ("vgg16", "5", "6")
    found += ["--arch", size[0], "--timestep", size[1], "--end_iter", size[2], "--rewinding_epoch", "1"]
    return [*found, "--valid_freq", "2", "--print_freq", "1"]


def _sanitizer(tool: str, *chosen: str) -> Callable[[Place], list[str]]:
    def command(place: Place) -> list[str]:
        checker = [] if place.rehearsed else ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9"]
        timesteps = "3" if place.rehearsal == "whole" else "5"  # the interpreter has few cases
        tests = [word.format(T=timesteps) for word in chosen]
        return [*checker, *_pytest(*tests, workers=1, seconds=300)(place)]

    return command


_KERNELS, _CONVOLUTIONS = "tests/gpu/test_kernels.py", "tests/gpu/test_convolutions.py"
_FIRST_USE = f"{_KERNELS}::test_the_first_use_check_finds_nothing"
_FEW_KERNELS = (f"{_KERNELS}::test_against_float64", "-k", "{T}-nhwc-dtype2 or {T}-nchw-dtype0")
STEPS = (
    Step("a", "first-use checks", _pytest(_FIRST_USE, workers=1), 120),
    Step("a", "neuron kernels and graphs", _pytest(_KERNELS), 240),
    Step("a", "training", _pytest("tests/gpu/test_training.py"), 180),
    Step("a", "convolutions", _pytest(_CONVOLUTIONS), 180),
    Step("b", "vgg16 fused dense", _training("vgg16", *DENSE, profile=True), 150),
    Step("b", "vgg16 SpikingJelly", _training("vgg16", *SPIKINGJELLY, profile=True), 150),
    Step("b", "vgg16 masked", _training("vgg16", *MASKED, profile=True), 180),
    Step("b", "resnet19", _training("resnet19", DENSE[0], *MASKED[:2], MULTI_STEP, DENSE[1], TIME_LOOP), 200),
    Step("b", "vgg16 torch.compile", _training("vgg16", COMPILED.name, profile=True), 240),
    Step("c", "neuron operator", _neuron, 120),
    Step("d", "search", _search, 300, FASHION),
    Step("e", "memory checker on neurons", _sanitizer("memcheck", *_FEW_KERNELS), 120, "compute-sanitizer"),
    Step("e", "memory checker on first use", _sanitizer("memcheck", _FIRST_USE), 120, "compute-sanitizer"),
    Step("e", "race checker on first use", _sanitizer("racecheck", _FIRST_USE), 120, "compute-sanitizer"),
)


def choose(only: str | None) -> list[Step]:
    """The steps whose group or name is listed, commas between; all without a list.

    Raises:
        ValueError: no step of that name.
    """
    if only is None:
        return list(STEPS)
    names = [name.strip() for name in only.split(",")]
    known = {step.group for step in STEPS} | {step.name for step in STEPS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"--only: no step {unknown[0]!r}: choose from {', '.join(sorted(known))}")
    return [step for step in STEPS if step.group in names or step.name in names]
