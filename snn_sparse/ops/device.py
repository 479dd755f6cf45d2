"""Which implementation runs where: the Triton kernels on an NVIDIA GPU, once they have passed their first-use check."""

import functools
import importlib.util
import os

import torch

from snn_sparse.ops.library import usable

KERNEL_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@functools.cache
def triton_found() -> bool:
    """Whether Triton is installed; it is not imported."""
    return importlib.util.find_spec("triton") is not None


@functools.cache
def triton_version() -> str:
    """Of the Triton that is installed, under whatever name it was packaged; it is imported."""
    import triton

    return str(triton.__version__)


def on_kernels(*tensors: torch.Tensor | None) -> bool:
    """Whether Triton kernels take these tensors: all on one device where they run, in dtypes that they know."""
    given = [t for t in tensors if t is not None]
    return (
        len({t.device for t in given}) == 1 and all(t.dtype in KERNEL_DTYPES for t in given) and kernels_run(given[0])
    )


def kernels_run(x: torch.Tensor, family: str = "neuron") -> bool:
    """Whether an operator on ``x`` is to run its Triton kernel; the first time on a kind of GPU it is checked first.

    ``family`` is one of those that :mod:`snn_sparse.ops.self_check` checks one by one.
    """
    return x.dtype in KERNEL_DTYPES and _kernels_run_on(x.device.type, x.device.index or 0, family)


def _kernels_run_on(kind: str, index: int, family: str) -> bool:
    if not triton_found():
        return False
    if kind == "cuda":
        from snn_sparse.ops.self_check import trusted

        return trusted(torch.device(kind, index), family)
    return kind == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"


# What torch.compiler.assume_constant_result does; calling it would import torch._dynamo, which takes a second.
_kernels_run_on._dynamo_marked_constant = True  # type: ignore[attr-defined]


def fusable(*tensors: torch.Tensor | None) -> bool:
    """Whether fused operators take these tensors, by Triton kernels or in C++."""
    return on_kernels(*tensors) or usable(*tensors)


def upcast(x: torch.Tensor) -> torch.Tensor:
    """``x`` in float32 where it is in half precision: what kernels compute in."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


@functools.lru_cache(maxsize=256)
def factors_on(factors: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """The shares of new statistics as float32 ``[updates]`` on a device; kept, since a copy would wait for the host."""
    return torch.tensor(factors, dtype=torch.float32, device=device)
