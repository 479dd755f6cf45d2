"""Which runs are put together: those that differ in the seed alone. Means and deviations against ``statistics``."""

import random
import statistics
import sys
import time
from pathlib import Path

import pytest

from snn_sparse.reports import summarise, table_rows, write_report, write_summary
from snn_sparse.reports.compare import points, sparsest
from snn_sparse.reports.groups import ONLY_FOR, by_label, matters
from snn_sparse.tickets.settings import METHODS, Settings

sys.path.insert(0, str(Path(__file__).parent))
import made_runs


def report(accuracies=(90.0,), early=None, method="imp", **settings):
    """Report of a run of levels 75, 93.75 ... % pruned; ``settings`` as in :class:`Settings`."""
    s = Settings(**{"method": method, "timestep": 12, **settings})
    levels = [{"level": n, "sparsity": 100 - 100 * 0.25**n, "accuracy": a} for n, a in enumerate(accuracies, 1)]
    return {
        "method": method,
        "seed": s.effective_seed,
        "timesteps": s.timestep,
        "timesteps_early": early,
        "seconds": 3.0,
        "search_seconds": 2.0,
        "settings": s.as_dict(),
        "levels": levels,
    }


def labels(*reports):
    return {label: [r["seed"] for r in group] for label, group in by_label(list(reports)).items()}


def test_seeds_and_rounds_come_together():
    found = labels(report(seed=1), report(seed=2), report(seed=1, round=3), report(seed=1, method="eb"))
    assert found == {"imp": [1, 2, 3], "eb": [1]}


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ({"arch": "vgg11"}, {"arch": "vgg16"}, ["imp vgg11", "imp vgg16"]),
        ({"dataset": "mnist"}, {"dataset": "digits"}, ["imp mnist", "imp digits"]),
        ({"timestep": 3}, {"timestep": 5}, ["imp T 3", "imp T 5"]),
        ({"device": "cpu"}, {"device": "cuda:1"}, ["imp cpu", "imp cuda"]),
        ({"learning_rate": 0.1}, {"learning_rate": 0.2}, ["imp learning_rate 0.1", "imp learning_rate 0.2"]),
        ({"weight_decay": None}, {"weight_decay": 0.1}, ["imp weight_decay default", "imp weight_decay 0.1"]),
        ({"backend": "plain"}, {"backend": "fused"}, ["imp plain", "imp fused"]),
        ({"precision": "fp32"}, {"precision": "bf16"}, ["imp fp32", "imp bf16"]),
        ({"width": 0.5}, {"width": 1.0}, ["imp width 0.5", "imp width 1.0"]),
        ({"prune_percent": 20.0}, {"prune_percent": 25.0}, ["imp prune_percent 20.0", "imp prune_percent 25.0"]),
    ],
)
def test_what_differs_is_in_the_label(one, other, expected):
    assert list(labels(report(**one), report(**other))) == expected


def test_early_time_has_labels_of_its_own():
    et = {"method": "imp+et"}
    assert list(labels(report(early=5, **et), report(early=6, **et))) == ["imp+et T_early 5", "imp+et T_early 6"]
    found = labels(
        report(early=5, early_time_threshold=0.4, arch="vgg11", **et),
        report(early=5, early_time_threshold=0.6, arch="vgg11", **et),
        report(early=5, early_time_threshold=0.4, arch="vgg13", **et),
    )
    assert list(found) == [
        "imp+et vgg11 threshold 0.4",
        "imp+et vgg11 threshold 0.6",
        "imp+et vgg13 threshold 0.4",
    ]


@pytest.mark.parametrize(
    ("method", "one", "other"),
    [
        ("imp", {"early_time_threshold": 0.4}, {"early_time_threshold": 0.5}),
        ("eb", {"prune_percent": 20.0}, {"prune_percent": 25.0}),
        ("eb", {"sparsity_round": 3}, {"sparsity_round": 4}),  # shows as its sparsity
        ("snip", {"rewinding_epoch": 3}, {"rewinding_epoch": 4}),
        ("imp", {"valid_freq": 3}, {"valid_freq": 4}),
        ("imp", {"device": "cuda:0"}, {"device": "cuda:1"}),
        ("random", {"like": "runs/imp-seed1"}, {"like": "runs/imp-seed2"}),  # each seed copies that of its own search
    ],
)
def test_what_changes_nothing_is_in_no_label(method, one, other):
    assert labels(report(method=method, seed=1, **one), report(method=method, seed=2, **other)) == {method: [1, 2]}


