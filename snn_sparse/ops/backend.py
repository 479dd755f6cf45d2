"""Which implementation of an operator runs here, and why not a faster one: one question with one answer.

On an NVIDIA GPU the Triton kernels run once they have passed a check against the plain definition, the first time that
an operator is used on that kind of GPU; on a CPU the C++ operators (``csrc/``) run; everywhere else plain PyTorch does.
Each operator's room registers its check. ``SNN_SPARSE_LIBRARY`` names another C++ library than the installed one.
"""

import functools
import importlib
import importlib.util
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch

from snn_sparse.ops.cache import Cache
from snn_sparse.version import __version__

TRITON_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
CPP_DTYPES = (torch.float32, torch.float64)
Check = Callable[[torch.device], str | None]
CHECK_SECONDS = 300  # a first-use check compiles a dozen kernels
_ANSWER = "snn_sparse check: "

_checks: dict[str, Check] = {}
_passed: dict[tuple[int, str], str] = {}  # problem, or "", by index of the GPU and operator


@dataclass(frozen=True)
class Choice:
    """An implementation, and why none that is faster runs (empty where this is the fastest)."""

    name: Literal["triton", "cpp", "plain"]
    reason: str = ""


def register_check(operator: str, check: Check) -> None:
    """Register the first-use check of an operator: it returns what is wrong on a device, or None."""
    _checks[operator] = check


def choose(operator: str, device: torch.device, dtype: torch.dtype) -> Choice:
    """Choose the implementation of ``operator`` (``neuron``, ``convolution``, ``live``) for tensors there."""
    if device.type == "cuda" or (device.type == "cpu" and interpreted()):
        if dtype not in TRITON_DTYPES:
            return Choice("plain", f"the Triton kernels do not compute in {dtype}")
        if operator not in _checks:
            return Choice("plain", "torch's own kernels serve")
        problem = _triton_problem(device.type, device.index or 0, operator)
        return Choice("plain", problem) if problem else Choice("triton")
    if device.type != "cpu":
        return Choice("plain", f"there are no kernels for {device.type}")
    problem = _cpp_problem(dtype)
    return Choice("plain", problem) if problem else Choice("cpp")


def implementation(operator: str, *tensors: torch.Tensor | None) -> Literal["triton", "cpp", "plain"]:
    """Name the implementation that takes these tensors, which must share a device, and in C++ a dtype."""
    given = [t for t in tensors if t is not None]
    if len({t.device for t in given}) > 1:
        return "plain"
    names = {choose(operator, given[0].device, dtype).name for dtype in {t.dtype for t in given}}
    if len(names) > 1 or (names == {"cpp"} and len({t.dtype for t in given}) > 1):
        return "plain"
    return names.pop()


def runs(operator: str, *tensors: torch.Tensor | None) -> bool:
    """Whether anything faster than plain PyTorch takes these tensors."""
    return implementation(operator, *tensors) != "plain"


# ---- C++ -------------------------------------------------------------------------------------------------------------


_for_compiler = False


@contextmanager
def for_compiler() -> Iterator[None]:
    """Inside, the answers are those for a graph that torch.compile or torch.export will compile."""
    global _for_compiler
    before, _for_compiler = _for_compiler, True
    try:
        yield
    finally:
        _for_compiler = before


def _cpp_problem(dtype: torch.dtype) -> str:
    if dtype not in CPP_DTYPES:
        return f"the C++ operators compute in float32 and float64, not in {dtype}"
    if torch.is_autocast_enabled("cpu"):
        return "autocast is on"
    if torch.compiler.is_compiling() or _for_compiler:
        return "a graph is compiled, which fuses the plain definition"
    return library_problem()


def need_library() -> None:
    """Load the C++ operators for whoever calls one by its name, or raise a RuntimeError: they are not there."""
    problem = library_problem()
    if problem:
        raise RuntimeError(problem)


def library_path() -> str | None:
    """Path of the C++ operators, whether they load or not; None where they were not built."""
    named = os.environ.get("SNN_SPARSE_LIBRARY")
    if named:
        return named
    spec = importlib.util.find_spec("snn_sparse._C")
    return spec.origin if spec is not None else None


