"""The compiled operators (``csrc/``): loaded when first asked for; without them everything runs on plain PyTorch.

``SNN_SPARSE_LIBRARY`` names another library than the installed one, such as the one that ``make sanitize`` builds.
"""

import functools
import importlib.util
import os
import warnings

import torch


def _library_path() -> str | None:
    """Where the library should be: as ``SNN_SPARSE_LIBRARY`` says, or as installed; None if there is none."""
    named = os.environ.get("SNN_SPARSE_LIBRARY")
    if named:
        return named
    spec = importlib.util.find_spec("snn_sparse._C")
    return spec.origin if spec is not None else None


@functools.cache
def cpu_library() -> bool:
    """Whether the C++ operators are there; loads them, and says once why not if they are missing or damaged."""
    path = _library_path()
    if path is None:
        warnings.warn(
            "snn_sparse was installed without its C++ operators (no compiler, or SNN_SPARSE_BUILD=0): "
            "fused layers run on plain PyTorch",
            stacklevel=2,
        )
        return False
    try:
        torch.ops.load_library(path)
        if not hasattr(torch.ops.snn_sparse, "sparse_conv2d_forward"):
            raise OSError(f"{path} holds other operators")
    except OSError as error:
        warnings.warn(f"the C++ operators of snn_sparse do not load, plain PyTorch is used: {error}", stacklevel=2)
        return False
    return True


def usable(*tensors: torch.Tensor | None) -> bool:
    """Whether the C++ operators take these tensors: on the CPU, all float32 or all float64, no autocast."""
    given = [t for t in tensors if t is not None]
    return (
        all(t.device.type == "cpu" and t.dtype == given[0].dtype for t in given)
        and given[0].dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and cpu_library()
    )
