"""Every figure of a report against runs made by hand: report.json, the table, the page."""

import html
import json
import re
import sys
from pathlib import Path

import pytest

from snn_sparse.reports import HEADER, summarise, table_rows, write_report, write_summary
from snn_sparse.reports.compare import duration
from snn_sparse.reports.page import layer_rows, level_rows, render

sys.path.insert(0, str(Path(__file__).parent))
import made_runs
from made_runs import A_DENSE, A_SPARSE, B_DENSE, B_SPARSE, DENSE, SPARSE, make_run, meta


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return [*made_runs.imp(root), made_runs.control(root)]


@pytest.fixture(scope="module")
def reports(runs):
    return [summarise(run) for run in runs]


def approx(levels):
    return [{k: pytest.approx(v) if k == "density" else v for k, v in layer.items()} for layer in levels]


def test_summary_figure_by_figure(reports, runs):
    report = dict(reports[0])
    settings = report.pop("settings")
    assert settings == json.loads((runs[0] / "config.json").read_text())["settings"]
    assert report == {
        "method": "imp+et",
        "arch": "vgg_small",
        "dataset": "digits",
        "timesteps": 12,
        "timesteps_early": 9,
        "device": "abacus",
        "seed": 42,  # seed 40, round 3
        "seconds": 90.5,
        "search_seconds": 60.5,  # all but the last level's 30 s
        "levels": [
            {**self_made(0, 0.0, 91.5, 7, 40.0, 6), "layers": [A_DENSE, B_DENSE]},
            {**self_made(1, 94.7, 90.25, 5, 20.5, 9), "layers": approx([A_SPARSE, B_SPARSE])},
            {**self_made(2, 97.44, 88.0, 4, 30.0, 12), "layers": approx([A_SPARSE, B_SPARSE])},
        ],
        "environment": {"device": "abacus"},
    }


def self_made(*figures):
    return {k: v for k, v in meta(*figures).items() if k != "timesteps_early"}


@pytest.mark.parametrize("method", ["random", "snip", "train"])
def test_masks_that_cost_no_search(method, tmp_path):
    run = make_run(tmp_path / "r", [(SPARSE, meta(n, 90.0, 50.0, 1, 10.0 + n, 5)) for n in (1, 2)], method=method)
    report = summarise(run)
    assert (report["seconds"], report["search_seconds"]) == (23.0, 0.0)
    assert report["timesteps_early"] is None


@pytest.mark.parametrize(("method", "searching"), [("imp", 30.0), ("eb", 30.0), ("transfer", 30.0)])
def test_masks_that_cost_a_search(method, searching, tmp_path):
    levels = [(DENSE, meta(0, 0.0, 50.0, 1, 30.0, 5)), (SPARSE, meta(1, 90.0, 50.0, 1, 7.0, 5))]
    report = summarise(make_run(tmp_path / "r", levels, method=method))
    assert (report["seconds"], report["search_seconds"]) == (37.0, searching)


def test_unfinished_levels_are_left_out(tmp_path):
    run = make_run(tmp_path / "r", [(DENSE, meta(0, 0.0, 50.0, 1, 30.0, 5))])
    (run / "level_01").mkdir()
    (run / "level_01" / "checkpoint.pt").write_bytes(b"")
    assert [level["level"] for level in summarise(run)["levels"]] == [0]


def test_summary_is_written(runs):
    assert write_summary(runs[0]) == json.loads((runs[0] / "report.json").read_text()) == summarise(runs[0])


ROWS = [
    # means of two seeds; searches of 60.5 and 81.5 s, runs of 90.5 and 3681.5 s
    ("imp+et", "2", "0.00 %", "92.00 ± 0.71 %", "9", "1:11", "31:26"),
    ("", "2", "94.70 %", "90.75 ± 0.71 %", "", "", ""),
    ("", "2", "97.45 %", "85.50 ± 3.54 %", "", "", ""),
    ("random", "1", "94.70 %", "70.00 %", "12", "0.0 s", "21.0 s"),
    ("", "1", "97.44 %", "60.00 %", "", "", ""),
]


