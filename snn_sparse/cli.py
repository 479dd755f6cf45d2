"""Command ``snn-sparse``: search, train, evaluate, explain, plan, doctor, report, demo."""

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from snn_sparse.cli_flags import (
    add_evaluate_flags,
    add_explain_flags,
    add_plan_flags,
    add_search_flags,
    add_train_flags,
)
from snn_sparse.version import __version__


class InputError(Exception):
    """Bad input, told in one line; the exit status is 2."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Print one line instead of argparse's usage block."""
        self.exit(2, f"{self.prog}: error: {message}\n")


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all commands; each sets ``run``, the function that carries it out."""
    parser = _Parser(
        prog="snn-sparse",
        description="Find, train and evaluate winning tickets of deep spiking neural networks.",
        epilog="Start with `snn-sparse demo`; then `snn-sparse search --help`.",
    )
    parser.add_argument("--version", action="version", version=f"snn-sparse {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    search = commands.add_parser("search", help="find tickets (IMP, Early-Bird, with or without Early-Time)")
    add_search_flags(search)
    search.set_defaults(run=run_search_command)

    train = commands.add_parser("train", help="train a ticket again from its rewound weights")
    add_train_flags(train)
    train.set_defaults(run=train_command)

    evaluate = commands.add_parser("evaluate", help="test accuracy of a ticket")
    add_evaluate_flags(evaluate)
    evaluate.set_defaults(run=evaluate_command)

    explain = commands.add_parser("explain", help="what fuse makes of a network of yours, and what it leaves and why")
    add_explain_flags(explain)
    explain.set_defaults(run=explain_command)

    plan = commands.add_parser("plan", help="how each layer of a ticket computes on this machine, timed against dense")
    add_plan_flags(plan)
    plan.set_defaults(run=plan_command)

    doctor = commands.add_parser("doctor", help="what runs each operator on this machine, and why nothing faster does")
    doctor.set_defaults(run=doctor_command)

    report = commands.add_parser("report", help="compare finished runs: table, page and plots")
    report.add_argument("runs", nargs="+", metavar="RUN", help="run directories")
    report.add_argument("--out", default="runs/report", metavar="DIR", help="where the page goes (default runs/report)")
    report.set_defaults(run=report_command)

    demo = commands.add_parser("demo", help="all searches and the random control on digits, in minutes on a CPU")
    demo.add_argument("--out", default="runs/demo", metavar="DIR", help="where the runs go (default runs/demo)")
    demo.set_defaults(run=demo_command)
    return parser


def _checked(action: Callable[[], Any]) -> Any:
    """Run an action that looks at the input; its complaints become one line and exit status 2."""
    try:
        return action()
    except (ValueError, TypeError, OSError) as error:
        raise InputError(" ".join(str(error).split())) from error


def _device(name: str | None) -> str:
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


def _load_data(args: argparse.Namespace, dataset: str) -> Any:
    from snn_sparse.training import load_dataset

    return load_dataset(dataset, args.data_dir, download=args.download, image_size=args.image_size)


def start_search(settings: Any, data: Any, out: Path, print_freq: int, levels: int | None = None) -> Any:
    """Make a search ready to run: check directory and configuration, send one image through the network.

    Raises:
        ValueError: the directory holds something else, the images do not fit the network, or ``print_freq`` is below 1.
    """
    from snn_sparse.console import ConsoleProgress
    from snn_sparse.tickets.run_files import RunFiles
    from snn_sparse.tickets.search import Search

    if print_freq < 1:
        raise ValueError(f"print_freq must be at least 1, got {print_freq}")
    count = levels or (settings.prune_iterations if settings.method in ("imp", "imp+et", "transfer") else 2)
    files = RunFiles(out)
    search = Search(settings, data.to(settings.device), files, ConsoleProgress(count, print_freq))
    search.new_model().eval()(search.data.train.normalise(search.data.train.images[:1]))
    files.start(settings)
    return search


def write_and_show(runs: Sequence[str | Path], out: str | Path) -> None:
    """Write the report of finished runs into ``out``, and print its table and where the page is."""
    from snn_sparse.console import print_table
    from snn_sparse.reports import HEADER, table_rows, write_report, write_summary

    reports = [write_summary(run) for run in runs]
    page = write_report(reports, out)
    print_table(HEADER, table_rows(reports))
    print(f"\nreport: {page}")


def run_to_the_end(search: Any, action: Callable[[], None]) -> None:
    """Carry a search out, then write and show its report; whatever happens, the terminal is left tidy."""
    with closing(search.progress):
        action()
    print()
    write_and_show([search.files.root], search.files.root)


def run_search_command(args: argparse.Namespace) -> None:
    """Run ``snn-sparse search``: find tickets, or go on with a search that was stopped."""
    from snn_sparse.tickets.drivers import run_search
    from snn_sparse.tickets.settings import METHODS, Settings

    def prepare() -> tuple[Any, Path]:
        args.arch = args.arch or ("vgg_small" if args.dataset == "digits" else "vgg16")
        args.device = _device(args.device)
        settings = Settings(**{f.name: getattr(args, f.name) for f in fields(Settings)})
        if (settings.method == "random") != (args.like is not None):
            raise ValueError("like (a run directory or ticket file) goes with method random, and only with it")
        if args.like is not None and not Path(args.like).exists():
            raise FileNotFoundError(f"like {args.like} does not exist")
        out = Path(args.out or default_out(args.exp_name, settings))
        return start_search(settings, _load_data(args, settings.dataset), out, args.print_freq), out

    search, out = _checked(prepare)
    s = search.settings
    print(f"{s.method}: {METHODS[s.method]}\n{s.arch} on {s.dataset}, T = {s.timestep}, {s.device}, in {out}")
    run_to_the_end(search, lambda: run_search(search, args.like))


def default_out(experiment: str, settings: Any) -> str:
    """Name ``runs/EXPERIMENT/METHOD-ARCH-DATASET-...``, one directory for each search of an experiment."""
    parts = [settings.method.replace("+", "-"), settings.arch, settings.dataset]
    if settings.method in ("eb", "eb+et", "snip"):
        parts.append(f"sparsity{settings.sparsity_round}")
    return str(Path("runs") / experiment / "-".join([*parts, f"round{settings.round}"]))


def _load_ticket(path: str) -> Any:
    from snn_sparse.tickets import Ticket

    return _checked(lambda: Ticket.load(path))


def train_command(args: argparse.Namespace) -> None:
    """Run ``snn-sparse train``: train a ticket again, as its search did but for the flags that are given."""
    from dataclasses import replace

    from snn_sparse.tickets.retrain import retrain
    from snn_sparse.tickets.settings import Settings

    ticket = _load_ticket(args.ticket)

    def prepare() -> tuple[Any, Path]:
        old = Settings(**ticket.meta["settings"])
        chosen = {
            k: getattr(args, k)
            for k in ("learning_rate", "timestep", "precision", "dataset", "backend")
            if getattr(args, k) is not None
        }
        epochs = args.end_iter if args.end_iter is not None else int(ticket.meta["epochs"])
        settings = replace(old, method="train", end_iter=epochs, device=_device(args.device), **chosen)
        level = Path(args.ticket).resolve().parent
        out = Path(args.out or f"runs/train-{level.parent.name}-{level.name}")
        data = _load_data(args, settings.dataset)
        return start_search(settings, data, out, args.print_freq, int(ticket.meta["level"]) + 1), out

    search, out = _checked(prepare)
    print(f"training {args.ticket}: {ticket.mask.sparsity:.2f} % pruned, T = {search.settings.timestep}, in {out}")
    run_to_the_end(search, lambda: retrain(search, ticket))


def evaluate_command(args: argparse.Namespace) -> None:
    """Run ``snn-sparse evaluate``: test accuracy of a ticket; data and precision default to those of its search."""
    from snn_sparse.fusion import fuse
    from snn_sparse.training import evaluate
    from snn_sparse.training.step import PRECISIONS

    ticket = _load_ticket(args.ticket)

    def prepare() -> tuple[Any, Any]:
        device = _device(args.device)
        data = _load_data(args, args.dataset or ticket.meta["settings"]["dataset"]).to(device)
        model = ticket.build(device=device)
        if args.backend == "fused":
            model = fuse(model)
        if args.timestep is not None:
            model.timesteps = args.timestep
        model.eval()(data.test.normalise(data.test.images[:1]))
        return model, data

    model, data = _checked(prepare)
    precision = args.precision or ticket.meta["settings"].get("precision", "fp32")
    accuracy = evaluate(model, data.test, dtype=PRECISIONS[precision])
    print(
        f"{ticket.config['arch']} on {data.name}, {ticket.mask.sparsity:.2f} % pruned, "
        f"T = {model.timesteps}: test accuracy {accuracy:.2f} %"
    )


def explain_command(args: argparse.Namespace) -> None:
    """Run ``snn-sparse explain``: print what of somebody's network runs inside stages, and why the rest does not."""
    from snn_sparse.cli_explain import explained, print_explanation

    print_explanation(*_checked(lambda: explained(args.network, args.input, args.timesteps)))


