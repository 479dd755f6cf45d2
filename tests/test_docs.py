"""The README's Python runs as it stands, and its commands exist."""

import re
from pathlib import Path

import pytest

from snn_sparse.cli import build_parser

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_python_runs(code):
    exec(compile(code, "README.md", "exec"), {})


def test_the_swap_is_short():
    assert len(PYTHON[0].strip().splitlines()) <= 15


def test_commands_parse():
    commands = re.findall(r"^snn-sparse (.*)$", README, re.MULTILINE)
    assert len(commands) >= 8
    for command in commands:
        build_parser().parse_args(command.split())


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"(?:`|^)make ([a-z-]+)", README, re.MULTILINE)) | {"setup", "demo", "test", "lint", "bench"}
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_links_lead_somewhere():
    for page in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        for link in re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / page).read_text()):
            assert (ROOT / link).exists(), f"{page}: {link}"
