"""Command ``snn-sparse sweep``: many searches from one YAML file, and one report of them all."""

import argparse
import sys
from dataclasses import fields
from typing import Any, NoReturn

from snn_sparse.cli import common
from snn_sparse.cli.flags import add_search_flags, flag

NOT_FROM_THE_FILE = ("out", "exp_name")  # the sweep chooses directories
EXAMPLE = """\
FILE.yaml:
  out: runs/NAME                    # directory of the sweep: a run, its log and its mark a search, and report.html
  common: {dataset: digits, timestep: 5}
  grid: {method: [imp, eb], seed: [1, 2]}            # every combination
  searches:                                          # single ones, beside the grid
    - {method: random, seed: 1, like: imp-seed1}     # runs after the search it is like
Names are the flags of `snn-sparse search`. The same command goes on with a sweep that was stopped."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raise what is wrong with a search's flags."""
        raise ValueError(message.removeprefix("argument "))


def add_commands(commands: Any) -> None:
    """Register ``sweep``."""
    parser = commands.add_parser(
        "sweep",
        help="many searches from one file, side by side, and one report",
        description="Run the searches that a file lists, and report on them together.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="FILE.yaml", help="which searches")
    flag(parser, "workers", type=int, help="searches at a time on this machine (default 1; more need Ray)")
    flag(parser, "ray", metavar="ADDRESS", help="a Ray cluster that shares this file system, or local")
    flag(parser, "cpus_per_search", type=int, help="CPUs and threads of each (default: an equal share; 1 on a cluster)")
    flag(parser, "gpus_per_search", type=float, help="GPUs of each, or a fraction of one (default: an equal share)")
    parser.set_defaults(run=sweep_command)


def plan_of(file: str) -> Any:
    """Read a sweep's file and check every search in it, as :func:`snn_sparse.sweep.plan.read_plan` does."""
    from snn_sparse.sweep.plan import read_plan

    parser = _Parser(add_help=False)
    add_search_flags(parser)
    defaults = vars(parser.parse_args([]))
    switches = {name: value is False for name, value in defaults.items() if name not in NOT_FROM_THE_FILE}
    return read_plan(file, switches, lambda arguments: _settings(parser.parse_args(arguments)))


def sweep_command(args: argparse.Namespace) -> None:
    """Run ``snn-sparse sweep``; exit status 1 if a search failed, 128 + N if signal N stopped the sweep."""
    from snn_sparse.console import print_table
    from snn_sparse.sweep.run import run_sweep
    from snn_sparse.sweep.workers import Workers

    def prepare() -> tuple[Any, Any]:
        return plan_of(args.file), Workers(args.workers, args.ray, args.cpus_per_search, args.gpus_per_search)

    plan, workers = common.checked(prepare)
    note = f" ({plan.left_out} of the grid equal others and are left out)" if plan.left_out else ""
    print(f"{len(plan.searches)} searches in {plan.out}{note}", flush=True)
    outcomes, number = common.checked(lambda: run_sweep(plan, workers, lambda line: print(line, flush=True)))
    print()
    print_table(("search", "state", "why"), [(o.name, o.state, o.reason) for o in outcomes], left=3)
    done = {outcome.name for outcome in outcomes if outcome.state == "done"}
    if done and number is None:
        print()
        common.checked(lambda: common.write_and_show([s.run for s in plan.searches if s.name in done], plan.out))
    if number is not None:
        print("snn-sparse: stopped; the same command goes on from here", file=sys.stderr)
        raise SystemExit(128 + number)
    if len(done) < len(outcomes):
        raise SystemExit(1)


def _settings(args: argparse.Namespace) -> Any:
    """Settings that a search of the sweep will have, on whichever machine; its device is looked for there."""
    import torch

    from snn_sparse.tickets.settings import Settings

    common.follow_up(args)
    for name in ("print_freq", "image_size"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(args, name)}")
    args.device = args.device or "cpu"
    try:
        torch.device(args.device)
    except RuntimeError:
        raise ValueError(f"unknown device {args.device!r}: use cpu, cuda or cuda:N") from None
    return Settings(**{f.name: getattr(args, f.name) for f in fields(Settings)})
