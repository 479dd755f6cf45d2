"""What every interpreted test runs under; ``TRITON_INTERPRET=1 pytest tests`` collects ``interpreted_*.py`` alone.

Triton reads the variable when it decorates, so they run in processes of their own: ``test_interpreter.py`` starts them.
"""

import numpy as np
import pytest
import torch
from interpreter.hardware import compute_as_hardware, shuffle_programs
from interpreter.memory import watch_memory


def pytest_configure(config):
    config.getini("python_files")[:] = ["interpreted_*.py"]


@pytest.fixture(autouse=True)
def _interpreter(_fresh_seed, monkeypatch):
    compute_as_hardware(monkeypatch)
    shuffle_programs(monkeypatch, np.random.default_rng(torch.initial_seed()))
    watch_memory(monkeypatch)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(int(torch.randint(2**31, ()).item()))
