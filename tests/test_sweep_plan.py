"""A sweep's file: which searches it stands for, how their directories are called, and what is refused."""

import random
import re
from itertools import product
from pathlib import Path

import pytest
import yaml

from snn_sparse.cli import build_parser, main
from snn_sparse.cli.sweep import plan_of

ROOT = Path(__file__).parents[1]


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """Plan of a sweep, written as a dictionary or as text; runs go into ``out`` unless it says otherwise."""
    monkeypatch.chdir(tmp_path)

    def read(content):
        text = content if isinstance(content, str) else yaml.safe_dump({"out": "out", **content}, sort_keys=False)
        (tmp_path / "sweep.yaml").write_text(text)
        return plan_of("sweep.yaml")

    return read


def flags(search):
    """What the command of a search says, as ``snn-sparse`` understands it."""
    return vars(build_parser().parse_args(search.arguments))


def names(found):
    return [search.name for search in found.searches]


def test_every_combination_over_what_is_common(plan):
    seeds, archs = random.sample(range(1000), 3), random.sample(["vgg11", "vgg13", "vgg16", "resnet19"], 2)
    grid = {"method": ["imp", "eb"], "seed": seeds, "arch": archs}
    found = plan({"common": {"dataset": "mnist", "batch-size": 7, "learning_rate": 0.25}, "grid": grid})
    combinations = [(f["method"], f["seed"], f["arch"]) for f in map(flags, found.searches)]
    assert combinations == list(product(*grid.values()))
    for search in found.searches:
        told = flags(search)
        assert (told["dataset"], told["batch_size"], told["learning_rate"]) == ("mnist", 7, 0.25)
        assert told["out"] == search.run == f"out/{search.name}"
        assert search.name == f"{told['method']}-{told['arch']}-seed{told['seed']}"


def test_a_list_beside_the_grid(plan):
    found = plan(
        {
            "common": {"seed": 3, "download": True},
            "grid": {"seed": [5]},
            "searches": [{"method": "imp+et", "seed": 9}, {"name": "mine", "arch": "vgg13", "download": False}, {}],
        }
    )
    assert names(found) == ["seed5", "imp-et-seed9", "mine", "imp"]
    told = [flags(search) for search in found.searches]
    assert [f["seed"] for f in told] == [5, 9, 3, 3]
    assert [f["download"] for f in told] == [True, True, False, True]


def test_names_stay_as_the_grid_grows(plan):
    few = names(plan({"grid": {"method": ["imp"], "early_time_threshold": [0.4], "learning_rate": ["1e-1"]}}))
    grid = {"method": ["imp+et", "imp"], "early_time_threshold": [0.6, 0.4], "learning_rate": ["1e-1", 0.2]}
    many = names(plan({"grid": grid}))
    assert few == ["imp-learning_rate1e-1"]
    assert set(few) <= set(many)
    assert "imp-et-early_time_threshold0.4-learning_rate0.2" in many


def test_settings_without_a_use_make_no_second_search(plan):
    found = plan({"grid": {"method": ["imp", "imp+et", "eb"], "early_time_threshold": [0.4, 0.6], "seed": [1, 2]}})
    assert names(found) == [
        *("imp-seed1", "imp-seed2"),
        *(f"imp-et-early_time_threshold{t}-seed{s}" for t in (0.4, 0.6) for s in (1, 2)),
        *("eb-seed1", "eb-seed2"),
    ]
    assert found.left_out == 4


def test_nothing_is_the_default(plan):
    told = flags(plan({"grid": {"weight_decay": [None, 0.5]}}).searches[0])
    assert told["weight_decay"] is None


