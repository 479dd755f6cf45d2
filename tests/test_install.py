"""What is built from the repository: the source distribution holds all that a build needs, the wheel its operators.

``scripts/check_install.sh`` installs both for real; here the compiler is a stand-in, that copies the library at hand.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import HeaderParser
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from snn_sparse.ops.backend import library_path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
COMPILER = """#!/bin/sh
case " $* " in *" -shared "*) made={library};; *) made=/dev/null;; esac
while [ "$1" != -o ]; do shift; done
cp "$made" "$2"
"""
OURS = {"SNN_SPARSE_BUILD", "CXX", "SNN_SPARSE_LIBRARY"}


def build(what, source, target, **environment):
    """Run a hook of the build backend, as pip does; the finished process, and the file that was made."""
    code = f"import sys, setuptools.build_meta as b; print(b.build_{what}(sys.argv[1]))"
    env = {k: v for k, v in os.environ.items() if k not in OURS} | environment
    shutil.rmtree(source / "build", ignore_errors=True)
    target.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", code, str(target)], cwd=source, env=env, capture_output=True, text=True, check=False
    )
    return done, (target / done.stdout.splitlines()[-1] if done.returncode == 0 else None)


def checkout(folder):
    """A copy of what the build reads, a library of an earlier build among it."""
    leave = shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info")
    for name in ("snn_sparse", "csrc"):
        shutil.copytree(ROOT / name, folder / name, ignore=leave)
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md"):
        shutil.copy(ROOT / name, folder)
    (folder / "snn_sparse" / "_C.cpython-311-x86_64-linux-gnu.so").write_bytes(b"of an earlier build")
    return folder


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The source distribution, unpacked, and the names in it."""
    folder = tmp_path_factory.mktemp("install")
    done, archive = build("sdist", checkout(folder / "checkout"), folder / "dist")
    assert archive is not None, done.stderr
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    unpacked = folder / archive.name.removesuffix(".tar.gz")
    return unpacked, {p.relative_to(unpacked).as_posix() for p in unpacked.rglob("*") if p.is_file()}


@pytest.fixture
def compiler(tmp_path):
    if library_path() is None:
        pytest.skip("no C++ operators at hand")
    path = tmp_path / "c++"
    path.write_text(COMPILER.format(library=library_path()))
    path.chmod(0o755)
    return str(path)


def test_the_source_distribution_holds_what_a_build_needs_and_no_more(sources):
    _, names = sources
    kept = (".py", ".cpp", ".h", ".jinja", ".typed")
    wanted = {
        p.relative_to(ROOT).as_posix()
        for folder in ("csrc", "snn_sparse")
        for p in (ROOT / folder).rglob("*")
        if p.suffix in kept or p.name == "py.typed"
    }
    assert {"csrc/build.py", "csrc/common/codes.h", "snn_sparse/py.typed", "snn_sparse/specs.py"} <= wanted
    assert wanted | {"setup.py", "pyproject.toml", "README.md", "LICENSE"} <= names
    assert not {n for n in names if n.endswith((".so", ".pyc", ".o")) or n.startswith(("tests/", "build/"))}


def test_one_wheel_for_every_python(sources, compiler, tmp_path):
    done, wheel = build("wheel", sources[0], tmp_path / "dist", CXX=compiler)
    assert wheel is not None, done.stderr
    version, python, abi, platform = wheel.stem.split("-")[1:]
    assert (version, python, abi) == (PROJECT["project"]["version"], "py3", "none")
    assert platform != "any"
    with zipfile.ZipFile(wheel) as packed:
        libraries = [name for name in packed.namelist() if ".so" in name]
        assert libraries == ["snn_sparse/_C.so"]
        assert "csrc/build.py" not in packed.namelist()
        head = HeaderParser().parsestr(packed.read(f"snn_sparse-{version}.dist-info/METADATA").decode())
        assert packed.read("snn_sparse/_C.so") == Path(library_path()).read_bytes()
    assert ".so" in EXTENSION_SUFFIXES  # what a Python looks for
    requirements = head.get_all("Requires-Dist")
    assert any(line.startswith("torch") and ">=2.11" in line and "<2.16" in line for line in requirements)


def test_a_checkout_forgets_the_library_of_an_earlier_build(compiler, tmp_path):
    source = checkout(tmp_path / "checkout")
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    env = {k: v for k, v in os.environ.items() if k not in OURS} | {"CXX": compiler}
    done = subprocess.run(command, cwd=source, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [p.name for p in (source / "snn_sparse").glob("_C*")] == ["_C.so"]
    assert (source / "snn_sparse" / "_C.so").read_bytes() == Path(library_path()).read_bytes()


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"CXX": "/no/such/compiler"}, "/no/such/compiler"),
        ({"CXX": "false"}, "false failed; its messages are above"),
    ],
)
def test_no_wheel_without_its_operators_unless_asked_for(sources, tmp_path, environment, said):
    done, wheel = build("wheel", sources[0], tmp_path / "dist", **environment)
    assert wheel is None
    assert "the C++ operators of snn_sparse are not built" in done.stderr
    assert said in done.stderr
    assert "SNN_SPARSE_BUILD=0 installs it without them" in done.stderr


def test_a_wheel_without_operators_when_asked_for(sources, tmp_path):
    done, wheel = build("wheel", sources[0], tmp_path / "dist", CXX="false", SNN_SPARSE_BUILD="0")
    assert wheel is not None, done.stderr
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as packed:
        assert not [name for name in packed.namelist() if ".so" in name]


@pytest.mark.parametrize("wish", ["auto", ""])
def test_a_wish_that_is_none(sources, tmp_path, wish):
    done, wheel = build("wheel", sources[0], tmp_path / "dist", SNN_SPARSE_BUILD=wish)
    assert wheel is None
    assert f"SNN_SPARSE_BUILD must be 0 (without the C++ operators) or 1 (with them, the default), got {wish!r}" in (
        done.stderr
    )


def test_the_build_takes_the_torch_that_the_package_runs_with():
    from packaging.requirements import Requirement

    build_time, run_time = (
        {r.name: r.specifier for r in map(Requirement, lines)}
        for lines in (PROJECT["build-system"]["requires"], PROJECT["project"]["dependencies"])
    )
    assert build_time["torch"] == run_time["torch"]
    oldest = min(spec.version for spec in run_time["torch"] if spec.operator == ">=")
    major, minor = map(int, oldest.split("."))
    target = f"-DTORCH_TARGET_VERSION=0x{major:02x}{minor:02x}000000000000"
    assert target in (ROOT / "csrc" / "build.py").read_text()  # symbols of a newer one are not used
