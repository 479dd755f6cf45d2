"""Commands ``snn-sparse search`` and ``train``: find tickets, train one again; both go on where they were stopped."""

import argparse
from collections.abc import Callable
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Any

from snn_sparse.cli import common
from snn_sparse.cli.flags import add_config_flag, add_search_flags, add_train_flags


def add_commands(commands: Any) -> None:
    """Register ``search`` and ``train``."""
    search = commands.add_parser("search", help="find tickets (IMP, Early-Bird, with or without Early-Time)")
    add_config_flag(search)
    add_search_flags(search)
    search.set_defaults(run=run_search_command)

    train = commands.add_parser("train", help="train a ticket again from its rewound weights")
    add_config_flag(train)
    add_train_flags(train)
    train.set_defaults(run=train_command)


def start_search(
    settings: Any, data: Any, out: Path, print_freq: int, levels: int | None = None, group: Any = None
) -> Any:
    """Make a search ready to run: check directory and configuration, send one image through the network.

    Raises:
        ValueError: the directory holds something else, the images do not fit the network, ``print_freq`` is below 1, or
            the batch cannot be dealt out to the processes of ``group``.
    """
    from snn_sparse.console import ConsoleProgress
    from snn_sparse.tickets.group_files import GroupFiles
    from snn_sparse.tickets.progress import Progress
    from snn_sparse.tickets.run_files import RunFiles
    from snn_sparse.tickets.search import Search
    from snn_sparse.training import Group
    from snn_sparse.tuning import without_races

    if print_freq < 1:
        raise ValueError(f"print_freq must be at least 1, got {print_freq}")
    count = levels or (settings.prune_iterations if settings.method in ("imp", "imp+et", "transfer") else 2)
    group = Group() if group is None else group
    files = RunFiles(out) if group.size == 1 else GroupFiles(out, group)
    progress = ConsoleProgress(count, print_freq) if group.first else Progress()
    search = Search(settings, data.to(settings.device), files, progress, group=group)
    with without_races():
        search.new_model().eval()(search.data.train.normalise(search.data.train.images[:1]))
    files.start(settings)
    return search


def followed(search: Any, tensorboard: str | None) -> Any:
    """Let TensorBoard events be written of a search, if asked to; rank 0 writes them.

    Args:
        search: ready to run.
        tensorboard: directory of the events; ``auto``: ``tensorboard/`` in that of the run; None: no events.

    Raises:
        ImportError: tensorboard is not installed.
    """
    if tensorboard is not None and search.group.first:
        from snn_sparse.tensorboard import TensorBoardProgress
        from snn_sparse.tickets.progress import Together

        run = search.files.root
        events = TensorBoardProgress(run / "tensorboard" if tensorboard == "auto" else tensorboard, run)
        search.progress = Together(search.progress, events)
    return search


def run_to_the_end(search: Any, title: str, action: Callable[[], None]) -> None:
    """Carry a search out, then write and show its report; whatever happens, the terminal is left tidy.

    Of many processes rank 0 alone prints.
    """
    if search.group.first:
        many = f", on {search.group.size} processes" if search.group.size > 1 else ""
        print(f"{title}{many}", flush=True)
    with closing(search.progress), search.stop.on_signals():
        action()
    search.group.close()
    if search.group.first:
        print()
        common.write_and_show([search.files.root], search.files.root)


def run_search_command(args: argparse.Namespace) -> None:
    """Run ``snn-sparse search``: find tickets, or go on with a search that was stopped."""
    from snn_sparse.tickets.drivers import run_search
    from snn_sparse.tickets.settings import METHODS, Settings, data_name, network_name

    def prepare() -> tuple[Any, Path]:
        common.follow_up(args)
        args.device = common.pick_device(args.device)
        settings = Settings(**{f.name: getattr(args, f.name) for f in fields(Settings)})
        if args.like is not None and not Path(args.like).exists():
            raise FileNotFoundError(f"like {args.like} does not exist")
        out = Path(args.out or default_out(args.exp_name, settings))
        group, data = _join(args, settings)
        return followed(start_search(settings, data, out, args.print_freq, group=group), args.tensorboard), out

    search, out = common.checked(prepare)
    s = search.settings
    what = f"{network_name(s.as_dict())} on {data_name(s.as_dict())}, T = {s.timestep}, {s.device}, in {out}"
    run_to_the_end(search, f"{s.method}: {METHODS[s.method]}\n{what}", lambda: run_search(search))


def _join(args: argparse.Namespace, settings: Any) -> tuple[Any, Any]:
    """The group of processes that torchrun has started, this one's data; one process alone downloads."""
    from snn_sparse.training import Group

    group = Group.from_environment(settings.device)
    if args.download:
        group.on_first(lambda: common.load_data(args, settings.dataset, settings.timestep) and None)
    data = common.load_data(args, settings.dataset, settings.timestep)
    return group, data if settings.train_images is None else data.fewer(settings.train_images)


def default_out(experiment: str, settings: Any) -> str:
    """Name ``runs/EXPERIMENT/METHOD-ARCH-DATASET-...``, one directory for each search of an experiment."""
    parts = [settings.method.replace("+", "-"), settings.arch, settings.dataset]
    if settings.method in ("eb", "eb+et", "snip"):
        parts.append(f"sparsity{settings.sparsity_round}")
    return str(Path("runs") / experiment / "-".join([*parts, f"round{settings.round}"]))


def train_command(args: argparse.Namespace) -> None:
    """Run ``snn-sparse train``: train a ticket again, as its search did but for the flags that are given."""
    from dataclasses import replace

    from snn_sparse.tickets.retrain import check_trainable, retrain, settings_of

    ticket = common.load_ticket(args.ticket)

    def prepare() -> tuple[Any, Path]:
        old = settings_of(ticket)
        chosen = {
            k: getattr(args, k)
            for k in ("learning_rate", "timestep", "precision", "dataset", "backend")
            if getattr(args, k) is not None
        }
        epochs = args.end_iter if args.end_iter is not None else int(ticket.meta["epochs"])
        settings = replace(
            old, method="train", like=None, end_iter=epochs, device=common.pick_device(args.device), **chosen
        )
        level = Path(args.ticket).resolve().parent
        out = Path(args.out or f"runs/train-{level.parent.name}-{level.name}")
        group, data = _join(args, settings)
        check_trainable(ticket, settings, data)
        print_freq = common.every(epochs) if args.print_freq is None else args.print_freq
        search = start_search(settings, data, out, print_freq, int(ticket.meta["level"]) + 1, group)
        return followed(search, args.tensorboard), out

    search, out = common.checked(prepare)
    title = f"training {args.ticket}: {ticket.mask.sparsity:.2f} % pruned, T = {search.settings.timestep}, in {out}"
    run_to_the_end(search, title, lambda: retrain(search, ticket))
