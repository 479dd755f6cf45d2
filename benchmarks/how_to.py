"""Say how a case or a provider is added to the benchmarks."""

import argparse
import textwrap

EXAMPLE = '''\
"""The rectifier of a layer of maps."""

import pytest
import torch

from benchmarks.conftest import Layer, Measure

PROVIDERS = {"relu": torch.relu, "clamp": lambda x: x.clamp_min(0)}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_rectifier(measure: Measure, layer: Layer, provider: str) -> None:
    """Nothing below zero."""

    def make():
        x = torch.randn(layer.shape)  # [T, N, C, H, W]
        return lambda: PROVIDERS[provider](x)

    measure(f"rectifier {layer}", provider, make)
'''

TEXT = f"""\
Two kinds of benchmarks. `pytest benchmarks` is for looking: quick, each provider by itself, one run against another.
What is claimed (README, docs) is a ratio of things timed in turn in one process: `python -m benchmarks CASE`.

A case of `pytest benchmarks`: a function in benchmarks/test_operators.py, test_masks.py or test_steps.py, or in a new
file benchmarks/test_*.py:

{textwrap.indent(EXAMPLE, "    ")}
`measure(case, provider, make)` times what `make()` returns; what has the same case stands side by side. `layer` runs
through --layers, `training` (network, T, batch) through --arch. What must not run on plain PyTorch says so in `make`:
benchmarks.refusals.insist("neuron", device="cpu", dtype=torch.float32, on="cpp").
Try it: pytest benchmarks -k rectifier

A provider of training steps, for both kinds: a line of PROVIDERS in benchmarks/providers.py.
A provider of neurons, for both kinds: a line of PROVIDERS in benchmarks/neuron.py.

A case that makes claims: a module in benchmarks/ with `add_flags(parser)` and `run(args)`, which times its providers
by timing.interleaved and returns rows (make_rows, ratios); its line in CASES of benchmarks/__main__.py; a test in
tests/benchmarks/.

Rows: `python -m benchmarks CASE` writes those of CASE to benchmarks/results/CASE.jsonl; those of pytest come by
    pytest benchmarks --benchmark-json build/bench.json
    python -m benchmarks rows build/bench.json
"""


def run(args: argparse.Namespace) -> int:
    """Print it."""
    print(TEXT, end="")
    return 0


def add_flags(parser: argparse.ArgumentParser) -> None:
    """No flags."""