def test_table_cell_by_cell(reports):
    assert HEADER == ("method", "seeds", "sparsity", "accuracy", "T search", "search", "total")
    assert table_rows(reports) == ROWS


def test_rows_of_a_run(reports):
    assert level_rows(reports[1]) == [
        ("0", "0.00 %", "92.50 %", "6", "7", "1:00", "0", "0"),
        ("1", "94.70 %", "91.25 %", "9", "5", "21.5 s", "2", "3"),
        ("2", "97.46 %", "83.00 %", "12", "4", "1:00:00", "2", "3"),
    ]
    assert layer_rows(reports[1]) == [("a", "4.17 %", "1", "2"), ("b", "25.00 %", "1", "1")]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (3.21, "3.2 s"), (59.94, "59.9 s"), (59.96, "1:00"), (60, "1:00"), (125.4, "2:05"), (125.6, "2:06")]
    + [(3599.4, "59:59"), (3599.6, "1:00:00"), (3725, "1:02:05"), (36000, "10:00:00")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def cells(fragment):
    """Rows of cells of each table in a piece of HTML."""
    tables = re.findall(r"<table>(.*?)</table>", fragment, re.DOTALL)
    rows = [re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL) for table in tables]
    return [[tuple(map(html.unescape, re.findall(r"<t[hd]>(.*?)</t[hd]>", r, re.DOTALL))) for r in t] for t in rows]


def test_page_shows_the_tables(reports):
    page = render(reports, {})
    tables = cells(page)
    assert len(tables) == 1 + 2 * len(reports)
    assert tables[0] == [HEADER, *ROWS]
    for report, levels, layers in zip(reports, tables[1::2], tables[2::2], strict=True):
        assert levels[0] == ("level", "sparsity", "accuracy", "T", "epochs", "time", "dead filters", "dead channels")
        assert levels[1:] == level_rows(report)
        assert layers[0] == ("layer", "live weights", "dead filters", "dead channels")
        assert layers[1:] == layer_rows(report)
    text = " ".join(re.sub(r"<[^>]*>", " ", page).split())
    assert "Winning tickets: vgg_small on digits T = 12 timesteps; abacus. Accuracy is" in text
    assert re.findall(r"<summary>(.*?)</summary>", page) == ["imp+et, seed 42", "imp+et, seed 43", "random, seed 40"]


def test_page_lists_settings_and_environment(tmp_path):
    levels = [(DENSE, meta(0, 0.0, 50.0, 1, 30.0, 5))]
    run = make_run(tmp_path / "r", levels, {"device": "abacus", "torch": "2", "commit": None}, momentum=0.75)
    page = render([summarise(run)], {})
    assert "Environment: device abacus, torch 2</p>" in page
    listed = re.search(r"Settings: (.*?)</p>", page)[1]
    assert listed.startswith("method imp, arch vgg_small, dataset digits, timestep 5, batch_size 128, ")
    assert "momentum 0.75, seed 1234, " in listed
    assert listed.endswith("backend fused, device cpu")
    assert "weight_decay" not in listed


def test_page_is_escaped_and_stands_alone(tmp_path):
    levels = [(DENSE, meta(0, 0.0, 50.0, 1, 30.0, 5))]
    report = summarise(make_run(tmp_path / "r", levels, {"device": "<img src=http://a/b.png> & 'co'"}))
    page = write_report([{**report, "method": "<b>"}], tmp_path / "out").read_text()
    assert "<img src=http" not in page
    assert "&lt;img src=http://a/b.png&gt; &amp; " in page
    assert cells(page)[0][1][0] == "<b>"
    assert "<b>" not in page
    assert re.findall(r"(?:src|href)=\"(.{5})", page) == ["data:"] * 3  # the plots; nothing is fetched
    assert "@import" not in page
    assert "url(" not in page
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
    assert page.startswith("<!doctype html>")


def test_not_a_run(tmp_path):
    with pytest.raises(ValueError, match="no run directory"):
        write_summary(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        write_summary(tmp_path)
    (tmp_path / "config.json").write_text('{"settings": {}}')
    with pytest.raises(ValueError, match="no finished level"):
        write_summary(tmp_path)
