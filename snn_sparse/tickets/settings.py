"""Settings of a search, under the names of the published scripts, and their checks."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, get_args

from snn_sparse.models import ARCHITECTURES, check_width
from snn_sparse.specs import check_statistics
from snn_sparse.tickets.pruning import PruningScope
from snn_sparse.training.optim import OptimizerName, SchedulerName
from snn_sparse.training.step import Precision

METHODS: dict[str, str] = {
    "imp": "iterative magnitude pruning with late rewinding",
    "imp+et": "the same at the Early-Time number of timesteps",
    "eb": "Early-Bird ticket at --sparsity_round",
    "eb+et": "the same at the Early-Time number of timesteps",
    "random": "control: random masks with the layer densities of --like",
    "snip": "control: SNIP at initialisation, at --sparsity_round",
    "transfer": "IMP masks found on the same network with ReLU, trained as an SNN",
}

# Percent of the weights that 0, 1, 2 ... rounds of 25 % leave pruned, as published; indexed by sparsity_round.
SPARSITIES = (0.0, 25.04, 43.71, 57.76, 68.3, 76.2, 82.13, 86.58, 89.91, 92.41, 94.29, 95.69, 96.75, 97.54, 98.13)


MOST_TIMESTEPS = 1000  # a second at a millisecond each; more is damage, or an attack on the memory


def network_name(settings: Mapping[str, Any]) -> str:
    """Name of the network that settings (or a ticket's ``config``) ask for: ``vgg16``, ``vgg16 width 0.25``."""
    width = settings.get("width", 1.0)  # a run of an earlier version has none
    return str(settings["arch"]) if width == 1 else f"{settings['arch']} width {width:g}"


def data_name(settings: Mapping[str, Any]) -> str:
    """Name of the data that settings ask for: ``fmnist``, ``fmnist (4000 images)``."""
    images = settings.get("train_images")
    return str(settings["dataset"]) if images is None else f"{settings['dataset']} ({images} images)"


@dataclass(frozen=True)
class Settings:
    """Everything that decides the outcome of a search; names and defaults are those of the published scripts.

    Attributes:
        method: one of :data:`METHODS`, or ``train``: a ticket trained again.
        arch, dataset: names of the network and the data.
        width: factor of the network's numbers of channels, see :func:`snn_sparse.build_model`.
        train_images: so many of the training images, see :meth:`snn_sparse.training.Dataset.fewer`; None: all.
        timestep: T.
        batch_size: images a step.
        end_iter: epochs of level 0 (IMP) or of each of the two trainings (EB).
        rewinding_epoch: survivors go back to their values after this many epochs of level 0; later levels train
            ``end_iter - rewinding_epoch`` epochs.
        prune_percent: share of the live weights pruned at each level, in percent.
        prune_iterations: number of levels, the dense one included.
        pruning_scope: ``global`` or ``local``.
        sparsity_round: index into :data:`SPARSITIES` for EB and SNIP.
        optimizer, scheduler, learning_rate, momentum, weight_decay: see :mod:`snn_sparse.training.optim`.
        seed, round: weights, order and augmentation derive from ``seed + round - 1``.
        valid_freq: test accuracy every so many epochs, and after the last.
        early_time_threshold: of the normalised divergence.
        neuron, bn_statistics: see :func:`snn_sparse.build_model`.
        precision: ``fp32``, or ``bf16``: forward pass and loss in bfloat16 (``torch.autocast``), in training and
            evaluation; weights, their updates and batch norm's statistics stay float32.
        backend: ``fused``: :func:`snn_sparse.fuse` the network and update live weights only; ``plain``: the reference.
        device: ``cpu``, ``cuda`` or ``cuda:1`` ...
        sync_statistics: on many processes, batch norm takes the statistics of the whole batch, not of each one's piece.
        deterministic: choose by rule how layers compute, without timing, so that another run gives the same bits.
        like: for method ``random``, and only there: the run or ticket whose layer densities the masks copy.
    """

    method: str = "imp"
    arch: str = "vgg16"
    dataset: str = "cifar10"
    timestep: int = 5
    batch_size: int = 128
    end_iter: int = 300
    rewinding_epoch: int = 20
    prune_percent: float = 25.0
    prune_iterations: int = 15
    pruning_scope: PruningScope = "global"
    sparsity_round: int = 0
    optimizer: OptimizerName = "sgd"
    scheduler: SchedulerName = "cosine"
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float | None = None
    seed: int = 1234
    round: int = 1
    valid_freq: int = 50
    early_time_threshold: float = 0.6
    neuron: str = "lif"
    bn_statistics: str = "per_step"
    precision: Precision = "fp32"
    backend: str = "fused"
    device: str = "cpu"
    sync_statistics: bool = False
    deterministic: bool = False
    like: str | None = None
    width: float = 1.0
    train_images: int | None = None

    def __post_init__(self) -> None:
        for name, allowed in (
            ("method", (*METHODS, "train")),
            ("arch", ARCHITECTURES),
            ("pruning_scope", get_args(PruningScope)),
            ("optimizer", get_args(OptimizerName)),
            ("scheduler", get_args(SchedulerName)),
            ("neuron", ("lif", "if", "plif", "relu")),
            ("precision", get_args(Precision)),
            ("backend", ("fused", "plain")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}: choose from {', '.join(allowed)}")
        check_statistics(self.bn_statistics)
        check_width(self.width)
        for name in ("timestep", "batch_size", "end_iter", "prune_iterations", "round", "valid_freq"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.timestep > MOST_TIMESTEPS:
            raise ValueError(f"timestep must be at most {MOST_TIMESTEPS}, got {self.timestep}")
        self._check_numbers()
        self._check_method()

    def _check_numbers(self) -> None:
        if not 0 < self.prune_percent < 100:
            raise ValueError(f"prune_percent must lie between 0 and 100, both excluded, got {self.prune_percent}")
        if not 0 <= self.sparsity_round < len(SPARSITIES):
            raise ValueError(f"sparsity_round must lie between 0 and {len(SPARSITIES) - 1}, got {self.sparsity_round}")
        for name in ("learning_rate", "early_time_threshold"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name} must be a positive number, got {getattr(self, name)}")
        if self.train_images is not None and self.train_images < 2:
            raise ValueError(f"train_images must be at least 2, for batch norm, got {self.train_images}")
        for name in ("momentum", "weight_decay"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must not be negative, got {value}")

    def _check_method(self) -> None:
        if self.method in ("imp", "imp+et", "transfer") and not 0 <= self.rewinding_epoch < self.end_iter:
            raise ValueError(
                f"rewinding_epoch must lie between 0 and end_iter - 1 = {self.end_iter - 1}, got {self.rewinding_epoch}"
            )
        if (self.method == "random") != (self.like is not None):
            raise ValueError("like (a run directory or ticket file) goes with method random, and only with it")
        if not self.early_time:
            return
        if self.timestep < 3:
            raise ValueError(f"timestep must be at least 3 for Early-Time tickets, got {self.timestep}")
        if self.end_iter < 3:
            raise ValueError(
                f"end_iter must be at least 3 for Early-Time tickets, which choose T after 2, got {self.end_iter}"
            )
        if self.method == "imp+et" and self.prune_iterations < 2:
            raise ValueError("prune_iterations must be at least 2 for imp+et: the last level runs at full T")

    @property
    def early_time(self) -> bool:
        """Whether the search runs at T_early."""
        return self.method.endswith("+et")

    @property
    def effective_seed(self) -> int:
        """Seed of this round: ``seed + round - 1``."""
        return self.seed + self.round - 1

    def as_dict(self) -> dict[str, Any]:
        """All settings, for ``config.json``."""
        return asdict(self)
