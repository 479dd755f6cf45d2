import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import snn_sparse as ss
from snn_sparse.reports import layer_summary, table_rows, text_table, write_report, write_summary
from snn_sparse.reports.compare import duration, points
from snn_sparse.reports.plots import PLOTS

sys.path.insert(0, str(Path(__file__).parents[1] / "tickets"))
from searching import run


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for seed in (1, 2):
        run(tiny, root / f"imp{seed}", method="imp", end_iter=2, prune_iterations=2, seed=seed)
    run(tiny, root / "eb<&", method="eb+et", end_iter=3)
    return root


def test_layer_summary_counts_dead_filters_and_channels():
    alive = torch.zeros(3, 4, 3, 3, dtype=torch.bool)
    alive[0, 1, 2, 2] = alive[0, 3, 0, 0] = alive[2, 1, 1, 1] = True
    linear = torch.tensor([[True, False], [False, False]])
    assert layer_summary(ss.Mask({"a.weight": alive, "b.weight": linear})) == [
        {"name": "a", "density": pytest.approx(300 / 108), "dead_filters": 1, "dead_channels": 2},
        {"name": "b", "density": 25.0, "dead_filters": 1, "dead_channels": 1},
    ]


def test_summary_has_the_agreed_fields(runs):
    report = write_summary(runs / "imp1")
    assert report == json.loads((runs / "imp1" / "report.json").read_text())
    agreed = {"method", "arch", "dataset", "timesteps", "timesteps_early", "device", "seed", "seconds", "levels"}
    assert agreed <= report.keys()
    assert report["timesteps_early"] is None
    level = report["levels"][1]
    assert level.keys() == {"level", "sparsity", "accuracy", "epochs", "seconds", "timesteps", "layers"}
    assert level["layers"][0].keys() == {"name", "density", "dead_filters", "dead_channels"}
    assert level["sparsity"] == pytest.approx(50, abs=0.1)
    assert report["seconds"] == pytest.approx(sum(x["seconds"] for x in report["levels"]))
    assert write_summary(runs / "eb<&")["timesteps_early"] in (2, 3, 4)


def test_page_and_plots(runs, tmp_path):
    reports = [write_summary(p) for p in sorted(runs.iterdir())]
    page = write_report(reports, tmp_path)
    text = page.read_text()
    for name, (title, _) in PLOTS.items():
        with Image.open(tmp_path / f"{name}.png") as image:
            assert min(image.size) > 400
            assert len(image.convert("L").getcolors()) > 20
        assert title in text
    assert text.count("data:image/png;base64,") == len(PLOTS)
    assert "http" not in text  # self-contained
    assert f"{reports[0]['levels'][0]['accuracy']:.2f}" in text


def test_seeds_are_put_together(runs):
    reports = [write_summary(runs / f"imp{seed}") for seed in (1, 2)]
    line = points(reports)
    assert [len(p.accuracies) for p in line] == [2, 2]
    assert line[1].accuracy == pytest.approx(sum(r["levels"][1]["accuracy"] for r in reports) / 2)
    table = text_table(("a", "b"), [("xxx", "1"), ("y", "22")])
    assert table.splitlines() == ["a     b", "---  --", "xxx   1", "y    22"]
    assert len(table_rows(reports)) == 2


def test_duration():
    assert [duration(s) for s in (3.21, 59.9, 60, 125.4, 3725)] == ["3.2 s", "59.9 s", "1:00", "2:05", "1:02:05"]


def test_not_a_run(tmp_path):
    with pytest.raises(ValueError, match="no run directory"):
        write_summary(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        write_summary(tmp_path)
    (tmp_path / "config.json").write_text('{"settings": {}}')
    with pytest.raises(ValueError, match="no finished level"):
        write_summary(tmp_path)
