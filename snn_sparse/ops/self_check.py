"""First use of the kernels on a kind of GPU: each family is held against plain PyTorch.

The result is remembered on disk by GPU, Triton and package version; on a mismatch plain PyTorch is used, with one
warning.
"""

import json
import os
import warnings
from contextlib import nullcontext
from pathlib import Path

import torch

from snn_sparse.ops.device import triton_version
from snn_sparse.version import __version__

_trusted: dict[tuple[int, str], bool] = {}  # by index of the device and family


def trusted(device: torch.device, family: str = "neuron") -> bool:
    """Whether a family of kernels may run on this GPU: as found on disk, else checked now (about a second).

    While a CUDA graph is captured nothing can be checked: what is not known yet is not trusted then.
    """
    key = (device.index or 0, family)
    if key not in _trusted:
        if torch.cuda.is_current_stream_capturing():
            return False
        _trusted[key] = _examine(device, family)
    return _trusted[key]


def _examine(device: torch.device, family: str) -> bool:
    major, minor = torch.cuda.get_device_capability(device)
    key = f"{torch.cuda.get_device_name(device)} sm_{major}{minor}, triton {triton_version()}, {__version__}, {family}"
    known = _read()
    found = known.get(key)
    if found is None:
        try:
            found = find_problem(device, family) or "ok"
            _write(known | {key: found})
        except Exception as error:  # of this moment, or of a new GPU or Triton: not remembered
            found = f"the check failed: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    if found != "ok":
        warnings.warn(
            f"the GPU kernels of snn_sparse are not used on this machine, plain PyTorch is ({key}: {found}). Please "
            f"report this. To check again, delete {_path()}",
            stacklevel=2,
        )
    return found == "ok"


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
    """What is wrong with a family of kernels on ``device``, or None."""
    from snn_sparse.ops.self_check_cases import CHECKS

    where = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
    with where, torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        return CHECKS[family](device)
