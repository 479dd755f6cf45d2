"""Every figure of a report against runs made by hand: report.json, the table, the page."""

import html
import json
import re
import sys
from pathlib import Path

import pytest

from snn_sparse.reports import HEADER, summarise, table_rows, write_report, write_summary
from snn_sparse.reports.compare import duration
from snn_sparse.reports.page import kept_together, layer_rows, level_rows, render
from snn_sparse.reports.story import BEST_HEADER, COST_HEADER, WHAT_A_TICKET_IS, best_rows, cost_rows
from snn_sparse.reports.summary import unfinished

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


@pytest.mark.parametrize(
    ("method", "levels", "of"),
    [("imp", 2, 3), ("imp", 3, None), ("imp+et", 1, 3), ("transfer", 1, 3), ("eb", 1, 2), ("eb+et", 2, None)]
    + [("snip", 1, None), ("train", 1, None), ("random", 1, None)],  # of the random one's model nothing is known
)
def test_runs_that_are_not_done_say_so(method, levels, of, tmp_path):
    made = [(SPARSE if n else DENSE, meta(n, 90.0, 50.0, 1, 1.0, 5)) for n in range(levels)]
    report = summarise(make_run(tmp_path / "r", made, method=method, prune_iterations=3, timestep=5))
    assert report.get("unfinished") == (None if of is None else {"levels": levels, "of": of})
    line = f"{method}, seed 1234: {levels} of {of} levels done"
    assert unfinished([report]) == ([] if of is None else [line])
    assert (f"Unfinished, with what is done so far: {line}." in render([report], {})) == (of is not None)


def test_a_random_control_is_done_with_its_models_levels(tmp_path):
    levels = [(SPARSE if n else DENSE, meta(n, 30.0 * n, 50.0, 1, 1.0, 5)) for n in range(3)]
    like = make_run(tmp_path / "imp", levels, prune_iterations=3)
    for name, done, asked, of in (
        ("a", levels[1:2], like, 2),
        ("b", levels[1:], like, None),
        ("c", levels[2:], like / "level_02" / "ticket.safetensors", None),
    ):
        report = summarise(make_run(tmp_path / name, done, method="random", like=str(asked)))
        assert report.get("unfinished") == (None if of is None else {"levels": 1, "of": of})


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
    tables = re.findall(r"<table.*?>(.*?)</table>", fragment, re.DOTALL)
    rows = [re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL) for table in tables]
    return [[tuple(map(html.unescape, re.findall(r"<t[hd]>(.*?)</t[hd]>", r, re.DOTALL))) for r in t] for t in rows]


def test_page_shows_the_tables(reports):
    page = render(reports, {})
    best, cost, every, *of_runs = cells(page)
    assert best == [BEST_HEADER, *broken(best_rows(reports))]
    assert cost == [COST_HEADER, *broken(cost_rows(reports))]
    assert every == [HEADER, *ROWS]
    assert len(of_runs) == 2 * len(reports)
    for report, levels, layers in zip(reports, of_runs[::2], of_runs[1::2], strict=True):
        assert levels[0] == ("level", "sparsity", "accuracy", "T", "epochs", "time", "dead filters", "dead channels")
        assert levels[1:] == level_rows(report)
        assert layers[0] == ("layer", "live weights", "dead filters", "dead channels")
        assert layers[1:] == layer_rows(report)
    text = " ".join(re.sub(r"<[^>]*>", " ", page).split())
    assert f"Winning tickets: vgg_small on digits {WHAT_A_TICKET_IS}" in text
    assert "T = 12 timesteps; abacus. Accuracy is" in text
    assert re.findall(r"<summary>(.*?)</summary>", page) == ["imp+et, seed 42", "imp+et, seed 43", "random, seed 40"]
    assert "nfinished" not in page


def broken(rows):
    """Rows as the page has them: a number and its unit stay on one line."""
    return [tuple(map(kept_together, row)) for row in rows]


def test_numbers_keep_their_units():
    assert (
        kept_together("15 epochs, 56 % fewer, 3.5 s")
        == "15 epochs, 56\N{NO-BREAK SPACE}% fewer, 3.5\N{NO-BREAK SPACE}s"
    )


def test_networks_and_data_sets_have_parts_of_their_own(reports):
    other = [{**report, "settings": {**report["settings"], "arch": "vgg16", "width": 0.5}} for report in reports]
    page = render([*reports, *other], {})
    assert re.findall(r"<h2>(vgg.*?)</h2>", page) == ["vgg_small on digits", "vgg16 width 0.5 on digits"]
    assert "<h1>Winning tickets: vgg_small, vgg16 width 0.5 on digits</h1>" in page
    best, other_best, cost, other_cost, *_ = cells(page)
    assert (best, cost) == (other_best, other_cost)  # each as if alone, though the labels of the whole name the network


def test_page_lists_settings_and_environment(tmp_path):
    levels = [(DENSE, meta(0, 0.0, 50.0, 1, 30.0, 5))]
    run = make_run(tmp_path / "r", levels, {"device": "abacus", "torch": "2", "commit": None}, momentum=0.75)
    page = render([summarise(run)], {})
    assert "Environment: device abacus, torch 2</p>" in page
    listed = re.search(r"Settings: (.*?)</p>", page)[1]
    assert listed.startswith("method imp, arch vgg_small, dataset digits, timestep 5, batch_size 128, ")
    assert "momentum 0.75, seed 1234, " in listed
    assert listed.endswith("backend fused, device cpu, sync_statistics False, deterministic False, width 1.0")
    assert "weight_decay" not in listed


def test_page_is_escaped_and_stands_alone(tmp_path):
    levels = [(DENSE, meta(0, 0.0, 50.0, 1, 30.0, 5))]
    report = summarise(make_run(tmp_path / "r", levels, {"device": "<img src=http://a/b.png> & 'co'"}))
    page = write_report([{**report, "method": "<b>"}], tmp_path / "out").read_text()
    assert "<img src=http" not in page
    assert "&lt;img src=http://a/b.png&gt; &amp; " in page
    assert "<b>" in [row[0] for table in cells(page) for row in table]
    assert "<b>" not in page
    assert {target[0] for target in re.findall(r"(?:src|href)=\"(.+?)\"", page)} == {"#"}  # nothing is fetched
    assert "@import" not in page
    assert "url(" not in page.replace("url(#", "")
    assert "prefers-color-scheme: dark" in page
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