def test_a_run_of_fewer_settings_than_today():
    old = report(seed=1)
    del old["settings"]["precision"], old["settings"]["backend"]
    assert labels(old, report(seed=2)) == {"imp": [1, 2]}


def test_settings_and_methods_of_the_table_exist():
    assert set(ONLY_FOR) <= set(Settings().as_dict())
    assert {method for methods in ONLY_FOR.values() for method in methods} <= set(METHODS)
    assert matters("early_time_threshold", "eb+et")
    assert not matters("early_time_threshold", "eb")
    assert matters("seed", "eb")


def test_mean_deviation_and_seeds_against_statistics():
    drawn = {seed: [random.uniform(50, 99) for _ in range(4)] for seed in random.sample(range(1000), 5)}
    extra = [random.uniform(50, 99) for _ in range(2)]  # a sixth seed that was stopped after two levels
    runs = [report(accuracies, seed=seed) for seed, accuracies in drawn.items()] + [report(extra, seed=1000)]
    rows = table_rows(runs)
    assert [row[1] for row in rows] == ["6", "6", "5", "5"]
    for level, (point, row) in enumerate(zip(points(runs), rows, strict=True)):
        values = [accuracies[level] for accuracies in drawn.values()] + extra[level : level + 1]
        assert point.accuracy == pytest.approx(statistics.mean(values))
        assert point.deviation == pytest.approx(statistics.stdev(values))
        assert row[3] == f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f} %"


def test_a_seed_that_ran_twice_is_no_second_sample():
    (point,) = points([report([80.0], seed=4), report([90.0], seed=4)])
    assert (point.accuracies, point.deviation) == ([85.0], None)
    (point,) = points([report([80.0], seed=4), report([90.0], seed=4), report([87.0], seed=5)])
    assert (point.accuracy, point.deviation) == (86.0, pytest.approx(statistics.stdev([85.0, 87.0])))


def test_points_are_levels_of_equal_sparsity():
    def levels(seed, *given):
        return {"seed": seed, "levels": [{"level": n, "sparsity": s, "accuracy": a} for n, s, a in given]}

    one = levels(1, (1, 62.449, 80.0), (2, 75.0, 70.0))
    found = points([one, levels(2, (1, 62.451, 90.0), (1, 62.6, 60.0), (3, 75, 5.0))])
    assert [(p.level, p.accuracies) for p in found] == [(1, [80.0, 90.0]), (1, [60.0]), (2, [70.0]), (3, [5.0])]
    assert [p.sparsity for p in found] == pytest.approx([62.45, 62.6, 75.0, 75.0])


def test_sparsest_runs():
    runs = [report([1, 2, 3]), report([1, 2]), report([4, 5, 6])]
    assert sparsest(runs) == [runs[0], runs[2]]


def test_the_page_names_all_networks(tmp_path):
    runs = []
    for arch in ("vgg11", "vgg13"):
        levels = [(made_runs.DENSE, made_runs.meta(0, 0.0, 50.0, 1, 30.0, 5))]
        runs.append(summarise(made_runs.make_run(tmp_path / arch, levels, arch=arch)))
    page = write_report(runs, tmp_path).read_text()
    assert "<h1>Winning tickets: vgg11, vgg13 on digits</h1>" in page
    assert "<summary>imp vgg13, seed 1234 (unfinished)</summary>" in page


def test_a_thousand_levels_open_in_seconds(tmp_path):
    run = made_runs.long(tmp_path, 1000)
    started = time.process_time()
    found = write_summary(run)
    page = write_report([found], tmp_path / "report").read_text()
    assert time.process_time() - started < 5
    assert page.count("<tr>") > 2000  # of seeds put together, and of the run
    assert len(table_rows([found])) == 1000


def test_few_rows_for_a_terminal():
    runs = [report([random.uniform(1, 99) for _ in range(n)], method=m) for m, n in (("imp", 37), ("eb", 3))]
    every, few = table_rows(runs), table_rows(runs, most=5)
    assert [row[2:4] for row in few[:5]] == [every[i][2:4] for i in (0, 9, 18, 27, 36)]
    assert [row[0] for row in few] == ["imp", "5 of 37 levels", "", "", "", "eb", "", ""]
    assert few[5:] == every[37:]