def plan_command(args: argparse.Namespace) -> None:
    """Run ``snn-sparse plan``: print how each layer of a ticket computes, timed against dense."""
    from snn_sparse.cli_machine import layer_table
    from snn_sparse.console import print_table

    ticket = _load_ticket(args.ticket)
    print_table(*_checked(lambda: layer_table(args, ticket, _device(args.device))))


def doctor_command(_args: argparse.Namespace) -> None:
    """Run ``snn-sparse doctor``: print what runs where on this machine."""
    from snn_sparse.cli_machine import print_backends

    print_backends()


def report_command(args: argparse.Namespace) -> None:
    """Run ``snn-sparse report``: compare finished runs."""
    _checked(lambda: write_and_show(args.runs, args.out))


def demo_command(args: argparse.Namespace) -> None:
    """Run ``snn-sparse demo``: every search and the random control on digits."""
    from snn_sparse.demo import run_demo

    run_demo(Path(args.out), lambda *arguments: _checked(lambda: start_search(*arguments)))


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit status: 0 done, 1 training failed, 2 bad input, 130 interrupted."""
    try:
        args = build_parser().parse_args(argv)
        args.run(args)
    except InputError as error:
        print(f"snn-sparse: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nsnn-sparse: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except Exception as error:
        from snn_sparse.tickets.search import DivergedError  # only now: it imports torch

        if not isinstance(error, DivergedError):
            raise
        print(f"snn-sparse: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
