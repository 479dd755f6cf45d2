"""The Python of the README and the docs runs as it stands, their commands exist, and the site is built from them."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import snn_sparse as ss
from snn_sparse.cli import build_parser

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
PAGES = sorted((ROOT / "docs").rglob("*.md"))
# One with push_ticket runs beside its tests, where a hub stands in.
HERE = [p for p in PAGES if "```python" in p.read_text() and "push_ticket" not in p.read_text()]


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


COMMAND = re.compile(r"^(?:torchrun .*-m snn_sparse|snn-sparse) (.*)$", re.MULTILINE)


def test_commands_parse():
    texts = [page.read_text().replace("\\\n", " ") for page in (ROOT / "README.md", *PAGES)]
    commands = [line for text in texts for line in COMMAND.findall(text)]
    assert len(commands) >= 20
    assert any("--out runs/vgg16" in line for line in commands)  # torchrun's, on two lines
    for command in commands:
        build_parser().parse_args(shlex.split(command))


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"(?:`|^)make ([a-z-]+)", README, re.MULTILINE)) | {"setup", "demo", "test", "lint", "bench"}
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_links_lead_somewhere():
    pages = sorted(p.relative_to(ROOT).as_posix() for p in (*ROOT.glob("*.md"), *PAGES))
    assert {"README.md", "docs/fusing.md"} <= set(pages)
    for page in pages:
        for link in re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / page).read_text()):
            assert (ROOT / page).parent.joinpath(link).exists(), f"{page}: {link}"


def test_every_public_name_is_in_the_reference():
    named = set(re.findall(r"^::: snn_sparse\.(\w+)", "".join(p.read_text() for p in PAGES), re.MULTILINE))
    assert named == set(ss.__all__) - {"__version__"}


def test_every_page_is_in_the_navigation():
    def files(node):
        if isinstance(node, str):
            return [node]
        return [f for part in (node if isinstance(node, list) else node.values()) for f in files(part)]

    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    assert sorted(files(nav)) == sorted(p.relative_to(ROOT / "docs").as_posix() for p in PAGES)


LOADS = (
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?([^\"' >]+)",
    r"<link\b[^>]*\brel=\"?(?:stylesheet|icon|preload|preconnect)[^>]*\bhref=\"?([^\" >]+)",
)


@pytest.mark.slow
def test_the_site_is_built_and_loads_nothing_from_the_network(tmp_path):
    for package in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(package)
    build = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", tmp_path / "site"]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stdout + done.stderr
    html = sorted((tmp_path / "site").rglob("*.html"))
    assert len(html) > len(PAGES)  # and one for what is not there
    for page in html:
        text = page.read_text()
        loaded = [url for pattern in LOADS for url in re.findall(pattern, text)]
        assert loaded, page
        assert not [url for url in loaded if re.match(r"(\w+:)?//", url)], page
        assert ":class:`" not in text, page
        assert ":func:`" not in text, page
        assert not re.search(r">\w+,(</span>)?</code></b>", text), page  # an entry of several names, cut in two
    for sheet in (tmp_path / "site").rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//", sheet.read_text()), sheet


def test_the_bytes_that_the_picture_of_memory_traffic_names_are_counted():
    pytest.importorskip("spikingjelly")
    spec = importlib.util.spec_from_file_location("draw_pictures", ROOT / "scripts" / "draw_pictures.py")
    pictures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pictures)
    y = torch.randn(pictures.SHAPE)
    counted = [sum(pictures.counted(net, y).values()) for net in pictures.layers().values()]
    text = (ROOT / "docs" / "kernels.md").read_text().replace("\n", " ")
    named = re.search(r"timestep: (\d+) in a time loop.*?, (\d+) in multi-step modules, (\d+) in one", text).groups()
    assert [round(total) for total in counted] == [int(number) for number in named]
