"""Shared by the commands: complaints about the input, devices, data, tickets, the report at the end."""

import argparse
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

TERMINAL_ROWS = 40  # levels of a method that the terminal shows; the page has all


class InputError(Exception):
    """Bad input, told in one line; the exit status is 2."""


def one_line(error: BaseException) -> str:
    """Message of an error, without line breaks."""
    return " ".join(str(error).split())


def with_flags_named(message: str, flags: Iterable[str]) -> str:
    """Write the names of a command's flags in a message as on its command line: ``--end_iter`` for ``end_iter``.

    That of a message's subject, and those with ``_``, which are no English words; a flag that is named already, and
    what is part of a path, stay.
    """
    names = {name: name for name in flags}
    if "timestep" in names:
        names.setdefault("timesteps", "timestep")  # as networks call it
    for name, flag in names.items():
        if re.search(rf"--{flag}\b", message):
            continue
        anywhere = name if "_" in name else rf"^{name}|(?<=^unknown ){name}|(?<=; ){name}|(?<=configuration: ){name}"
        message = re.sub(rf"(?<![\w/.-])(?:{anywhere})(?![\w/.?-])", f"--{flag}", message)
    return message


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
    """Read a ticket file; complaints are one line, and a run directory is told by its tickets."""
    from snn_sparse.tickets import Ticket

    if Path(path).is_dir():
        raise InputError(_which_tickets(Path(path)))
    return checked(lambda: Ticket.load(path))


def _which_tickets(folder: Path) -> str:
    """Complaint about a directory where a ticket file is wanted: the tickets that it has."""
    name = "ticket.safetensors"
    if (folder / name).is_file():
        return f"ticket {folder} is a directory: give its file, {folder / name}"
    levels = sorted(p.parent.name for p in folder.glob(f"level_*/{name}"))
    if levels:
        return f"ticket {folder} is a run: give one of its tickets, {folder}/LEVEL/{name}; LEVEL: {', '.join(levels)}"
    runs = sorted({p.parents[1].name for p in folder.glob(f"*/level_*/{name}")})
    if runs:
        return f"ticket {folder} has runs: give a ticket of one, {folder}/RUN/level_NN/{name}; RUN: {', '.join(runs)}"
    return f"ticket {folder} is a directory without tickets; a run has level_NN/{name} once a level is finished"


def follow_up(args: argparse.Namespace) -> None:
    """Fill in what was left out of a search's flags and depends on others.

    Network: ``vgg_small`` for digits and made events, else ``vgg16``. Of ``end_iter`` epochs: rewinding after a 15th,
    at most 20 and at least 1 (0 of a single epoch); test accuracy and a line of progress after every 6th part, at most
    50; so that 300 have the published 20 and 50.
    """
    from snn_sparse.tickets.settings import Settings

    epochs = max(args.end_iter, 1)
    if args.arch is None:
        args.arch = "vgg_small" if args.dataset in ("digits", "events") else "vgg16"
    if args.rewinding_epoch is None:
        looked_at = args.method in ("imp", "imp+et", "transfer")
        share = min(Settings.rewinding_epoch, max(1, epochs // 15), epochs - 1)
        args.rewinding_epoch = share if looked_at else Settings.rewinding_epoch
    if args.valid_freq is None:
        args.valid_freq = every(epochs)
    if args.print_freq is None:
        args.print_freq = every(epochs)


def every(epochs: int) -> int:
    """Epochs between two lines of progress, or two test accuracies, of a training of so many."""
    return min(50, max(1, epochs // 6))


def write_and_show(runs: Sequence[str | Path], out: str | Path) -> None:
    """Write the report of finished runs into ``out``, and print its table and where the page is."""
    from snn_sparse.console import print_table
    from snn_sparse.reports import HEADER, table_rows, write_report, write_summary
    from snn_sparse.reports.summary import unfinished

    reports = [write_summary(run) for run in runs]
    page = write_report(reports, out)
    print_table(HEADER, table_rows(reports, most=TERMINAL_ROWS))
    for line in unfinished(reports):
        print(f"unfinished: {line}")
    print(f"\nreport: {page}")
