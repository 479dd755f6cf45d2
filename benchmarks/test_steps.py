"""Training steps on a CPU: forward, loss, backward, SGD."""

import pytest

from benchmarks.conftest import Measure, Training
from benchmarks.memory import SETTLING_STEPS
from benchmarks.providers import PROVIDERS, Step, make_step, prepare

STEPS = {p.name: p for p in PROVIDERS if p.device == "cpu"}


@pytest.mark.parametrize("provider", STEPS)
def test_step(measure: Measure, training: Training, provider: str) -> None:
    """One step of one provider, as the table of ``providers.py`` says."""

    def make() -> Step:
        step = make_step(STEPS[provider], prepare(training.arch, training.timesteps, training.images, "cpu"))
        for _ in range(SETTLING_STEPS):
            step()
        return step

    measure(f"train-step {training}", provider, make)