@functools.cache
def library_problem() -> str:
    """Load the C++ operators; an empty text, or why they are not there, of which a warning tells once."""
    path = library_path()
    if path is None:
        problem = "snn_sparse was installed without its C++ operators (SNN_SPARSE_BUILD=0, or never built)"
        warnings.warn(f"{problem}: fused layers run on plain PyTorch", stacklevel=2)
        return problem
    try:
        torch.ops.load_library(path)
        if not hasattr(torch.ops.snn_sparse, "spike_convolution"):
            raise OSError(f"{path} holds other operators")
    except OSError as error:
        warnings.warn(f"the C++ operators of snn_sparse do not load, plain PyTorch is used: {error}", stacklevel=2)
        return f"the C++ operators do not load: {error}"
    return ""


# ---- Triton ----------------------------------------------------------------------------------------------------------


def interpreted() -> bool:
    """Whether Triton's interpreter stands in for a GPU (``TRITON_INTERPRET=1``): CPU tensors then run its kernels."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def triton_version() -> str | None:
    """Version of Triton, under whatever name it was packaged; None where it is not installed."""
    if importlib.util.find_spec("triton") is None:
        return None
    import triton

    return str(triton.__version__)


def _triton_problem(device_type: str, index: int, operator: str) -> str:
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if device_type == "cpu":
        return ""
    key = (index, operator)
    if key not in _passed:
        if torch.cuda.is_current_stream_capturing():
            return "a CUDA graph is captured, in which nothing can be checked"
        _passed[key] = _examine(torch.device(device_type, index), operator)
    return _passed[key]


# What torch.compiler.assume_constant_result does; calling it would import torch._dynamo, which takes a second.
_triton_problem._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _examine(device: torch.device, operator: str) -> str:
    """Check an operator on a GPU, as remembered on disk or now (some seconds); an empty text, or what is wrong."""
    major, minor = torch.cuda.get_device_capability(device)
    machine = f"{torch.cuda.get_device_name(device)} sm_{major}{minor}, triton {triton_version()}, torch"
    key = f"check {operator} | {machine} {torch.__version__}, {__version__}"
    cache = Cache()
    found = cache.get(key, lambda value: value if isinstance(value, str) else None)
    if found is None:
        try:
            found = find_problem_apart(operator, device) or "ok"
            cache.put(key, found)
        except Exception as error:  # of this moment, or of a new GPU or Triton: not remembered
            found = f"the check failed: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    if found == "ok":
        return ""
    warnings.warn(
        f"the GPU kernels of snn_sparse are not used on this machine, plain PyTorch is ({key}: {found}). Please report "
        f"this. To check again, delete {cache.path}",
        stacklevel=2,
    )
    return found


def find_problem(operator: str, device: torch.device) -> str | None:
    """Run an operator's check on ``device``; what is wrong with its kernels, or None."""
    where = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
    with where, torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        return _checks[operator](device)


def find_problem_apart(operator: str, device: torch.device) -> str | None:
    """Run a check in a process of its own, since a kernel that reaches outside its memory ends the process's GPU.

    Raises:
        RuntimeError: the check ended without an answer; the message has the last line that it printed.
    """
    code = f"from snn_sparse.ops.backend import answer; answer({operator!r}, {str(device)!r})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=CHECK_SECONDS
        )
    except OSError:  # no other Python can be started here, as where one is built into a program
        return find_problem(operator, device)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"no answer within {CHECK_SECONDS} seconds") from error
    lines = done.stdout.splitlines()
    if done.returncode or not lines or not lines[-1].startswith(_ANSWER):
        said = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise RuntimeError(f"it ended without an answer: {said}")
    return lines[-1].removeprefix(_ANSWER) or None


def answer(operator: str, device: str) -> None:
    """Print what is wrong with an operator's kernels, for :func:`find_problem_apart`."""
    importlib.import_module("snn_sparse.ops")  # every room registers its check
    print(f"{_ANSWER}{find_problem(operator, torch.device(device)) or ''}")


# ---- report ----------------------------------------------------------------------------------------------------------

OPERATORS = ("neuron", "convolution", "live")


def backend_report() -> list[tuple[str, ...]]:
    """List (operator, device, dtype, implementation, why not a faster one) for this machine.

    On a GPU it runs the first-use checks.
    """
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    rows: list[tuple[str, ...]] = []
    for operator in OPERATORS:
        for device in (torch.device("cpu"), *(torch.device("cuda", i) for i in gpus)):
            for dtype in (torch.float32, torch.float64, torch.bfloat16):
                found = choose(operator, device, dtype)
                rows.append((operator, str(device), str(dtype).removeprefix("torch."), found.name, found.reason))
    return rows
