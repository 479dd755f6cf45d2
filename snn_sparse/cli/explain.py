"""Command ``snn-sparse explain``: somebody's network is built, fused and explained."""

import argparse
import copy
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from snn_sparse.cli import common
from snn_sparse.cli.flags import add_explain_flags

DEFAULT_SHAPE = "2,3,32,32"


def add_commands(commands: Any) -> None:
    """Register ``explain``."""
    explain = commands.add_parser("explain", help="what fuse makes of a network of yours, and what it leaves and why")
    add_explain_flags(explain)
    explain.set_defaults(run=explain_command)


def explain_command(args: argparse.Namespace) -> None:
    """Run ``snn-sparse explain``: print what of somebody's network runs inside stages, and why the rest does not."""
    print_explanation(*common.checked(lambda: explained(args.network, args.input, args.timesteps)))


def load_network(where: str) -> Any:
    """Import a network by name; the current folder is looked in first.

    Args:
        where: ``module:name``; the name is that of a ``torch.nn.Module``, or of what gives one without arguments.

    Raises:
        ValueError: no such module or name, either fails, or gives something else.
    """
    from torch import nn

    module, colon, name = where.partition(":")
    if not (module and colon and name):
        raise ValueError(f"network must be MODULE:NAME, such as my_nets:MyVGG, got {where!r}")
    found = _import(module)
    for part in name.split("."):
        if not hasattr(found, part):
            raise ValueError(f"{module} has no {name!r}")
        found = getattr(found, part)
    if not isinstance(found, nn.Module) and callable(found):
        found = _attempt(f"{where}() fails", found)
    if not isinstance(found, nn.Module):
        raise ValueError(f"{where} gives a {type(found).__name__}, not a torch.nn.Module")
    return found


def _import(module: str) -> Any:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    importlib.invalidate_caches()
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
            raise ValueError(f"there is no module {module!r} here, nor where Python looks for them") from error
        raise ValueError(f"importing {module} fails: {error}") from error
    except (Exception, SystemExit) as error:
        raise ValueError(f"importing {module} fails: {_line(error)}") from error


def _attempt(what: str, action: Any, *args: Any) -> Any:
    try:
        return action(*args)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{what}: {_line(error)}") from error


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def read_shape(text: str) -> tuple[int, ...]:
    """Read a shape such as ``2,3,32,32``.

    Raises:
        ValueError: it is none.
    """
    try:
        shape = tuple(int(size) for size in text.split(","))
    except ValueError:
        shape = (0,)
    if min(shape) < 1:
        raise ValueError(
            f"input must be sizes of at least 1 with commas between, such as {DEFAULT_SHAPE}, got {text!r}"
        )
    return shape


def explained(
    where: str, inputs: Sequence[str] | None = None, timesteps: int | None = None
) -> tuple[str, list[tuple[int, ...]], Any]:
    """Build a network, run it on random inputs, fuse it, and explain.

    Args:
        where: ``module:name`` as for :func:`load_network`.
        inputs: shape of each input, as for :func:`read_shape`; one of ``2,3,32,32`` if left out.
        timesteps: T, put in front of every shape.

    Returns:
        the name of the network's class, the inputs' shapes, and the :class:`snn_sparse.fusion.Explanation`.

    Raises:
        ValueError: no such network, a wrong shape, or the network as it was written fails on such inputs.
    """
    if timesteps is not None and timesteps < 1:
        raise ValueError(f"timesteps must be at least 1, got {timesteps}")
    shapes = [read_shape(text) for text in inputs or (DEFAULT_SHAPE,)]
    if timesteps is not None:
        shapes = [(timesteps, *shape) for shape in shapes]
    model = load_network(where)

    import torch

    from snn_sparse.fusion import explain, fuse

    given = [torch.rand(shape) for shape in shapes]
    said = ", ".join(str(list(shape)) for shape in shapes)
    _attempt(f"forward fails on {said}", copy.deepcopy(model), *given)
    return type(model).__name__, shapes, explain(fuse(model, *given))


def print_explanation(name: str, shapes: Sequence[tuple[int, ...]], explanation: Any) -> None:
    """Print a table: the layers of each stage, then what was left and why."""
    from snn_sparse.console import make_console, print_table

    console = make_console()
    console.print(f"{name} on {', '.join(str(list(shape)) for shape in shapes)}")
    if "" in explanation.left:
        console.print(f"runs as it was written: {explanation.left['']}")
        return
    print_table(("stage or module", "its layers, or why it was left"), explanation.rows(), left=2)
    console.print(explanation.summary())
