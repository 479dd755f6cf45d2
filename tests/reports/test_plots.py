"""Plots by what their axes hold: lines, bands, bars, labels and ticks."""

import base64
import io
import re
import sys
from pathlib import Path
from statistics import stdev

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from snn_sparse.reports import plots, summarise, write_report

sys.path.insert(0, str(Path(__file__).parent))
import made_runs


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return [summarise(run) for run in (*made_runs.imp(root), made_runs.control(root))]


@pytest.fixture
def axes():
    return Figure().subplots()


def hexed(colour):
    return mpl.colors.to_hex(colour).upper()


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_accuracy_against_sparsity(axes, reports):
    plots.accuracy_against_sparsity(axes, reports)
    imp, random = axes.lines
    assert imp.get_xdata() == pytest.approx([100, 5.3, 2.55])  # weights left
    assert list(imp.get_ydata()) == [92.0, 90.75, 85.5]  # means
    assert random.get_xdata() == pytest.approx([5.3, 2.56])
    assert list(random.get_ydata()) == [70.0, 60.0]
    assert [hexed(line.get_color()) for line in axes.lines] == [plots.COLOURS["imp+et"], plots.COLOURS["random"]]
    band = {tuple(np.round(v, 6)) for v in axes.collections[0].get_paths()[0].vertices}
    means = [(100, 92, 91.5, 92.5), (5.3, 90.75, 90.25, 91.25), (2.55, 85.5, 83, 88)]
    ends = {(float(x), round(y + s * stdev(seeds), 6)) for x, y, *seeds in means for s in (-1, 1)}
    assert band == ends
    assert legend(axes) == ["imp+et (2)", "random (1)"]
    assert axes.get_xscale() == "log"
    left, right = axes.get_xlim()
    assert left > right  # sparser to the right
    assert [t.get_text() for t in axes.get_xticklabels()] == ["97.45", "94.7", "0"]
    assert axes.get_xticks() == pytest.approx([2.55, 5.3, 100])
    assert (axes.get_xlabel(), axes.get_ylabel()) == (
        "weights pruned (%)",
        "test accuracy (%), mean ± standard deviation",
    )


def test_ticks_keep_apart():
    assert plots._spread([1.0, 1.3, 1.36, 2.0, 15.0]) == [1.0, 1.36, 2.0, 15.0]
    many = plots._spread([1.01**k for k in range(1000)])
    assert many[0] == 1.0
    assert 8 <= len(many) <= plots.TICKS + 1
    assert plots._spread([]) == []


@pytest.mark.parametrize(
    ("left", "text"), [(100, "0"), (25, "75"), (5.3, "94.7"), (2.56, "97.44"), (0.0523, "99.948"), (0.001, "99.999")]
)
def test_ticks_tell_themselves_from_100(left, text):
    assert plots._pruned(left) == text


def test_a_long_line_has_no_markers_and_few_ticks(axes, tmp_path):
    plots.accuracy_against_sparsity(axes, [summarise(made_runs.long(tmp_path, 300))])
    (line,) = axes.lines
    assert len(line.get_xdata()) == 300
    assert line.get_marker() == "None"
    labels = [t.get_text() for t in axes.get_xticklabels()]
    assert len(labels) == len(set(labels)) <= plots.TICKS + 1


def test_nothing_left_is_nowhere_on_a_logarithm(axes, reports):
    levels = [{**level, "sparsity": 100.0} for level in reports[2]["levels"]]
    plots.accuracy_against_sparsity(axes, [reports[0], {**reports[2], "levels": levels}])
    assert [len(line.get_xdata()) for line in axes.lines] == [3, 0]


def test_labels_of_one_method_are_told_apart(axes, reports):
    other = {**reports[0], "settings": {**reports[0]["settings"], "early_time_threshold": 0.4}, "seed": 1}
    plots.accuracy_against_sparsity(axes, [*reports, other])
    assert legend(axes) == ["imp+et threshold 0.6 (2)", "random (1)", "imp+et threshold 0.4 (1)"]
    full, random, pale = axes.lines
    assert [hexed(full.get_color()), hexed(random.get_color())] == [plots.COLOURS["imp+et"], plots.COLOURS["random"]]
    assert sum(pale.get_color()) > sum(full.get_color())
    assert pale.get_marker() != full.get_marker()


