"""No fallback is timed under the name of what it stands in for: it is refused, with the reason."""

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from snn_sparse.ops.backend import choose

Result = TypeVar("Result")
_FALLBACKS = r".*snn_sparse|training goes on without CUDA graphs"  # warnings of the package that something is slower


class Refused(RuntimeError):
    """Raised where something that was asked for does not run here; the message says why."""


def insist(*operators: str, device: torch.device | str, dtype: torch.dtype, on: str | None = None) -> None:
    """Return if all operators run here on something faster than plain PyTorch.

    Args:
        *operators: as :func:`snn_sparse.ops.backend.choose` knows them.
        device: of the tensors.
        dtype: of the products.
        on: the implementation that is meant; None: any but plain PyTorch.

    Raises:
        Refused: one does not.
    """
    for operator in operators:
        found = choose(operator, torch.device(device), dtype)
        if found.name == "plain":
            raise Refused(f"{operator} would run on plain PyTorch: {found.reason}")
        if on not in (None, found.name):
            raise Refused(f"{operator} runs in {found.name} on {device}, not in {on}")


@contextmanager
def no_fallback() -> Iterator[None]:
    """Inside, a warning that the package falls back to something slower is an error."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=_FALLBACKS)
        yield


def attempt(name: str, action: Callable[[], Result], skipped: dict[str, str], said: str = "left out") -> Result | None:
    """Return what the action returns; if it fails, a line on stderr, a note in ``skipped``, and None."""
    try:
        with no_fallback():
            return action()
    except Exception as error:
        skipped[name] = " ".join((str(error) or type(error).__name__).split())[:200]
        print(f"{said}: {name}: {skipped[name]}", file=sys.stderr)
        return None
