"""Commands ``snn-sparse push`` and ``pull``: tickets to and from the Hugging Face Hub."""

import argparse
from pathlib import Path
from typing import Any

from snn_sparse.cli import common


def add_commands(commands: Any) -> None:
    """Register ``push`` and ``pull``."""
    push = commands.add_parser("push", help="upload a ticket and a model card to the Hugging Face Hub")
    push.add_argument("ticket", metavar="TICKET", help="ticket file")
    push.add_argument("repo", metavar="REPO", help="user/name on the Hub; made if it is not there")
    push.add_argument("--private", action="store_true", help="only you may see it")
    push.set_defaults(run=push_command)

    pull = commands.add_parser("pull", help="download a ticket from the Hugging Face Hub, and check it")
    pull.add_argument("repo", metavar="REPO", help="user/name on the Hub")
    pull.add_argument("--out", required=True, metavar="FILE", help="where the ticket goes; must not exist")
    pull.add_argument("--revision", metavar="NAME", help="branch, tag or commit (default the newest)")
    pull.set_defaults(run=pull_command)


def push_command(args: argparse.Namespace) -> None:
    """Run ``snn-sparse push``: upload a ticket file, after checking it."""
    from snn_sparse.tickets import push_ticket

    print(_checked(lambda: push_ticket(args.ticket, args.repo, private=args.private)))


def pull_command(args: argparse.Namespace) -> None:
    """Run ``snn-sparse pull``: download a ticket, check it and write it to ``--out``."""
    from snn_sparse.tickets import Ticket, pull_ticket
    from snn_sparse.tickets.settings import network_name

    def pull() -> Ticket:
        if Path(args.out).exists():
            raise ValueError(f"out {args.out} exists already: choose another --out")
        ticket = pull_ticket(args.repo, revision=args.revision)
        ticket.save(args.out)
        return ticket

    ticket = _checked(pull)
    network = network_name(ticket.config) if ticket.config else "a network of your own"
    print(f"{args.out}: {network}, {ticket.mask.sparsity:.2f} % pruned")


def _checked(action: Any) -> Any:
    """Run an action; that the optional package is missing is told in one line too."""
    try:
        return common.checked(action)
    except ImportError as error:
        raise common.InputError(common.one_line(error)) from error
