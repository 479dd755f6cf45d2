"""Runs beside the published table, and findings that hold, fail or stay open; on runs that are made up."""

import random
import sys
from itertools import product
from pathlib import Path

import pytest
import torch

import benchmarks.rows
import benchmarks.tickets.page
from benchmarks.__main__ import main
from benchmarks.publish import with_tables
from benchmarks.rows import RESULTS, read
from benchmarks.tickets.findings import findings
from benchmarks.tickets.page import PAGE, ticket_tables
from benchmarks.tickets.published import PUBLISHED, published_for
from benchmarks.tickets.runs import read_reports, sizes
from benchmarks.tickets.table import HEADER, inside, table, unions
from snn_sparse.tickets import Mask
from snn_sparse.tickets.settings import SPARSITIES

sys.path.insert(0, str(Path(__file__).parents[1] / "reports"))
from made_runs import DENSE, make_run, meta, small_mask

# Accuracy by sparsity of runs that show every finding; of eb and snip each sparsity is a run.
GOOD = {
    "imp": {0: 92.7, 43.75: 92.7, 68.36: 92.6, 89.99: 92.5, 95.78: 92.4, 98.22: 91.8},
    "imp+et": {0: 92.4, 43.75: 92.4, 68.36: 92.4, 89.99: 92.1, 95.78: 91.5, 98.22: 91.1},
    "random": {89.99: 91.5, 95.78: 88.0, 98.22: 84.0},
    "eb": {89.91: 91.0, 98.13: 84.6},
    "snip": {98.13: 83.0},
}
SECONDS = {"imp": 150.0, "imp+et": 100.0}
PRUNED = small_mask(*[("a", 0, *place) for place in product(range(4), range(3), range(3))], ("b", 0, 1))  # deep: less


@pytest.fixture
def made(tmp_path):
    """Writes run directories of accuracies by method, each seed's at its own; returns their parent."""

    def make(figures=GOOD, seeds=(1,), shift=lambda _seed: 0.0, **settings):
        out = tmp_path / f"sweep{random.random()}"
        for method, by_sparsity in figures.items():
            at_once = method not in ("eb", "snip")
            for seed in seeds:
                runs = [by_sparsity] if at_once else [{s: a} for s, a in by_sparsity.items()]
                for number, levels in enumerate(runs):
                    write(out / f"{method}-{seed}-{number}", method, levels, seed, shift(seed), settings)
        return out

    return make


def write(root, method, levels, seed, shift, settings):
    first = 0 if 0 in levels else 1
    early = 3 if method.endswith("+et") else None
    made = [
        (PRUNED if s else DENSE, meta(n, s, a + shift, 8, SECONDS.get(method, 10.0), early or 5, early))
        for n, (s, a) in enumerate(levels.items(), first)
    ]
    own = {"prune_iterations": len(made)} if method.startswith("imp") else {}
    if method == "eb":
        made = [(DENSE, meta(0, 0.0, 70.0, 5, 7.5, 5)), *made]
    if method in ("eb", "snip"):
        own["sparsity_round"] = SPARSITIES.index(next(iter(levels)))
    make_run(root, made, method=method, seed=seed, arch="vgg16", dataset="cifar10", **own, **settings)


def judged(*folders):
    (size,) = sizes(read_reports(folders))
    return findings(size)


def changed(method, **accuracies):
    """The good figures, but for some of a method: ``_98_22=80`` for 80 % at 98.22 %."""
    new = {float(key[1:].replace("_", ".")): value for key, value in accuracies.items()}
    return {**GOOD, method: {**GOOD[method], **new}}


def test_all_findings_are_shown(made):
    found = judged(made())
    assert [f.verdict for f in found] == ["shown"] * 6
    assert "imp 92.50 % at 89.99 %, dense 92.70 %" in found[0].figures
    assert "1.50x in time, 1.67x in timesteps trained" in found[3].figures


@pytest.mark.parametrize(
    ("place", "figures"),
    [
        (0, changed("imp", _89_99=88.0)),  # farther below dense than a point and noise
        (1, changed("random", _95_78=96.0)),
        (1, changed("random", _98_22=95.5)),
        (1, changed("random", _95_78=80.0)),  # nearer to imp at 98 % than at 95 %
        (2, changed("eb", _98_13=95.5)),
        (2, changed("eb", _89_91=80.0)),
        (3, changed("imp+et", _98_22=87.0)),
        (5, changed("snip", _98_13=87.1)),
    ],
)
def test_a_finding_can_fail(made, place, figures, capsys):
    folder = made(figures)
    verdicts = [f.verdict for f in judged(folder)]
    assert verdicts[place] == "not shown"
    assert main(["tickets", "--no-rows", str(folder)]) == 1
    assert "not shown: " in capsys.readouterr().out


def test_a_search_that_is_no_quicker(made, monkeypatch):
    monkeypatch.setitem(SECONDS, "imp+et", 151.0)
    assert judged(made())[3].verdict == "not shown"


def test_layers_of_equal_density(made):
    (size,) = sizes(read_reports([made()]))
    rows = [{"name": f"features.{n}", "density": 2.0, "dead_filters": 0, "dead_channels": 0} for n in range(6)]
    for report in size.reports:
        report["levels"][-1]["layers"] = rows
    assert findings(size)[4].verdict == "not shown"
    rows[-1] = {**rows[-1], "density": 1.0}
    assert findings(size)[4].verdict == "shown"


@pytest.mark.parametrize(("method", "open_ones"), [("random", {1, 5}), ("eb", {2}), ("imp+et", {3}), ("snip", {5})])
def test_what_was_not_run_stays_open(made, method, open_ones, capsys):
    folder = made({m: figures for m, figures in GOOD.items() if m != method})
    verdicts = [f.verdict for f in judged(folder)]
    assert {n for n, v in enumerate(verdicts) if v == "run too short to show it"} == open_ones
    assert set(verdicts) == {"shown", "run too short to show it"}
    assert main(["tickets", "--no-rows", str(folder)]) == 0
    assert f"no {method} at 9" in capsys.readouterr().out


