import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from searching import run


@pytest.fixture(scope="session")
def imp(tiny, tmp_path_factory):
    """A finished search, which no test changes."""
    return run(tiny, tmp_path_factory.mktemp("imp") / "run", method="imp")
