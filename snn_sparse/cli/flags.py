"""Flags of the command line: the published scripts' names and defaults, and ours beside them."""

import argparse
from typing import Any

# Written out here, not imported: `--help` and errors must not wait for torch. A test holds them against the package.
METHOD_HELP = (
    ("imp", "iterative magnitude pruning with late rewinding"),
    ("imp+et", "the same at the Early-Time number of timesteps"),
    ("eb", "Early-Bird ticket at --sparsity_round"),
    ("eb+et", "the same at the Early-Time number of timesteps"),
    ("random", "control: random masks with the layer densities of --like"),
    ("snip", "control: SNIP at initialisation, at --sparsity_round"),
    ("transfer", "IMP masks found on the same network with ReLU, trained as an SNN"),
)
ARCHITECTURES = ("vgg11", "vgg13", "vgg16", "vgg19", "vgg_small", "resnet19")
IMAGES = ("digits", "mnist", "fmnist", "svhn", "cifar10", "cifar100", "imagefolder")
EVENTS = ("events", "nmnist", "cifar10dvs", "dvs128gesture")
DATASETS = (*IMAGES, *EVENTS)
SWITCH = argparse.BooleanOptionalAction  # --download, and --no-download where a file says otherwise


def flag(parser: Any, name: str, **options: Any) -> None:
    """Add ``--a_b`` and ``--a-b`` as one flag."""
    spellings = dict.fromkeys([f"--{name}", f"--{name.replace('_', '-')}"])
    takes = "choices" not in options and "action" not in options
    parser.add_argument(*spellings, dest=name, **({"metavar": "N"} | options if takes else options))


def switches(parser: argparse.ArgumentParser) -> dict[str, bool]:
    """The flags of a command, written with ``_``, and whether each is a switch that takes no value."""
    return {a.dest: a.nargs == 0 for a in parser._actions if a.option_strings and a.dest != "help"}


def add_config_flag(parser: argparse.ArgumentParser) -> None:
    """Add ``--config``, which :func:`snn_sparse.cli.config.with_config` reads before anything else."""
    text = (
        "YAML file of flags (end_iter: 30), or a run directory, whose settings are taken; the command line goes first"
    )
    parser.add_argument("--config", metavar="FILE", help=text)


def add_progress_flags(parser: Any) -> None:
    """Add the flags that say how to follow a training."""
    flag(parser, "print_freq", type=int, help="epochs between two lines of progress (default end_iter / 6, at most 50)")
    parser.add_argument(
        "--tensorboard",
        metavar="DIR",
        help="write TensorBoard events into DIR, or with auto into tensorboard/ in the run directory",
    )


