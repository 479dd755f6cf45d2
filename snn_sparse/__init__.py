"""snn_sparse: find, train and cheapen the winning tickets of deep spiking neural networks.

See the README for a tour; ``snn-sparse --help`` for the command line. Names below are imported when first used, so that
``import snn_sparse`` costs next to nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

from snn_sparse.version import __version__

if TYPE_CHECKING:
    from snn_sparse import models, nn, ops, tickets, training
    from snn_sparse.fusion import explain, fuse, unfuse
    from snn_sparse.fusion.nir import from_nir, to_nir
    from snn_sparse.models import build_model
    from snn_sparse.ops import backend_report, predict, temporal_cross_entropy
    from snn_sparse.specs import NeuronSpec
    from snn_sparse.tickets import (
        Mask,
        Ticket,
        TicketError,
        early_timestep,
        magnitude_mask,
        mask_distance,
        prune_magnitude,
        pull_ticket,
        push_ticket,
        random_mask,
        snip_mask,
    )
    from snn_sparse.training import TrainStep, live_optimizer
    from snn_sparse.training.profile import NetworkProfile, profile_network

_NAMES = {
    "snn_sparse.fusion": ("explain", "fuse", "unfuse"),
    "snn_sparse.fusion.nir": ("from_nir", "to_nir"),
    "snn_sparse.models": ("build_model",),
    "snn_sparse.ops": ("backend_report", "predict", "temporal_cross_entropy"),
    "snn_sparse.specs": ("NeuronSpec",),
    "snn_sparse.tickets": (
        "Mask",
        "Ticket",
        "TicketError",
        "early_timestep",
        "magnitude_mask",
        "mask_distance",
        "prune_magnitude",
        "pull_ticket",
        "push_ticket",
        "random_mask",
        "snip_mask",
    ),
    "snn_sparse.training": ("TrainStep", "live_optimizer"),
    "snn_sparse.training.profile": ("NetworkProfile", "profile_network"),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}
_MODULES = ("models", "nn", "ops", "tickets", "training")

__all__ = [
    "Mask",
    "NetworkProfile",
    "NeuronSpec",
    "Ticket",
    "TicketError",
    "TrainStep",
    "__version__",
    "backend_report",
    "build_model",
    "early_timestep",
    "explain",
    "from_nir",
    "fuse",
    "live_optimizer",
    "magnitude_mask",
    "mask_distance",
    "models",
    "nn",
    "ops",
    "predict",
    "profile_network",
    "prune_magnitude",
    "pull_ticket",
    "push_ticket",
    "random_mask",
    "snip_mask",
    "temporal_cross_entropy",
    "tickets",
    "to_nir",
    "training",
    "unfuse",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"snn_sparse.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'snn_sparse' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
