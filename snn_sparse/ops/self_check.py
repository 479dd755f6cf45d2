"""First use of the kernels on a kind of GPU: they are held against plain PyTorch on small random cases.

The result is remembered on disk by GPU, Triton and package version; on a mismatch plain PyTorch is used, with one
warning.
"""

import functools
import json
import os
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from snn_sparse.ops.fused_neuron import NeuronSpec, Norm, reference
from snn_sparse.version import __version__

_CASES = ((False, False), (True, True))  # (channels last, statistics and maps pooled)
TOLERANCE = 2e-3  # of the largest gradient; a wrong kernel is off by far more
SPIKES_OFF = 1e-3  # share of spikes, and of entries of a gradient, that may differ: h within rounding of the threshold


@functools.cache
def trusted(device: torch.device) -> bool:
    """Whether the kernels may run on this GPU: as found on disk, else checked now (about a second)."""
    major, minor = torch.cuda.get_device_capability(device)
    key = f"{torch.cuda.get_device_name(device)} sm_{major}{minor}, triton {version('triton')}, {__version__}"
    known = _read()
    if key not in known:
        problem = find_problem(device)
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


def find_problem(device: torch.device) -> str | None:
    """What is wrong with the kernels on ``device``, or None; no exception leaves it."""
    try:
        with torch.cuda.device(device) if device.type == "cuda" else torch.no_grad(), torch.enable_grad():
            for channels_last, pooled in _CASES:
                problem = _check_case(device, channels_last, pooled)
                if problem is not None:
                    return problem
    except Exception as error:  # whatever a new GPU or Triton brings: plain PyTorch still works
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return None


def _case(device: torch.device, channels_last: bool, pooled: bool) -> tuple[dict[str, torch.Tensor], Any]:
    """Random leaves, in float64, and the batch norm around some of them."""
    generator = torch.Generator().manual_seed(int(channels_last) + 2 * int(pooled))
    t, n, c, h, w = 3, 2, 37, 7, 10

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(device)

    y = draw(t, n, h, w, c).movedim(-1, 2) if channels_last else draw(t, n, c, h, w)
    leaves = {"y": y, "weight": draw(c).abs() + 0.5, "bias": draw(c), "residual": (draw(t, n, c, h, w) > 1).double()}

    def norm(given: dict[str, torch.Tensor]) -> Norm:
        kind = "pooled" if pooled else "per_step"
        return Norm(given["weight"], given["bias"], None, None, (0.1,) * (1 if pooled else t), True, 1e-5, kind)  # type: ignore[arg-type]

    return leaves, norm


def _check_case(device: torch.device, channels_last: bool, pooled: bool) -> str | None:
    from snn_sparse.kernels.spike_bits import unpack
    from snn_sparse.ops.neuron_operator import run_kernels

    leaves, norm = _case(device, channels_last, pooled)
    exact = {name: x.clone().requires_grad_() for name, x in leaves.items()}
    given = {name: x.float().requires_grad_() for name, x in leaves.items()}
    spec, steps = NeuronSpec(), leaves["y"].shape[0]
    expected, _ = reference(exact["y"], spec, steps, norm(exact), exact["residual"], pool=pooled)
    call: dict[str, Any] = {"norm": norm(given), "residual": given["residual"], "pool": pooled}
    spikes, _ = run_kernels(given["y"], spec, steps, **call)
    packed, _ = run_kernels(given["y"], spec, steps, **call, packed=True)
    if float((spikes != expected).double().mean()) > SPIKES_OFF:
        return "spikes differ"
    if not torch.equal(unpack(packed.bits, tuple(spikes.shape), spikes.dtype), spikes):
        return "packed spikes differ"
    weights = torch.linspace(-1, 1, spikes.numel(), dtype=torch.float64, device=device).view(spikes.shape)
    wanted = torch.autograd.grad((expected * weights).sum(), list(exact.values()))
    found = torch.autograd.grad((spikes * weights.float()).sum(), list(given.values()))
    for name, a, b in zip(leaves, wanted, found, strict=True):
        off = ~((a - b).abs() <= TOLERANCE * a.abs().max())
        if float(off.double().mean()) > SPIKES_OFF:
            return f"gradient of {name} differs"
    return None