def test_layers_of_different_networks_stand_apart(axes, reports):
    last = {**reports[2]["levels"][-1], "layers": [{**reports[2]["levels"][-1]["layers"][0], "name": "c"}]}
    plots.density_by_layer(axes, [reports[0], {**reports[2], "levels": [last]}])
    assert [t.get_text() for t in axes.get_xticklabels()] == ["a", "b", "c"]
    assert [bar.get_x() for bar in axes.containers[1]] == pytest.approx([2])


def test_density_is_that_of_the_sparsest_runs(axes, reports):
    dense = {**reports[0], "levels": reports[0]["levels"][:1]}
    plots.density_by_layer(axes, [dense, reports[1]])
    assert [bar.get_height() for bar in axes.containers[0]] == pytest.approx([100 * 3 / 72, 25.0])


@pytest.mark.parametrize("labels", [10, 11, 60])
def test_many_labels_have_room(labels, reports):
    made = [{**reports[0], "settings": {**reports[0]["settings"], "momentum": 0.01 * k}} for k in range(labels)]
    for name in plots.PLOTS:
        with Image.open(io.BytesIO(plots.draw(name, made))) as image:
            assert (image.size == (1008, 588)) == (labels <= plots.LISTED)
            assert image.height >= 588


def test_density_by_layer(axes, reports):
    last = [dict(layer) for layer in reports[1]["levels"][-1]["layers"]]
    last[0]["density"], last[1]["density"] = 100 * 5 / 72, 75.0
    other = {**reports[1], "levels": [*reports[1]["levels"][:-1], {**reports[1]["levels"][-1], "layers": last}]}
    plots.density_by_layer(axes, [reports[0], other, reports[2]])
    imp, random = axes.containers
    assert [bar.get_height() for bar in imp] == pytest.approx([100 * 4 / 72, 50.0])  # means of two seeds
    assert [bar.get_height() for bar in random] == pytest.approx([100 * 3 / 72, 25.0])
    assert [bar.get_x() + bar.get_width() for bar in imp] == pytest.approx([0, 1])  # side by side around the tick
    assert [bar.get_x() for bar in random] == pytest.approx([0, 1])
    assert [hexed(bars[0].get_facecolor()) for bars in axes.containers] == [
        plots.COLOURS["imp+et"],
        plots.COLOURS["random"],
    ]
    assert list(axes.get_xticks()) == [0, 1]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["a", "b"]
    assert axes.get_yscale() == "log"
    assert axes.get_ylabel() == "live weights at the last level (%)"
    assert legend(axes) == ["imp+et", "random"]


def test_search_time(axes, reports):
    plots.search_time(axes, reports)
    search, rest = axes.containers
    assert [bar.get_width() for bar in search] == pytest.approx([71.0, 0.0])  # (60.5 + 81.5) / 2
    assert [bar.get_width() for bar in rest] == pytest.approx([1815.0, 21.0])  # (30 + 3600) / 2
    assert [bar.get_x() for bar in rest] == pytest.approx([71.0, 0.0])
    assert [t.get_text() for t in axes.get_yticklabels()] == ["imp+et", "random"]
    assert [(t.get_position(), t.get_text()) for t in axes.texts] == [((1886.0, 0), " 1886 s"), ((21.0, 1), " 21 s")]
    bottom, top = axes.get_ylim()
    assert bottom > top  # in the order of the table
    assert "seconds" in axes.get_xlabel()


def test_every_method_has_its_own_colour():
    from snn_sparse.tickets.settings import METHODS

    assert set(METHODS) <= plots.COLOURS.keys()
    assert len(set(plots.COLOURS.values())) == len(plots.COLOURS)


def test_files_and_page_hold_the_same_plots(reports, tmp_path):
    page = write_report(reports, tmp_path).read_text()
    figures = re.findall(r'<h2>(.*?)</h2>\s*<img alt="(.*?)" src="data:image/png;base64,(.*?)">', page)
    assert [f[0] for f in figures] == ["Accuracy against sparsity", "Density by layer", "Search time"]
    drawn = []
    for (title, alt, data), name in zip(figures, ("accuracy", "density", "time"), strict=True):
        assert alt == title == plots.PLOTS[name][0]
        drawn.append(base64.b64decode(data))
        assert drawn[-1] == (tmp_path / f"{name}.png").read_bytes()
        with Image.open(io.BytesIO(drawn[-1])) as image:
            assert image.size == (1008, 588)
    assert len(set(drawn)) == 3
