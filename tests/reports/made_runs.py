"""Small run directories made by hand: every figure of their reports can be worked out on paper."""

import json

import torch

from snn_sparse.tickets.mask import Mask
from snn_sparse.tickets.run_files import RunFiles
from snn_sparse.tickets.settings import Settings
from snn_sparse.tickets.ticket import Ticket


def small_mask(*alive):
    """Two layers, ``a`` of 2x4 filters of 3x3 and ``b`` of 2x2, dead but for those named: (layer, index...)."""
    tensors = {"a.weight": torch.zeros(2, 4, 3, 3), "b.weight": torch.zeros(2, 2)}
    for name, *index in alive:
        tensors[f"{name}.weight"][tuple(index)] = 1
    return Mask({name: value.bool() for name, value in tensors.items()})


DENSE = Mask({"a.weight": torch.ones(2, 4, 3, 3).bool(), "b.weight": torch.ones(2, 2).bool()})
# a: 3 of 72 alive, all in filter 1 and channels 0 and 2; b: 1 of 4, in filter 0 and channel 1
SPARSE = small_mask(("a", 1, 0, 0, 0), ("a", 1, 0, 2, 2), ("a", 1, 2, 1, 1), ("b", 0, 1))
A_DENSE = {"name": "a", "density": 100.0, "dead_filters": 0, "dead_channels": 0}
B_DENSE = {"name": "b", "density": 100.0, "dead_filters": 0, "dead_channels": 0}
A_SPARSE = {"name": "a", "density": 100 * 3 / 72, "dead_filters": 1, "dead_channels": 2}
B_SPARSE = {"name": "b", "density": 25.0, "dead_filters": 1, "dead_channels": 1}


def make_run(root, levels, environment=None, **settings):
    """Write a run directory.

    Args:
        root: where.
        levels: (mask, what ``meta`` says) of each.
        environment: as in ``config.json``.
        settings: of the search, as in :class:`Settings`.
    """
    files = RunFiles(root)
    like = {"like": "/elsewhere"} if settings.get("method") == "random" else {}
    s = Settings(**{"arch": "vgg_small", "dataset": "digits", **like, **settings})
    files.root.mkdir(parents=True)
    config = {"settings": s.as_dict(), "environment": environment or {"device": "abacus"}}
    (files.root / "config.json").write_text(json.dumps(config))
    for mask, meta in levels:
        files.finish_level(meta["level"], Ticket({}, mask, {}, {}, meta))
    return files.root


def meta(level, sparsity, accuracy, epochs, seconds, timesteps, early=None):
    return {
        "level": level,
        "sparsity": sparsity,
        "accuracy": accuracy,
        "epochs": epochs,
        "seconds": seconds,
        "timesteps": timesteps,
        "timesteps_early": early,
    }


def imp(root):
    """Two seeds of IMP, of nine timesteps in the search."""
    one = [
        (DENSE, meta(0, 0.0, 91.5, 7, 40.0, 6, None)),
        (SPARSE, meta(1, 94.7, 90.25, 5, 20.5, 9, 9)),
        (SPARSE, meta(2, 97.44, 88.0, 4, 30.0, 12, 9)),
    ]
    two = [
        (DENSE, meta(0, 0.0, 92.5, 7, 60.0, 6, None)),
        (SPARSE, meta(1, 94.7, 91.25, 5, 21.5, 9, 9)),
        (SPARSE, meta(2, 97.46, 83.0, 4, 3600.0, 12, 9)),
    ]
    options = {"method": "imp+et", "timestep": 12, "round": 3, "prune_iterations": 3}
    return [
        make_run(root / "imp1", one, seed=40, **options),
        make_run(root / "imp2", two, seed=41, **options),
    ]


def control(root):
    """One random control: its masks cost nothing to find."""
    levels = [(SPARSE, meta(1, 94.7, 70.0, 5, 10.0, 12)), (SPARSE, meta(2, 97.44, 60.0, 5, 11.0, 12))]
    return make_run(root / "random", levels, method="random", timestep=12, seed=40)


def long(root, levels):
    """One run of so many levels of 1 % each, down to a ten-thousandth of the weights and beyond."""
    made = [(SPARSE if n else DENSE, meta(n, 100 - 100 * 0.99**n, 90 - 0.05 * n, 5, 1.0, 5)) for n in range(levels)]
    return make_run(root / "long", made, method="imp", prune_percent=1.0, prune_iterations=levels)