def add_data_flags(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """Add the flags that say where the images come from and where to compute."""
    group = parser.add_argument_group("data and device")
    listed = ", ".join(DATASETS)
    note = f"default {default}" if default else "default: the ticket's"
    group.add_argument("--dataset", default=default, choices=DATASETS, metavar="NAME", help=f"{listed} ({note})")
    flag(group, "data_dir", default="dataset/", metavar="DIR", help="where data sets lie (default dataset/)")
    group.add_argument("--download", action=SWITCH, default=False, help="let missing files be fetched into --data_dir")
    sides = "side in pixels: imagefolder (default 32), nmnist (34), cifar10dvs (48), dvs128gesture (64), events (16)"
    flag(group, "image_size", type=int, help=sides)
    group.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1 (default: cuda where there is one)")
    group.add_argument(
        "--backend", default="fused", choices=("fused", "plain"), help="layers: fused (default) or the plain reference"
    )


def add_precision_flag(parser: Any, default: str | None = None, note: str = "as in the search") -> None:
    """Add ``--precision``, that of forward pass and loss; ``note`` explains what None stands for."""
    text = f"fp32, or bf16: faster on a GPU, weights stay float32 (default: {default or note})"
    parser.add_argument("--precision", default=default, choices=("fp32", "bf16"), help=text)


def add_search_flags(parser: argparse.ArgumentParser) -> None:
    """Add all flags of ``snn-sparse search``, in groups, and its description."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = "Find winning tickets. Methods:\n" + "".join(f"  {m:9} {text}\n" for m, text in METHOD_HELP)
    parser.epilog = (
        "Every flag may be written with _ or -. A search that was stopped goes on with the same command.\n"
        "On N processes (one a GPU): torchrun --nproc-per-node N -m snn_sparse search ...; --batch_size is of all.\n"
        "Example, in about a minute on a CPU:\n"
        "  snn-sparse search --method imp --dataset digits --end_iter 10 --prune_percent 75 --prune_iterations 4"
    )
    methods = [m for m, _ in METHOD_HELP]
    parser.add_argument("--method", default="imp", choices=methods, metavar="NAME", help="see above (default imp)")
    parser.add_argument("--out", metavar="DIR", help="run directory (default runs/EXP_NAME/METHOD-ARCH-DATASET-roundN)")
    flag(parser, "exp_name", default="snn_pruning", metavar="NAME", help="experiment name (default snn_pruning)")
    parser.add_argument(
        "--deterministic",
        action=SWITCH,
        default=False,
        help="choose without timing how layers compute: another run gives the same bits",
    )
    flag(
        parser,
        "sync_statistics",
        action=SWITCH,
        default=False,
        help="on many processes: batch norm takes the statistics of the whole batch, not of each process's piece",
    )
    flag(parser, "like", metavar="RUN", help="for --method random: the run or ticket whose layer densities to copy")
    add_data_flags(parser, "digits")
    text = "train on so many of the training images, always the same ones (default all)"
    flag(parser, "train_images", type=int, help=text)
    _add_network_flags(parser)
    _add_training_flags(parser)
    _add_pruning_flags(parser)


def _add_network_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("network")
    listed = ", ".join(ARCHITECTURES)
    group.add_argument(
        "--arch", choices=ARCHITECTURES, metavar="NAME", help=f"{listed} (default vgg16; vgg_small for digits)"
    )
    flag(group, "timestep", type=int, default=5, help="timesteps T (default 5)")
    text = "factor of the numbers of channels, each to a multiple of 8 (default 1, as published)"
    group.add_argument("--width", type=float, default=1.0, metavar="N", help=text)
    group.add_argument("--neuron", default="lif", choices=("lif", "if", "plif", "relu"), help="default lif")
    flag(
        group,
        "bn_statistics",
        default="per_step",
        choices=("per_step", "pooled"),
        help="default per_step, as published",
    )


def _add_training_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training")
    flag(group, "batch_size", type=int, default=128, help="images a step (default 128)")
    group.add_argument("--optimizer", default="sgd", choices=("sgd", "adam"), help="default sgd")
    group.add_argument("--scheduler", default="cosine", choices=("cosine", "step"), help="default cosine")
    flag(group, "learning_rate", type=float, default=0.1, help="at the first epoch (default 0.1)")
    group.add_argument("--momentum", type=float, default=0.9, metavar="N", help="of sgd (default 0.9)")
    add_precision_flag(group, "fp32")
    flag(group, "weight_decay", type=float, help="default 5e-4 for sgd, none for adam, as published")
    flag(group, "end_iter", type=int, default=300, help="epochs of the first training (default 300)")
    group.add_argument("--seed", type=int, default=1234, metavar="N", help="default 1234")
    group.add_argument(
        "--round", type=int, default=1, metavar="N", help="repetition; adds N - 1 to the seed (default 1)"
    )
    flag(group, "valid_freq", type=int, help="epochs between two test accuracies (default end_iter / 6, at most 50)")
    add_progress_flags(group)


def _add_pruning_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("pruning")
    flag(group, "prune_percent", type=float, default=25.0, help="of the live weights, at each level (default 25)")
    flag(group, "prune_iterations", type=int, default=15, help="levels, the dense one included (default 15)")
    flag(group, "pruning_scope", default="global", choices=("global", "local"), help="default global")
    text = "survivors go back to their values after it (default end_iter / 15, between 1 and 20)"
    flag(group, "rewinding_epoch", type=int, help=text)
    flag(
        group,
        "sparsity_round",
        type=int,
        default=0,
        help="for eb and snip: index into 0, 25.04, 43.71, 57.76, 68.3, 76.2, 82.13, 86.58, 89.91, 92.41, 94.29, "
        "95.69, 96.75, 97.54, 98.13 %% (default 0)",
    )
    flag(group, "early_time_threshold", type=float, default=0.6, help="of the normalised divergence (default 0.6)")


def add_train_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of ``snn-sparse train``."""
    parser.add_argument("--ticket", required=True, metavar="FILE", help="a ticket.safetensors file")
    flag(parser, "end_iter", type=int, help="epochs (default: as many as the ticket's search took)")
    flag(parser, "learning_rate", type=float, help="at the first epoch (default: as in the search)")
    flag(parser, "timestep", type=int, help="timesteps T (default: full T of the search)")
    add_precision_flag(parser)
    add_progress_flags(parser)
    parser.add_argument("--out", metavar="DIR", help="run directory (default: runs/train-TICKET'S RUN-LEVEL)")
    add_data_flags(parser)


def add_evaluate_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of ``snn-sparse evaluate``."""
    parser.add_argument("--ticket", required=True, metavar="FILE", help="a ticket.safetensors file")
    flag(parser, "timestep", type=int, help="timesteps T (default: the ticket's)")
    parser.add_argument(
        "--profile", action="store_true", help="also firing rates, operations, energy and bytes, a layer a line"
    )
    add_precision_flag(parser)
    add_data_flags(parser)


def add_explain_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of ``snn-sparse explain``."""
    parser.add_argument(
        "network",
        metavar="MODULE:NAME",
        help="a network, or what gives one when called without arguments",
    )
    parser.add_argument(
        "--input",
        action="append",
        metavar="SHAPE",
        help="shape of an input, such as 2,3,32,32 (the default); once for each positional argument of forward",
    )
    flag(parser, "timesteps", type=int, help="put T in front of every shape: [T, N, C, H, W]")


def add_plan_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of ``snn-sparse plan``."""
    parser.add_argument("--ticket", required=True, metavar="FILE", help="a ticket.safetensors file")
    flag(parser, "batch_size", type=int, default=128, help="images a step (default 128)")
    flag(parser, "timestep", type=int, help="timesteps T (default: the ticket's)")
    flag(parser, "image_size", type=int, default=32, help="side of the images in pixels (default 32)")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda or cuda:N (default: cuda if there is one)")
    add_precision_flag(parser, note="bf16 on a GPU; a CPU computes in fp32")
