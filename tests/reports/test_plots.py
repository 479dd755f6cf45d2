"""Plots by what their axes hold: lines, bands, bars, labels and ticks."""

import io
import re
import sys
from pathlib import Path
from statistics import stdev
from xml.etree import ElementTree

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
    assert axes.yaxis.get_major_formatter()(92.5) == "92.5 %"
    assert (axes.get_xlabel(), axes.get_ylabel()) == (
        "weights pruned (%)",
        "test accuracy, mean ± standard deviation",
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
    assert axes.get_ylabel() == "live weights at the last level"
    assert axes.yaxis.get_major_formatter()(0.1) == "0.1 %"
    assert axes.yaxis.get_minor_formatter()(20.0) == ""
    assert axes.get_ylim() == (1.0, 100.0)  # below the 4.17 % of the smallest bar
    assert legend(axes) == ["imp+et", "random"]


@pytest.mark.parametrize(("density", "low"), [(100.0, 10.0), (10.0, 1.0), (9.9, 1.0), (0.011, 0.01), (0.0, 10.0)])
def test_bars_stand_on_a_power_of_ten_below_the_smallest(density, low, axes, reports):
    layers = [{**layer, "density": density} for layer in reports[0]["levels"][-1]["layers"]]
    plots.density_by_layer(axes, [{**reports[0], "levels": [{**reports[0]["levels"][-1], "layers": layers}]}])
    assert axes.get_ylim() == (pytest.approx(low), 100.0)


def test_search_time(axes, reports):
    plots.search_time(axes, reports)
    search, rest = axes.containers
    assert [bar.get_width() * 60 for bar in search] == pytest.approx([0.0, 71.0])  # (60.5 + 81.5) / 2
    assert [bar.get_width() * 60 for bar in rest] == pytest.approx([21.0, 1815.0])  # (30 + 3600) / 2
    assert [bar.get_x() * 60 for bar in rest] == pytest.approx([0.0, 71.0])
    assert [t.get_text() for t in axes.get_yticklabels()] == ["random", "imp+et"]
    assert [t.get_text() for t in axes.texts] == ["21.0 s", "31.4 min"]
    assert [t.xy for t in axes.texts] == [(pytest.approx(21 / 60), 0), (pytest.approx(1886 / 60), 1)]
    bottom, top = axes.get_ylim()
    assert bottom > top  # the quickest on top
    assert axes.get_xlabel().startswith("minutes")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (99.94, "99.9 s"), (119.9, "120 s"), (120, "2.0 min"), (7199, "120 min"), (7200, "2.0 h")]
    + [(187_200, "52.0 h"), (720_000, "200 h")],
)
def test_time_in_one_unit(seconds, text):
    assert plots.time_text(seconds) == text


def test_every_method_has_its_own_colour():
    from snn_sparse.tickets.settings import METHODS

    assert set(METHODS) <= plots.COLOURS.keys()
    assert len(set(plots.COLOURS.values())) == len(plots.COLOURS)


def test_the_files_are_png(reports, tmp_path):
    write_report(reports, tmp_path)
    drawn = [(tmp_path / f"{name}.png").read_bytes() for name in plots.PLOTS]
    for data, height in zip(drawn, (588, 588, 350), strict=True):  # two bars of time need less room
        with Image.open(io.BytesIO(data)) as image:
            assert image.size == (1008, height)
    assert len(set(drawn)) == 3


SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("name", plots.PLOTS)
def test_a_plot_in_a_page_takes_its_colour_and_width(name, reports):
    for narrow, width in ((False, 7.2), (True, 3.7)):
        text = plots.draw_svg(name, reports, narrow)
        root = ElementTree.fromstring(text)
        assert root.get("aria-label") == plots.PLOTS[name][0]
        assert root.get("width") is root.get("height") is None  # the page decides
        assert float(root.get("viewBox").split()[2]) == pytest.approx(72 * width)
        assert "currentColor" in text
        assert plots.INK not in text
        assert "#000000" not in text
        assert "#ffffff" not in text.lower()  # no ground of its own
        words = [t.text for t in root.iter(f"{SVG}text")]  # text, not outlines
        assert any("imp+et" in word for word in words)
        assert plots.PLOTS[name][0] not in words  # the page says it


def test_plots_of_one_page_share_no_names(reports):
    drawn = [plots.draw_svg(name, reports, narrow) for name in plots.PLOTS for narrow in (False, True)]
    names = [set(re.findall(r'\bid="(.*?)"', text)) for text in drawn]
    assert sum(map(len, names)) == len(set.union(*names))
    for text, own in zip(drawn, names, strict=True):
        assert set(re.findall(r'(?:href="#|url\(#)(.*?)[")]', text)) <= own


def test_a_plot_is_the_same_every_time(reports):
    assert plots.draw_svg("accuracy", reports) == plots.draw_svg("accuracy", reports)
