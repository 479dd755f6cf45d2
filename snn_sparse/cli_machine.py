"""Commands about this machine: ``snn-sparse doctor`` and ``snn-sparse plan``."""

import argparse
from typing import Any


def print_backends() -> None:
    """Print what runs each operator on each device of this machine, and why nothing faster does."""
    from snn_sparse.console import print_table
    from snn_sparse.ops import backend_report

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
