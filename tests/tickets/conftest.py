import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from searching import run


@pytest.fixture(scope="session")
def imp(tiny, tmp_path_factory):
    """A finished search, which no test changes."""
    return run(tiny, tmp_path_factory.mktemp("imp") / "run", method="imp")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The Hugging Face Hub as a folder, empty."""
    huggingface_hub = pytest.importorskip("huggingface_hub")
    from fake_hub import FakeHub

    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", fake.make_api)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fake.download)
    return fake
