"""Renews ``constraints.txt``: what pip finds for the development environment, given the pins at the top of the file.

Each supported Python resolves in a fresh environment, the oldest first; the others take its versions where they
can, and get lines of their own, with markers, where they cannot.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "constraints.txt"
MARK = "# Written by `make lock`.\n"
PYTHONS = ("3.11", "3.12", "3.13")
WANTED = ["-e", f"{ROOT}[dev]", "pip", "setuptools>=77", "wheel"]
# torch itself names the exact CUDA libraries that it needs.
LEFT_OUT = ("snn_sparse", "nvidia-", "cuda-toolkit")


def resolve(python: str, constraints: list[str], folder: Path) -> dict[str, str]:
    """The versions that pip picks under ``constraints``, by name.

    Raises:
        subprocess.CalledProcessError: it finds none.
    """
    environment, given, report = folder / f"venv-{Path(python).name}", folder / "given.txt", folder / "report.json"
    pip = [str(environment / "bin" / "python"), "-m", "pip", "-qq", "install"]
    if not environment.exists():
        subprocess.run([python, "-m", "venv", str(environment)], check=True)
        subprocess.run([*pip, "--upgrade", "pip", "setuptools>=77", "wheel"], check=True)
    given.write_text("\n".join(constraints))
    dry = ["--dry-run", "--ignore-installed", "--no-build-isolation", "--report", str(report), "-c", str(given)]
    subprocess.run([*pip, *dry, *WANTED], check=True, env={**os.environ, "SNN_SPARSE_BUILD": "0"})
    found = (item["metadata"] for item in json.loads(report.read_text())["install"])
    return {m["name"]: m["version"] for m in found if not m["name"].startswith(LEFT_OUT)}


def lines(found: dict[str, dict[str, str]]) -> list[str]:
    """One line a package, or one for each version of it, with a marker naming its Pythons.

    Args:
        found: of each Python, the versions by name.
    """
    result = []
    for name in sorted({name for versions in found.values() for name in versions}, key=str.lower):
        pythons: dict[str, list[str]] = {}
        for python, versions in found.items():
            if name in versions:
                pythons.setdefault(versions[name], []).append(f"python_version == '{python}'")
        for version, markers in pythons.items():
            result.append(f"{name}=={version}" + (f"; {' or '.join(markers)}" if len(pythons) > 1 else ""))
    return result


def main() -> None:
    """Resolve for every Python, and write the file."""
    top, _, _ = FILE.read_text().partition(MARK)
    chosen = [line for line in top.splitlines() if line and not line.startswith("#")]
    found: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for version in PYTHONS:
            search = subprocess.run([ROOT / "scripts" / "find_python.sh", version], stdout=subprocess.PIPE, text=True)
            if search.returncode:
                sys.exit(1)
            print(f"lock: resolving for Python {version}", flush=True)
            python = search.stdout.strip()
            try:
                found[version] = resolve(python, [*chosen, *lines(found)], Path(folder))
            except subprocess.CalledProcessError:
                found[version] = resolve(python, chosen, Path(folder))
    names = {line.split("==")[0] for line in chosen}
    written = [line for line in lines(found) if line.split("==")[0] not in names]
    FILE.write_text(top + MARK + "".join(f"{line}\n" for line in written))
    print(f"lock: {len(chosen) + len(written)} versions in {FILE.name}")


if __name__ == "__main__":
    main()
