"""The notebooks of examples/ run from top to bottom, and are kept without what they print."""

import json
import os
import re
import shlex
from pathlib import Path

import pytest

from snn_sparse.cli import build_parser

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_without_outputs(path):
    cells = json.loads(path.read_text())["cells"]
    assert [
        cell for cell in cells if cell["cell_type"] == "code" and (cell["outputs"] or cell["execution_count"])
    ] == []
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    for command in re.findall(r"^snn-sparse (.*)$", text, re.MULTILINE):
        build_parser().parse_args(shlex.split(command))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("make_my_network_faster", r"0 were left as they are.*the same, forward and backward.*times faster.*done"),
        ("find_a_ticket", r"dense: [\d.]+ %.*level 3: 98\.4\d % pruned.*random, 98\.4\d % pruned"),
    ],
)
def test_runs(name, printed, tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    for variable in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / "jupyter"))
    notebook = nbformat.read(ROOT / "examples" / f"{name}.ipynb", as_version=4)
    run = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=250, kernel_name="python3", resources=run).execute()
    outputs = [out for cell in notebook.cells if cell.cell_type == "code" for out in cell.outputs]
    text = "".join(out.text for out in outputs if out.output_type == "stream" and out.name == "stdout")
    assert re.search(printed, text, re.DOTALL), text
    assert [out for out in outputs if out.output_type == "error"] == []


def test_both_are_run():
    run = next(mark for mark in test_runs.pytestmark if mark.name == "parametrize").args[1]
    assert [path.stem for path in NOTEBOOKS] == sorted(name for name, _ in run)
