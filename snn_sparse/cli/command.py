"""Parser of all commands, and what becomes of their errors."""

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from snn_sparse.cli import common, explain, hub, machine, search, sweep, tickets
from snn_sparse.cli.config import with_config
from snn_sparse.cli.flags import switches
from snn_sparse.version import __version__


class _Parser(argparse.ArgumentParser):
    commands: Any = None  # parsers of the commands, where there are any

    def error(self, message: str) -> NoReturn:
        """Print one line instead of argparse's usage block."""
        self.exit(2, f"{self.prog}: error: {message}\n")


def build_parser() -> _Parser:
    """Build the parser of all commands; each sets ``run``, the function that carries it out."""
    parser = _Parser(
        prog="snn-sparse",
        description="Find, train and evaluate winning tickets of deep spiking neural networks.",
        epilog="Start with `snn-sparse demo`; then `snn-sparse search --help`.",
    )
    parser.add_argument("--version", action="version", version=f"snn-sparse {__version__}")
    commands = parser.commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for group in (search, sweep, tickets, hub, explain, machine):
        group.add_commands(commands)
    _add_report_and_demo(commands)
    return parser


def _add_report_and_demo(commands: Any) -> None:
    report = commands.add_parser("report", help="compare finished runs: table, page and plots")
    report.add_argument("runs", nargs="+", metavar="RUN", help="run directories")
    report.add_argument("--out", default="runs/report", metavar="DIR", help="where the page goes (default runs/report)")
    report.set_defaults(run=report_command)

    demo = commands.add_parser("demo", help="all searches and the random control on digits, in minutes on a CPU")
    demo.add_argument("--out", default="runs/demo", metavar="DIR", help="where the runs go (default runs/demo)")
    demo.set_defaults(run=demo_command)


def report_command(args: argparse.Namespace) -> None:
    """Run ``snn-sparse report``: compare finished runs."""
    common.checked(lambda: common.write_and_show(args.runs, args.out))


def demo_command(args: argparse.Namespace) -> None:
    """Run ``snn-sparse demo``: every search and the random control on digits."""
    from snn_sparse.demo import run_demo

    run_demo(Path(args.out), lambda *arguments: common.checked(lambda: search.start_search(*arguments)))


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    Returns:
        the exit status: 0 done, 1 training failed, 2 bad input or a machine that fails, 130 and 143 stopped by SIGINT
        and SIGTERM.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    command = parser.commands.choices.get(argv[0]) if argv else None
    flags = {} if command is None else switches(command)
    try:
        args = parser.parse_args(with_config(argv, flags) if "config" in flags else argv)
        args.run(args)
    except KeyboardInterrupt:
        print("\nsnn-sparse: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except Exception as error:
        if os.environ.get("SNN_SPARSE_TRACEBACK"):
            raise
        status, message = explained_failure(error, flags)
        print(f"snn-sparse: {message}", file=sys.stderr)
        return status
    return 0


def explained_failure(error: Exception, flags: Iterable[str] = ()) -> tuple[int, str]:
    """Exit status and one line for whatever ended a command; arguments that are its ``flags`` are named as such."""
    if isinstance(error, common.InputError):
        return 2, f"error: {common.with_flags_named(str(error), flags)}"
    from snn_sparse.tickets.level import DivergedError  # only now: it imports torch
    from snn_sparse.training.stopping import StoppedError

    if isinstance(error, StoppedError):
        return 128 + error.signal, f"{error}; the same command goes on from here"
    if isinstance(error, DivergedError):
        return 1, f"error: {error}"
    line = common.one_line(error) or "no reason given"
    if isinstance(error, ValueError | OSError):
        return 2, f"error: {common.with_flags_named(line, flags)}"
    return 2, f"error: {type(error).__name__}: {line} (SNN_SPARSE_TRACEBACK=1 shows where)"