def test_levels_that_were_not_reached_stay_open(made):
    short = {m: {s: a for s, a in figures.items() if s < 97} for m, figures in GOOD.items() if m != "snip"}
    assert [f.verdict == "shown" for f in judged(made(short))] == [True, False, False, False, True, False]


def test_one_seed_decides_nothing_small_and_many_do(made):
    close = changed("snip", _98_13=86.9)  # 2.9 above random
    assert judged(made(close))[5].verdict == "run too short to show it"
    steady = made(close, (1, 2, 3), lambda seed: 0.1 * seed)
    assert judged(steady)[5].verdict == "not shown"
    scattered = made(close, (1, 2, 3), lambda seed: 3.0 * seed - 6)
    assert judged(scattered)[5].verdict == "run too short to show it"


def test_table_beside_the_published_one(made):
    (size,) = sizes(read_reports([made(seeds=(1, 2), shift=lambda seed: seed - 1.5)]))
    rows = {row[0]: row[1:] for row in table(size)}
    assert {len(row) for row in rows.values()} == {len(HEADER) - 1}
    assert [cell.split(" ")[0] for cell in rows["imp"][1:6]] == ["92.70", "92.60", "92.50", "92.40", "91.80"]
    assert rows["imp"][0] == "2"
    assert rows["imp"][1].endswith("± 0.71 %")
    assert rows["imp"][-1] == "12:30"  # five levels of 150 s come before the last
    assert rows["imp+et"][-2] == "3"
    assert rows["random"][2] == ""  # 68.30 % was never near
    assert rows["eb"][-1] == "7.5 s"
    assert rows["published vgg16 imp"][2:] == ("92.66 %", "92.54 %", "92.38 %", "91.81 %", "", "51.99 h")
    assert len(rows) == len(GOOD) + 4


def test_a_level_that_is_only_near_says_where_it_is(made):
    (size,) = sizes(read_reports([made({"imp": {0: 90.0, 94.37: 80.0, 98.22: 70.0}})]))
    assert table(size)[0][2:7] == ("90.00 %", "", "", "80.00 % (94.37)", "70.00 %")


def test_published_figures_are_those_of_the_paper():
    assert [p.hours for p in PUBLISHED] == [51.99, 38.26, 0.09, 0.06, 73.54, 46.40]
    assert {p.network for p in published_for("resnet19")} == {"resnet19"}
    assert round(PUBLISHED[0].hours / PUBLISHED[1].hours, 2) == 1.36  # printed as 1.35
    assert round(PUBLISHED[4].hours / PUBLISHED[5].hours, 2) == 1.58


def test_sizes_are_kept_apart_and_kinds_are_not_mixed(made):
    both = sizes(read_reports([made(), made({"imp": GOOD["imp"]}, width=0.5, train_images=300)]))
    assert [len(size.reports) for size in both] == [6, 1]
    assert "vgg16 width 0.5 on cifar10 (300 images) T=5" in both[1].case
    with pytest.raises(ValueError, match=r"learning_rate 0\.1, imp learning_rate 0\.3"):
        sizes(read_reports([made(), made({"imp": GOOD["imp"]}, learning_rate=0.3)]))


def test_rows_and_page(made, tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- benchmarks: begin -->\n<!-- benchmarks: end -->\nafter\n")
    monkeypatch.setattr(benchmarks.rows, "RESULTS", tmp_path)
    monkeypatch.setattr(benchmarks.tickets.page, "PAGE", page)
    assert main(["tickets", str(made(seeds=(1, 2)))]) == 0
    rows = read(tmp_path / "tickets.jsonl")
    value = {(r.provider, r.metric): r.median for r in rows}
    assert value["imp", "% accuracy at 89.99 %"] == 92.5
    assert value["imp", "search seconds"] == 750
    assert value["imp+et", "T_early"] == 3
    assert value["random", "seeds"] == 2
    assert value["imp", "dead filters at 98.2 %"] == 2
    assert sum(r.metric == "finding" and r.reason.startswith("shown: ") for r in rows) == 6
    text = page.read_text()
    assert text.startswith("before\n")
    assert "| 98.22 % | 91.80 | 91.10 |" in text
    assert "- deep layers are pruned more. **shown**: imp at 98.22 %" in text


def test_masks_of_a_run(made):
    (report,) = read_reports([made({"imp": {0: 90.0, 98.22: 70.0}})])
    assert [row[:4] for row in inside(report)] == [
        ("0.00 %", "100.00 %", "100.00 %", "0"),
        ("98.22 %", "50.00 %", "25.00 %", "2"),
    ]


def test_unions_against_a_loop():
    kernel = torch.rand(16, 4, 3, 3) < random.random() / 4
    used = sum(bool(kernel[:, i, j, k].any()) for i in range(4) for j in range(3) for k in range(3))
    assert unions(Mask({"a.weight": kernel})) == pytest.approx(100 * used / 36)


@pytest.mark.parametrize("what", ["nothing", "empty", "begun"])
def test_no_runs(what, tmp_path, capsys):
    folder = tmp_path / what
    if what == "empty":
        folder.mkdir()
    if what == "begun":
        make_run(folder, [])
    assert main(["tickets", "--no-rows", str(folder)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("benchmarks: error: ")


def test_the_page_shows_the_rows():
    tables = ticket_tables(read(RESULTS / "tickets.jsonl"))
    assert with_tables(PAGE.read_text(), tables) == PAGE.read_text()
