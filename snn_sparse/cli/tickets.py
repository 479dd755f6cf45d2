"""Command ``snn-sparse evaluate``: test accuracy of a ticket."""

import argparse
from typing import Any

from snn_sparse.cli import common
from snn_sparse.cli.flags import add_evaluate_flags


def add_commands(commands: Any) -> None:
    """Register ``evaluate``."""
    evaluate = commands.add_parser("evaluate", help="test accuracy of a ticket")
    add_evaluate_flags(evaluate)
    evaluate.set_defaults(run=evaluate_command)


def evaluate_command(args: argparse.Namespace) -> None:
    """Run ``snn-sparse evaluate``: test accuracy of a ticket; data and precision default to those of its search."""
    from snn_sparse.fusion import fuse
    from snn_sparse.training import evaluate
    from snn_sparse.training.step import PRECISIONS

    ticket = common.load_ticket(args.ticket)

    def prepare() -> tuple[Any, Any]:
        device = common.pick_device(args.device)
        data = common.load_data(args, args.dataset or ticket.meta["settings"]["dataset"]).to(device)
        model = ticket.build(device=device)
        if args.backend == "fused":
            model = fuse(model)
        if args.timestep is not None:
            model.timesteps = args.timestep
        model.eval()(data.test.normalise(data.test.images[:1]))
        return model, data

    model, data = common.checked(prepare)
    precision = args.precision or ticket.meta["settings"].get("precision", "fp32")
    accuracy = evaluate(model, data.test, dtype=PRECISIONS[precision])
    print(
        f"{ticket.config['arch']} on {data.name}, {ticket.mask.sparsity:.2f} % pruned, "
        f"T = {model.timesteps}: test accuracy {accuracy:.2f} %"
    )
