"""Commands about this machine: ``snn-sparse doctor`` and ``snn-sparse plan``."""

import argparse
from typing import Any

from snn_sparse.cli import common
from snn_sparse.cli.flags import add_plan_flags


def add_commands(commands: Any) -> None:
    """Register ``plan`` and ``doctor``."""
    plan = commands.add_parser("plan", help="how each layer of a ticket computes on this machine, timed against dense")
    add_plan_flags(plan)
    plan.set_defaults(run=plan_command)

    doctor = commands.add_parser("doctor", help="what runs each operator on this machine, and why nothing faster does")
    doctor.set_defaults(run=lambda args: print_backends())


def plan_command(args: argparse.Namespace) -> None:
    """Run ``snn-sparse plan``: print how each layer of a ticket computes, timed against dense."""
    from snn_sparse.console import print_table

    ticket = common.load_ticket(args.ticket)
    print_table(*common.checked(lambda: layer_table(args, ticket, common.pick_device(args.device))))


def print_backends() -> None:
    """Print what runs each operator on each device of this machine, and why nothing faster does."""
    from snn_sparse.console import make_console, print_table
    from snn_sparse.ops import backend_report
    from snn_sparse.ops.backend import library_path, library_problem

    problem = library_problem()
    said = f"none. {problem}: a CPU runs plain PyTorch, which is slow" if problem else library_path()
    make_console().print(f"C++ operators: {said}")
    print_table(("operator", "device", "dtype", "runs", "why not faster"), backend_report())


def layer_table(args: argparse.Namespace, ticket: Any, device: str) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows of how each layer of a ticket computes, timed against dense.

    Raises:
        ValueError: a size below 1, or nothing to race on ``device``.
    """
    import torch

    from snn_sparse.fusion.table import HEADER, layer_rows

    for name in ("batch_size", "image_size"):
        if getattr(args, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(args, name)}")
    model = ticket.build()
    if args.timestep is not None:
        model.timesteps = args.timestep
    dtype = torch.float32 if args.precision == "fp32" else torch.bfloat16
    size = (args.batch_size, model.in_channels, args.image_size)
    return HEADER, layer_rows(model, *size, torch.device(device), dtype)
