"""Drawing, comparing and applying masks of a whole network."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch.nn.utils import prune

import snn_sparse as ss
from benchmarks.conftest import Measure, Training


def _network(training: Training) -> tuple[torch.nn.Module, ss.Mask]:
    model = ss.build_model(training.arch)
    return model, ss.Mask.dense(model)


@pytest.mark.parametrize("provider", ["torch.nn.utils.prune", "snn_sparse"])
def test_global_magnitude(measure: Measure, training: Training, provider: str) -> None:
    """A quarter of the weights pruned by magnitude, one threshold for all layers."""
    model, mask = _network(training)

    def by_torch() -> torch.Tensor:
        weights = torch.cat([model.get_parameter(name).detach().flatten() for name in mask])
        return prune.L1Unstructured(0.25).compute_mask(weights, torch.ones_like(weights))

    ours: Callable[[], object] = partial(ss.prune_magnitude, model, mask, 25.0)
    measure(f"prune 25 % of {training.arch}", provider, lambda: ours if provider == "snn_sparse" else by_torch)


@pytest.mark.parametrize("provider", ["local", "one shot", "random", "distance", "apply"])
def test_mask(measure: Measure, training: Training, provider: str) -> None:
    """What else searches do with masks."""
    model, mask = _network(training)
    sparse = ss.magnitude_mask(model, 90.0)
    actions: dict[str, Callable[[], object]] = {
        "local": partial(ss.prune_magnitude, model, mask, 25.0, "local"),
        "one shot": partial(ss.magnitude_mask, model, 90.0),
        "random": partial(ss.random_mask, sparse),
        "distance": partial(ss.mask_distance, mask, sparse),
        "apply": partial(sparse.apply_, model),
    }
    measure(f"masks of {training.arch}", provider, lambda: actions[provider])
