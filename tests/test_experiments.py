"""Files of ``experiments/``: sweeps that are accepted as they stand, and whose names say how large they are."""

import re
from pathlib import Path

import pytest

from snn_sparse.cli import build_parser, common
from snn_sparse.cli.sweep import plan_of

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "experiments").glob("*.yaml"))
README = (ROOT / "experiments" / "README.md").read_text()


def searches(file):
    """The searches of a file as the command line understands them."""
    found = []
    for search in plan_of(str(file)).searches:
        args = build_parser().parse_args(search.arguments)
        common.follow_up(args)
        found.append(args)
    return found


def said(name, pattern):
    """Number in a file's name, such as ``8`` of ``8levels``; None where it has none."""
    found = re.search(pattern, name)
    return None if found is None else float(found[1])


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_every_file_is_a_sweep(file, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # no run of another sweep is there to be like
    plan = plan_of(str(file))
    assert str(plan.out) == f"runs/{file.stem}"
    assert len(plan.searches) >= 2
    assert file.name in README


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_names_say_the_size(file, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for args in searches(file):
        assert args.end_iter == said(file.stem, r"_(\d+)epochs")
        assert args.width == (said(file.stem, r"_width([\d.]+)") or 1)
        assert args.train_images == said(file.stem, r"_(\d+)images")
        assert args.arch in file.stem.split("_")
        if args.method in ("imp", "imp+et", "transfer"):
            assert args.prune_iterations == said(file.stem, r"_(\d+)levels")
            assert 98 < 100 * (1 - (1 - args.prune_percent / 100) ** (args.prune_iterations - 1)) < 98.5
        small = "_cpu_" in file.stem
        assert (args.train_images is not None, args.width < 1) == (small, small)


def test_each_figure_has_three_sizes():
    for figure in ("", "transfer_"):
        machines = {
            f.stem.removeprefix(figure).split("_")[1] for f in FILES if f.stem.startswith("transfer_") == bool(figure)
        }
        assert machines == {"gpu", "h100-8min", "cpu"}
