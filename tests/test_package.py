"""Rules for the package as a whole: cheap import, one direction of imports, short files and functions."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import snn_sparse

ROOT = Path(snn_sparse.__file__).parent
REPOSITORY = ROOT.parent
# Each layer may import those before it (and itself), none after it.
LAYERS = [
    "version",
    "specs",
    "ops",
    "tuning",
    "nn",
    "fusion",
    "models",
    "training",
    "tickets",
    "reports",
    "sweep",
    "console",
    "tensorboard",
    "demo",
    "cli",
    "__main__",
]
# The same inside ops: what serves all operators, how spikes are stored, the rooms of the operators.
OPS = ["cache", "backend", "library", "triton_launch", "live", "loss", "spikes", "neuron", "convolution"]
MODULES = sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


def layer_of(parts):
    name = parts[0].removesuffix(".py")
    return LAYERS.index(name)


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [f"{node.module}.{a.name}" for a in node.names]
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            pytest.fail(f"{path}: relative import")
        yield from (n.split(".")[1:] for n in names if n.split(".")[0] == "snn_sparse")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_run_one_way(path):
    own = layer_of(path.relative_to(ROOT).parts)
    for target in imported(path):
        assert layer_of(target) <= own, f"{path.relative_to(ROOT)} imports {'.'.join(target)}, a layer above"


def room_of(parts):
    return OPS.index(parts[1].removesuffix(".py"))


@pytest.mark.parametrize(
    "path", [p for p in MODULES if "ops" in p.parts and p.parent != ROOT], ids=lambda p: p.relative_to(ROOT).as_posix()
)
def test_imports_run_one_way_between_the_rooms_of_operators(path):
    parts = path.relative_to(ROOT).parts
    if parts == ("ops", "__init__.py"):
        return
    for target in imported(path):
        if target[0] == "ops" and len(target) > 1:
            assert target[1] in OPS, (
                f"{path.relative_to(ROOT)} imports {'.'.join(target)} from the package, not its home"
            )
            assert room_of(target) <= room_of(parts), f"{path.relative_to(ROOT)} imports {'.'.join(target)}"


def edges(root):
    """What each module of a package imports of it, function-level imports counted."""
    files = {
        ".".join(p.relative_to(root.parent).with_suffix("").parts).removesuffix(".__init__"): p
        for p in root.rglob("*.py")
    }
    found = {}
    for name, path in files.items():
        targets = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                targets |= {node.module, *(f"{node.module}.{a.name}" for a in node.names)}
            elif isinstance(node, ast.Import):
                targets |= {a.name for a in node.names}
        found[name] = {t for t in targets & files.keys() if t != name and files[t].name != "__init__.py"}
    return found


@pytest.mark.parametrize("package", ["snn_sparse", "benchmarks"])
def test_no_circle_of_imports(package):
    left = edges(REPOSITORY / package)
    while True:
        leaves = {name for name, targets in left.items() if not targets & left.keys()}
        if not leaves:
            break
        left = {name: targets for name, targets in left.items() if name not in leaves}
    assert not left, f"circle among {sorted(left)}"


def test_the_training_loop_knows_nothing_of_pruning():
    text = "".join(p.read_text() for p in (ROOT / "training").glob("*.py"))
    assert "import Mask" not in text
    assert "snn_sparse.tickets" not in text


SOURCES = [
    p
    for folder in ("snn_sparse", "benchmarks", "tests", "examples", "csrc")
    for p in sorted((REPOSITORY / folder).rglob("*"))
    if p.suffix in (".py", ".cpp", ".h", ".cu")
]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(REPOSITORY).as_posix())
def test_files_and_functions_are_short(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 300
    if path.suffix != ".py" or "tests" in path.relative_to(REPOSITORY).parts:
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            length = node.end_lineno - body[0].lineno + 1 if body else 0
            assert length <= 50, f"{node.name} has {length} lines"


def test_import_costs_little_and_loads_nothing_heavy():
    code = (
        "import torch, sys, time; s = time.process_time(); import snn_sparse; snn_sparse.build_model; snn_sparse.Mask; "
        "print(time.process_time() - s); "
        "print([m for m in ('triton', 'spikingjelly', 'torchvision', 'matplotlib', 'sklearn') if m in sys.modules])"
    )
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PATH": "/nonexistent"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    took, loaded = done.stdout.splitlines()
    assert float(took) < 1.0
    before = subprocess.run(
        [sys.executable, "-c", "import torch, sys; print([m for m in ('triton',) if m in sys.modules])"],
        capture_output=True,
        text=True,
        env=env,
        check=True,
    ).stdout.strip()
    assert loaded == before or loaded == "[]"


def test_public_names_exist():
    for name in snn_sparse.__all__:
        assert getattr(snn_sparse, name) is not None
    assert set(dir(snn_sparse)) == set(snn_sparse.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        snn_sparse.nothing  # noqa: B018


def test_version_is_written_once():
    import tomllib

    metadata = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    assert metadata["project"]["version"] == snn_sparse.__version__


def test_pinned_versions_are_supported_ones():
    import tomllib

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    pinned = {}
    for line in (REPOSITORY / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            found = Requirement(line)
            (pin,) = found.specifier
            assert pin.operator == "==", line
            pinned.setdefault(canonicalize_name(found.name), []).append(pin.version)
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    for line in project["dependencies"] + project["optional-dependencies"]["dev"]:
        wanted = Requirement(line)
        assert pinned[canonicalize_name(wanted.name)], line
        assert all(wanted.specifier.contains(version) for version in pinned[canonicalize_name(wanted.name)]), line


def test_files_beside_the_code_are_installed():
    import tomllib

    patterns = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    installed = {path for pattern in patterns["snn_sparse"] for path in ROOT.glob(pattern)}
    kinds = (".py", ".pyc", ".so")
    assert {p for p in ROOT.rglob("*") if p.is_file() and p.suffix not in kinds} <= installed