def test_random_waits_for_the_search_it_is_like(plan, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    listed = [
        {"method": "random", "like": "imp-seed2", "name": "a"},
        {"method": "random", "like": "elsewhere", "name": "b"},
    ]
    found = plan({"grid": {"method": ["imp"], "seed": [1, 2]}, "searches": listed})
    assert [(s.name, s.after) for s in found.searches] == [
        ("imp-seed1", None),
        ("imp-seed2", None),
        ("b", None),
        ("a", "imp-seed2"),
    ]
    assert [flags(s)["like"] for s in found.searches[2:]] == ["elsewhere", "out/imp-seed2"]


IMP = "searches: [{name: one, method: imp}]"
BAD = [
    ("out: r\ngrid: {sed: [1]}", "grid: unknown key 'sed'; did you mean seed?"),
    ("out: r\ncommon: {batchsize: 3}\n" + IMP, "common: unknown key 'batchsize'; did you mean batch_size?"),
    ("out: r\nsearches: [{}, {methd: imp}]", "search 2 of searches: unknown key 'methd'; did you mean method?"),
    ("out: r\ncommon: {out: x}\n" + IMP, "common: unknown key 'out'"),
    ("out: r\ncommen: {}\n" + IMP, "the sweep: unknown key 'commen'; did you mean common?"),
    ("out: r\ngrid: {prune_percent: [20, 100]}", "prune_percent100: prune_percent must lie between 0 and 100"),
    ("out: r\ngrid: {method: [imp, imb]}", "--method: invalid choice: 'imb'"),
    ("out: r\ngrid: {seed: [1, one]}", "--seed: invalid int value: 'one'"),
    ("out: r\ngrid: {seed: [1, 2.5]}", "--seed: invalid int value: '2.5'"),
    ("out: r\ngrid: {seed: [2, true]}", "seed takes a value, got True"),
    ("out: r\ncommon: {download: 1}\n" + IMP, "download is true or false, got 1"),
    ("out: r\ncommon: {print_freq: 0}\n" + IMP, "print_freq must be at least 1"),
    ("out: r\ncommon: {device: abacus}\n" + IMP, "unknown device 'abacus'"),
    ("out: r\ngrid: {seed: [1, 2, 1]}", "grid: seed lists 1 twice"),
    ("out: r\ngrid: {seed: 1}", "grid: seed must be a list of values, got 1"),
    ("out: r\ngrid: {seed: []}", "grid: seed must be a list of values, got []"),
    ("out: r\ngrid: {seed: [[1]]}", "grid: seed must be one value, got [1]"),
    ("out: r\ncommon: {seed: [1, 2]}\n" + IMP, "common: seed must be one value, got [1, 2]; lists of values go into"),
    ("out: r\ncommon: {seed: 1, seed: 2}\n" + IMP, "seed is given twice, again in line 2"),
    ("out: r\ncommon: {batch_size: 1, batch-size: 2}\n" + IMP, "common: batch_size is given twice"),
    ("out: r\nsearches: [{seed: 1}, {seed: 1}]", "search 2 of searches: seed1 is the same search as seed1"),
    ("out: r\ngrid: {seed: [7]}\nsearches: [{name: x, seed: 7}]", "x is the same search as seed7"),
    ("out: r\nsearches: [{name: x, seed: 1}, {name: x, seed: 2}]", "another search is called x already"),
    ("out: r\nsearches: [{name: ../x}]", "name '../x' cannot be a directory's"),
    ("out: r\nsearches: [{name: report.html}]", "name 'report.html' cannot be a directory's"),
    ("out: r\nsearches: [{method: random}]", "like (another search of this sweep, or a run) goes with method random"),
    ("out: r\nsearches: [{method: imp, like: x}]", "and only with it"),
    ("out: r\nsearches: [{name: one}, {method: random, like: ome}]", "nor a run; did you mean one?"),
    ("out: r\nsearches: [{name: a, method: snip}, {method: random, like: a}]", "like a is of method snip"),
    ("out: r\ngrid: {seed: [1]", "not YAML, line 2"),
    ("out: r\ngrid: {seed: [\x07]}", "not YAML"),
    ("- out", "a sweep is a mapping"),
    ("", "a sweep is a mapping"),
    ("grid: {seed: [1]}", "out must say where the runs go"),
    ("out: 3\ngrid: {seed: [1]}", "out must say where the runs go"),
    ("out: r", "there is no search"),
    ("out: r\nsearches: {seed: 1}", "searches must be a list"),
    ("out: r\nsearches: [seed]", "search 1 of searches must be a mapping of flags, got 'seed'"),
    ("out: r\ncommon: 3\n" + IMP, "common must be a mapping of flags, got 3"),
]


def refused(arguments, capsys):
    """The one line that a refused command prints; it leaves nothing behind."""
    before = sorted(Path().rglob("*"))
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert sorted(Path().rglob("*")) == before
    return line


@pytest.mark.parametrize(("text", "message"), BAD, ids=range(len(BAD)))
def test_bad_files_are_one_line_and_status_2(text, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("sweep.yaml").write_text(text)
    line = refused(["sweep", "sweep.yaml"], capsys)
    assert line.startswith("snn-sparse: error: sweep.yaml: ")
    assert message in line


def test_no_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert refused(["sweep", "no.yaml"], capsys) == "snn-sparse: error: no.yaml: no such file"
    assert "Is a directory" in refused(["sweep", "."], capsys)
    Path("binary.yaml").write_bytes(b"\xff\xfe\x00\xd8")
    assert "binary.yaml" in refused(["sweep", "binary.yaml"], capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "0"], "workers must be at least 1, got 0"),
        (["--cpus-per-search", "0"], "cpus_per_search must be at least 1, got 0"),
        (["--gpus_per_search", "1.5"], "gpus_per_search must be a fraction below 1 or a whole number, got 1.5"),
        (["--gpus-per-search", "-1"], "gpus_per_search must be"),
        (["--gpus-per-search", "nan"], "gpus_per_search must be"),
        (["--ray", "localhost:1", "--workers", "2"], "workers is for this machine"),
    ],
)
def test_bad_flags(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("sweep.yaml").write_text("out: r\n" + IMP)
    assert message in refused(["sweep", "sweep.yaml", *arguments], capsys)


def test_the_example_is_a_sweep(monkeypatch):
    monkeypatch.chdir(ROOT)
    found = plan_of("examples/sweep.yaml")
    assert names(found)[-2:] == ["random-seed1", "random-seed2"]
    assert len(found.searches) == 10
    assert found.left_out == 4


def test_the_page_about_scaling_shows_a_sweep(plan):
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "scaling.md").read_text(), re.DOTALL)
    found = plan(text)
    assert {"imp-seed1", "imp-et-early_time_threshold0.4-seed1", "slow"} <= set(names(found))
    assert (len(found.searches), found.left_out) == (12 + 2, 18 - 12)


def test_help(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["sweep", "--help"])
    assert stop.value.code == 0
    assert "--gpus-per-search" in capsys.readouterr().out
