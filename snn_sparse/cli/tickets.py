"""Command ``snn-sparse evaluate``: test accuracy of a ticket."""

import argparse
import sys
from typing import Any

from snn_sparse.cli import common
from snn_sparse.cli.flags import add_evaluate_flags

PROFILE_IMAGES = 1000  # at most so many of the test set are profiled, by the network as it was written
PROFILE_BATCH = 250


def add_commands(commands: Any) -> None:
    """Register ``evaluate``."""
    evaluate = commands.add_parser("evaluate", help="test accuracy of a ticket")
    add_evaluate_flags(evaluate)
    evaluate.set_defaults(run=evaluate_command)


def evaluate_command(args: argparse.Namespace) -> None:
    """Run ``snn-sparse evaluate``: test accuracy of a ticket; data and precision default to those of its search."""
    from snn_sparse.fusion import fuse
    from snn_sparse.tickets.settings import network_name
    from snn_sparse.training import evaluate
    from snn_sparse.training.step import PRECISIONS

    ticket = common.load_ticket(args.ticket)
    settings = ticket.meta.get("settings", {})
    precision = args.precision or settings.get("precision", "fp32")
    dataset = args.dataset or settings.get("dataset") or ticket.meta.get("dataset")

    def prepare() -> tuple[Any, Any]:
        device = common.pick_device(args.device)
        if dataset is None:
            raise ValueError("the ticket does not say what data it is for: name them by --dataset")
        if precision not in PRECISIONS:
            raise ValueError(f"unknown precision {precision!r} in the ticket: choose one by --precision")
        timesteps = (ticket.meta.get("settings") or {}).get("timestep", ticket.config.get("timesteps"))
        data = common.load_data(args, dataset, timesteps).to(device)
        model = ticket.build(device=device)
        if args.backend == "fused":
            model = fuse(model)
        if args.timestep is not None:
            model.timesteps = args.timestep
        image, _ = next(data.test.batches(1, timesteps=model.timesteps))
        model.eval()(image)
        return model, data

    model, data = common.checked(prepare)
    searched = (ticket.meta.get("settings") or {}).get("dataset")
    if searched not in (None, dataset):
        print(f"snn-sparse: warning: evaluated on {dataset}, but the ticket is of {searched}", file=sys.stderr)
    accuracy = evaluate(model, data.test, dtype=PRECISIONS[precision])
    print(
        f"{network_name(ticket.config)} on {data.name}, {ticket.mask.sparsity:.2f} % pruned, "
        f"T = {model.timesteps}: test accuracy {accuracy:.2f} %"
    )
    if args.profile:
        print_profile(ticket, model, data.test)


def print_profile(ticket: Any, model: Any, images: Any) -> None:
    """Print what a ticket costs, measured on the first test images: a table of layers, and the sums."""
    from snn_sparse.console import print_table
    from snn_sparse.training.profile import profile_network
    from snn_sparse.training.profile_rows import PROFILE_HEADER, profile_notes, profile_section

    batches = (images.normalise(part) for part in images.images[:PROFILE_IMAGES].split(PROFILE_BATCH))
    profile = profile_network(model, batches, ticket.mask).as_dict()
    print()
    print_table(PROFILE_HEADER, profile_section(profile))
    print()
    print("\n".join(profile_notes(profile)))
