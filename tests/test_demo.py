"""The demo, cut short: every search runs, the second start runs nothing again, and the verdict is what was measured."""

import pytest

from snn_sparse import demo
from snn_sparse.cli import main


@pytest.mark.slow
def test_demo(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("snn_sparse.training.load_dataset", lambda name: tiny)
    monkeypatch.setattr(demo, "SEEDS", (1,))
    monkeypatch.setattr(demo, "COMMON", {**demo.COMMON, "end_iter": 3, "rewinding_epoch": 1, "prune_iterations": 2})
    assert main(["demo", "--out", str(tmp_path)]) == 0
    first = capsys.readouterr().out
    assert all(f"seed 1, {method}:" in first for method in demo.METHODS)
    assert (tmp_path / "report.html").exists()
    assert main(["demo", "--out", str(tmp_path)]) == 0
    again = capsys.readouterr().out
    assert again.count("finished before") == 9
    assert [x for x in first.splitlines() if "winning tickets reach" in x] == [
        x for x in again.splitlines() if "winning tickets reach" in x
    ]
