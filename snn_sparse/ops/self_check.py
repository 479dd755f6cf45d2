"""First use of the kernels on a kind of GPU: each family is held against plain PyTorch.

The result is remembered on disk by GPU, Triton and package version; on a mismatch plain PyTorch is used, with one
warning.
"""

import functools
import json
import os
import warnings
from importlib.metadata import version
from pathlib import Path

import torch

from snn_sparse.version import __version__


@functools.cache
def trusted(device: torch.device, family: str = "neuron") -> bool:
    """Whether a family of kernels may run on this GPU: as found on disk, else checked now (about a second)."""
    major, minor = torch.cuda.get_device_capability(device)
    key = f"{torch.cuda.get_device_name(device)} sm_{major}{minor}, triton {version('triton')}, {__version__}, {family}"
    known = _read()
    if key not in known:
        problem = find_problem(device, family)
        known[key] = problem or "ok"
        _write(known)
    if known[key] != "ok":
        warnings.warn(
            f"the GPU kernels of snn_sparse gave wrong results on this machine ({key}: {known[key]}): plain PyTorch is "
            f"used. Please report this. To check again, delete {_path()}",
            stacklevel=2,
        )
    return known[key] == "ok"


def _path() -> Path | None:
    named = os.environ.get("SNN_SPARSE_CACHE")
    if named == "":
        return None
    folder = Path(named).parent if named else Path.home() / ".cache" / "snn_sparse"
    return folder / "kernel_checks.json"


def _read() -> dict[str, str]:
    path = _path()
    try:
        found = json.loads(path.read_text()) if path is not None else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(known: dict[str, str]) -> None:
    path = _path()
    if path is None:
        return
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(known, indent=1))
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)


def find_problem(device: torch.device, family: str = "neuron") -> str | None:
    """What is wrong with a family of kernels on ``device``, or None; no exception leaves it."""
    try:
        from snn_sparse.ops.self_check_cases import CHECKS

        with torch.cuda.device(device) if device.type == "cuda" else torch.no_grad(), torch.enable_grad():
            return CHECKS[family](device)
    except Exception as error:  # whatever a new GPU or Triton brings: plain PyTorch still works
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
