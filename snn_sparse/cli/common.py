"""Shared by the commands: complaints about the input, devices, data, tickets, the report at the end."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

TERMINAL_ROWS = 40  # levels of a method that the terminal shows; the page has all


class InputError(Exception):
    """Bad input, told in one line; the exit status is 2."""


def one_line(error: BaseException) -> str:
    """Message of an error, without line breaks."""
    return " ".join(str(error).split())


def checked(action: Callable[[], Any]) -> Any:
    """Run an action that looks at the input; its complaints become one line and exit status 2."""
    try:
        return action()
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise InputError(one_line(error)) from error


def pick_device(name: str | None) -> str:
    """Name of the device to compute on: ``name`` if it is there; a GPU where there is one if left out.

    Raises:
        ValueError: there is no such device.
    """
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"unknown device {name!r}: use cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not (torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()):
        raise ValueError(f"device {name!r} is not available on this machine")
    return name


def load_data(args: argparse.Namespace, dataset: str, timesteps: int) -> Any:
    """Read a data set as the flags of :func:`snn_sparse.cli.flags.add_data_flags` say; events in T frames."""
    from snn_sparse.training import load_dataset

    return load_dataset(dataset, args.data_dir, download=args.download, image_size=args.image_size, timesteps=timesteps)


def load_ticket(path: str) -> Any:
    """Read a ticket file; complaints are one line."""
    from snn_sparse.tickets import Ticket

    return checked(lambda: Ticket.load(path))


def write_and_show(runs: Sequence[str | Path], out: str | Path) -> None:
    """Write the report of finished runs into ``out``, and print its table and where the page is."""
    from snn_sparse.console import print_table
    from snn_sparse.reports import HEADER, table_rows, write_report, write_summary

    reports = [write_summary(run) for run in runs]
    page = write_report(reports, out)
    print_table(HEADER, table_rows(reports, most=TERMINAL_ROWS))
    print(f"\nreport: {page}")
