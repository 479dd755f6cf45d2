"""The Python of the README and the docs runs as it stands, and their commands exist."""

import re
from pathlib import Path

import pytest

from snn_sparse.cli import build_parser

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
PAGES = [p for p in sorted((ROOT / "docs").glob("*.md")) if "```python" in p.read_text()]
HERE = [p for p in PAGES if "push_ticket" not in p.read_text()]  # that one runs beside its tests, where a hub stands in


@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_python_runs(code):
    exec(compile(code, "README.md", "exec"), {})


@pytest.mark.parametrize("page", HERE, ids=lambda p: p.stem)
def test_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "".join(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))  # its blocks go on from each other
    exec(compile(code, str(page), "exec"), {})


def test_the_swap_is_one_line_in_a_short_block():
    lines = PYTHON[0].strip().splitlines()
    assert len(lines) <= 32
    assert [line for line in lines if "fuse(" in line] == ["fast = ss.fuse(model)  # the one line"]


def test_commands_parse():
    commands = re.findall(
        r"^snn-sparse (.*)$",
        "\n".join(map(Path.read_text, [ROOT / "README.md", *ROOT.glob("docs/*.md")])),
        re.MULTILINE,
    )
    assert len(commands) >= 8
    for command in commands:
        build_parser().parse_args(command.split())


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"(?:`|^)make ([a-z-]+)", README, re.MULTILINE)) | {"setup", "demo", "test", "lint", "bench"}
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_links_lead_somewhere():
    pages = sorted(p.relative_to(ROOT).as_posix() for p in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")))
    assert {"README.md", "docs/fusing.md"} <= set(pages)
    for page in pages:
        for link in re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / page).read_text()):
            assert (ROOT / page).parent.joinpath(link).exists(), f"{page}: {link}"
