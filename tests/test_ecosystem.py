"""The table of what works with what names tests that exist, and the versions of pyproject.toml."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "docs" / "ecosystem.md").read_text().splitlines()
    if line.startswith("|") and "::" in line
]
WANTED = {
    "Python", "PyTorch", "SpikingJelly", "snnTorch", "norse", "Lightning", "`torch.compile`", "`torch.export`", "Ray",
    "`DistributedDataParallel`", "FSDP2 (`fully_shard`)", "NIR", "Hugging Face Hub", "NeuroBench", "tonic",
    "TensorBoard",
}  # fmt: skip


def requirements():
    """Every requirement of the package and its extras, without marker and spaces."""
    extras = PROJECT["optional-dependencies"].values()
    return {line.split(";")[0].strip() for group in (PROJECT["dependencies"], *extras) for line in group}


def name_of(requirement):
    return re.match(r"[\w.-]+", requirement)[0].lower()


def test_nothing_is_left_out():
    assert {row[0] for row in ROWS} >= WANTED


@pytest.mark.parametrize("row", ROWS, ids=[row[0].strip("`") for row in ROWS])
def test_a_row(row):
    what, versions, how_far, test = row
    file, function = re.fullmatch(r"`(tests/[\w/]+\.py)::(test_\w+)`", test).groups()
    tree = ast.parse((ROOT / file).read_text())
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, test
    named = re.findall(r"`([^`]+)`", versions)
    if what == "Python":
        assert named == [PROJECT["requires-python"]]
    elif versions == "not in `dev`":
        assert what.lower() not in {name_of(line) for line in PROJECT["optional-dependencies"]["dev"]}
        assert "importorskip" in (ROOT / file).read_text()
    else:
        assert set(named) <= requirements()
        assert named or versions in ("", "names only")
    assert how_far
