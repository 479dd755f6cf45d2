"""How every kernel of this package is launched, and how a launch is recorded instead, for compiling ahead of time."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from triton.runtime import JITFunction


@dataclass(frozen=True)
class Launch:
    """One kernel with its arguments by name; tensors may be on the meta device."""

    kernel: JITFunction
    programs: int
    options: dict[str, Any]
    arguments: dict[str, Any]


# Implicit fusion of multiply and add would round h differently in the forward and in the backward kernel.
OPTIONS = {"enable_fp_fusion": False}

_recorders: list[list[Launch]] = []


@contextmanager
def recording() -> Iterator[list[Launch]]:
    """Inside, launches are appended to the list that this yields, and none runs."""
    _recorders.append([])
    try:
        yield _recorders[-1]
    finally:
        _recorders.pop()


def launch(
    kernel: JITFunction,
    programs: int,
    device: torch.device,
    /,
    *,
    num_warps: int,
    num_stages: int | None = None,
    registers: int | None = None,
    **arguments: Any,
) -> None:
    """Run ``kernel`` on a one-dimensional grid of ``programs`` on ``device``; nothing to do without programs.

    ``num_stages`` is the depth of the loads' pipeline in loops of matrix products; None: Triton's own.
    ``registers`` is the most that a thread may use; None leaves it to the assembler, which may spill to use few.
    """
    chosen = {"num_warps": num_warps, "num_stages": num_stages, "maxnreg": registers}
    options = {**{name: value for name, value in chosen.items() if value}, **OPTIONS}
    if _recorders:
        _recorders[-1].append(Launch(kernel, programs, options, arguments))
        return
    if programs == 0:
        return
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        kernel[(programs,)](**arguments, **options)
