import sys
from pathlib import Path

import pytest

from snn_sparse.training import step

sys.path.insert(0, str(Path(__file__).parent))
from stand_in import StandIn


@pytest.fixture
def stand_in(monkeypatch):
    """Steps are captured by a stand-in for CUDA graphs."""
    monkeypatch.setattr(step, "CudaGraphs", StandIn)
    StandIn.reset()
