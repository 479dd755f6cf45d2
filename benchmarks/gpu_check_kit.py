"""``make gpu-kit``: one folder with what a bare machine lacks, for ``python3 -m benchmarks.gpu_check --kit FOLDER``.

Run it with Python 3.12 and Triton 3.6.0, whose cache it fills for sm_90; it needs a network and no GPU. What the steps
launch is recorded first, which takes a quarter of an hour; ``--launches FILE`` takes an earlier record instead.
"""

import argparse
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.gpu_check_run import HERE
from benchmarks.gpu_check_setup import CACHE, DATA, LAUNCHES, MANIFEST, WHEELS
from benchmarks.rows import commit

ARCH, PYTHON, TRITON = 90, "3.12", "3.6.0"  # of the machine that the cache is for
MOST = 60  # MiB of a kit
# By the module that tells whether a machine has it: first what SpikingJelly needs, then what we do. All pure Python.
PACKAGES = {
    "spikingjelly": "spikingjelly==2.0.0",
    "loguru": "loguru==0.7.3",
    "scienceplots": "SciencePlots==2.2.2",
    "platformdirs": "platformdirs>=4",
    "filelock": "filelock>=3.12",
    "jinja2": "jinja2>=3.1",
    "rich": "rich>=13",
    "markdown_it": "markdown-it-py>=2.2",
    "mdurl": "mdurl",
    "pygments": "pygments>=2.13,<3",
    "tqdm": "tqdm",
    "pytest_timeout": "pytest-timeout>=2.3",
    "xdist": "pytest-xdist>=3.6",
    "execnet": "execnet",
}


def download(folder: Path) -> dict[str, str]:
    """Fetch the wheels; file names by module.

    Raises:
        ValueError: pip found no wheel of one.
    """
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    found = {}
    for module, package in PACKAGES.items():
        with tempfile.TemporaryDirectory() as alone:
            target = ["--python-version", PYTHON, "--dest", alone]
            done = subprocess.run([*pip, *target, package], check=False, capture_output=True, text=True)
            wheels = list(Path(alone).glob("*.whl"))
            if done.returncode or len(wheels) != 1:
                raise ValueError(f"no wheel of {package}: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
            shutil.copy(wheels[0], folder / wheels[0].name)
            found[module] = wheels[0].name
    return found


def record(file: Path, parts: Sequence[str]) -> None:
    """Note what the steps launch at full size, and what the tests do.

    Raises:
        subprocess.CalledProcessError: the steps do not run.
    """
    environment = {**os.environ, "GPU_CHECK_LAUNCHES": str(file), "PYTHONPATH": str(HERE)}
    python = [sys.executable, "-m", "benchmarks.gpu_check_stand_in", "benchmarks.gpu_check_record", *parts]
    subprocess.run(python, check=True, cwd=HERE, env=environment)
    if not parts:
        record_tests(file, environment)


def record_tests(file: Path, environment: Mapping[str, str]) -> None:
    """Note what the tests launch, without looking at results, which nobody has computed: asserts are left out."""
    environment = {**environment, "GPU_CHECK_STAND_IN": "1", "PYTHONOPTIMIZE": "1"}
    pytest = [sys.executable, "-m", "pytest", "-p", "benchmarks.gpu_check_stand_in", "--assert=plain", "-m", "gpu"]
    chosen = ["tests/gpu/test_kernels.py", "-k", "first_use or against_float64 or threshold", "-p", "no:cacheprovider"]
    print("recording the tests; what fails in them has no meaning")
    subprocess.run([*pytest, *chosen, "-q", "--tb=no", "-W", "ignore"], check=False, cwd=HERE, env=dict(environment))


def bake(launches: Path, archive: Path, jobs: int) -> int:
    """Compile all launches for the machine, and pack the cache; how many did not compile."""
    with tempfile.TemporaryDirectory() as folder:
        cache, stand_in = Path(folder) / "cache", Path(folder) / "driver"
        environment = {**os.environ, "TRITON_CACHE_DIR": str(cache), "PYTHONPATH": str(HERE)}
        command = [sys.executable, "-m", "benchmarks.compile_ahead", str(launches), "--jobs", str(jobs)]
        done = subprocess.run(
            [*command, "--arch", str(ARCH), "--launchers", str(stand_in)], check=False, cwd=HERE, env=environment
        )
        with tarfile.open(archive, "w:gz") as tar:
            for entry in sorted(cache.iterdir()):
                tar.add(entry, entry.name)
        return done.returncode


def build(folder: Path, args: argparse.Namespace) -> list[str]:
    """Fill a folder; lines that say what is in it.

    Raises:
        ValueError: a wheel that pip does not find, or more than 60 MiB.
    """
    (folder / WHEELS).mkdir(parents=True, exist_ok=True)
    said = {"wheels": download(folder / WHEELS), "commit": commit(), "triton": _version("triton")}
    (folder / MANIFEST).write_text(json.dumps(said, indent=1))
    lines = [f"{len(said['wheels'])} wheels, for Python {PYTHON}"]
    images = sorted(args.data.glob("*.gz")) if args.data else []
    if images:
        (folder / DATA).mkdir(exist_ok=True)
        for image in images:
            shutil.copy(image, folder / DATA / image.name)
    lines.append(f"{len(images)} files of Fashion-MNIST" if images else "no Fashion-MNIST: there will be no search")
    if args.launches:
        shutil.copy(args.launches, folder / LAUNCHES)
    else:
        (folder / LAUNCHES).unlink(missing_ok=True)
        record(folder / LAUNCHES, args.parts)
    failed = bake(folder / LAUNCHES, folder / CACHE, args.jobs)
    count = len((folder / LAUNCHES).read_text().splitlines())
    lines.append(f"{count} launches baked for sm_{ARCH}{', some of which did not compile' if failed else ''}")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20
    if size > MOST:
        raise ValueError(f"the kit has {size:.0f} MiB, more than {MOST}")
    return [*lines, f"{size:.1f} MiB in {folder}"]


def _version(package: str) -> str:
    return importlib.metadata.version(package)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``python -m benchmarks.gpu_check_kit``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check_kit", description=__doc__)
    parser.add_argument("folder", type=Path, help="the kit")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder with Fashion-MNIST's four .gz files")
    parser.add_argument("--launches", type=Path, metavar="FILE", help="an earlier record of what the steps launch")
    parser.add_argument("--parts", nargs="+", default=[], help="record these alone (see gpu_check_record.py)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    args = parser.parse_args(argv)
    if sys.version_info[:2] != (3, 12) or _version("triton") != TRITON:
        found = f"{sys.version_info[0]}.{sys.version_info[1]} and {_version('triton')}"
        print(f"gpu-kit: the cache serves Python {PYTHON} and Triton {TRITON} only, and this is {found}")
    try:
        lines = build(args.folder, args)
    except (ValueError, OSError, subprocess.CalledProcessError) as error:
        parser.exit(2, f"gpu-kit: error: {error}\n")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
