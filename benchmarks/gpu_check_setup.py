"""The folder that ``make gpu-kit`` makes, as a bare machine without a network uses it."""

import gzip
import importlib.util
import json
import os
import shutil
import sys
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.compile_ahead import MISSED
from benchmarks.gpu_check_run import HERE, run_command

MANIFEST, WHEELS, CACHE, LAUNCHES, DATA = "kit.json", "wheels", "triton-cache.tar.gz", "launches.jsonl", "FashionMNIST"
INSTALLING, PROBING, COMPILING = 120, 120, 400  # seconds at most


@dataclass
class Ready:
    """What was set up.

    Attributes:
        environment: of every step.
        said: lines for the report.
    """

    environment: dict[str, str]
    said: list[str] = field(default_factory=list)


def read_manifest(kit: Path) -> dict[str, Any]:
    """What the kit says of itself.

    Raises:
        ValueError: the folder is none, or was made by another version of this program.
    """
    try:
        found = json.loads((kit / MANIFEST).read_text())
        wheels, commit = found["wheels"], found["commit"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"--kit {kit} is no kit ({type(error).__name__}): make one with `make gpu-kit`") from error
    if not isinstance(wheels, dict) or not isinstance(commit, str):
        raise ValueError(f"--kit {kit} is no kit: make one with `make gpu-kit`")
    return found


def unpack_cache(archive: Path, folder: Path) -> int:
    """Unpack a Triton cache; the number of entries.

    Triton writes into each entry where its files lie, and takes an entry whose files lie elsewhere for none: these
    places are moved too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    for group in folder.glob("*/__grp__*"):
        said = json.loads(group.read_text())
        said["child_paths"] = {name: str(group.parent / name) for name in said["child_paths"]}
        group.write_text(json.dumps(said))
    return sum(1 for _ in folder.iterdir())


def unpack_images(source: Path, folder: Path) -> None:
    """Unpack Fashion-MNIST as torchvision looks for it."""
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for file in source.glob("*.gz"):
        with gzip.open(file) as packed, (raw / file.stem).open("wb") as plain:
            shutil.copyfileobj(packed, plain)


def set_up(kit: Path | None, work: Path, log: Path, rehearsed: bool = False) -> Ready:
    """Install what is missing, unpack the cache and the images, and see that the cache serves.

    Args:
        kit: the folder; None: what is on this machine must do.
        work: an empty folder for everything.
        log: where output goes.
        rehearsed: whether there is no GPU: then the cache is looked at for one of compute capability 9.0.
    """
    ready = Ready({**os.environ, "PYTHONUNBUFFERED": "1", "PIP_NO_INDEX": "1"})
    ready.environment |= {"SNN_SPARSE_CACHE": str(work / "measured.json"), "PYTHONPATH": str(HERE)}
    if kit is None:
        return ready
    said, site = read_manifest(kit), work / "site"
    ready.environment |= {
        "SNN_SPARSE_COMMIT": said["commit"],
        "TRITON_CACHE_DIR": str(work / "triton"),
        "PYTHONPATH": os.pathsep.join((str(HERE), str(site))),
    }
    missing = {module: file for module, file in said["wheels"].items() if importlib.util.find_spec(module) is None}
    if missing:
        files = [str(kit / WHEELS / file) for file in missing.values()]
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
        code = run_command([*pip, "--target", str(site), *files], INSTALLING, log, ready.environment)
        ready.said.append(f"installed {', '.join(missing)}" if code == 0 else f"pip failed (exit status {code})")
    if (kit / DATA).is_dir():
        unpack_images(kit / DATA, work)
    if (kit / CACHE).exists():
        ready.said.append(f"{unpack_cache(kit / CACHE, work / 'triton')} entries in the Triton cache")
    if (kit / LAUNCHES).exists():
        _see_that_it_serves(kit / LAUNCHES, ready, log, rehearsed)
    return ready


def _see_that_it_serves(launches: Path, ready: Ready, log: Path, rehearsed: bool) -> None:
    """Look for one kernel in the cache; where it is not there, compile all on all cores."""
    command = [sys.executable, "-m", "benchmarks.compile_ahead", str(launches), *(["--arch", "90"] * rehearsed)]
    code = run_command([*command, "--probe"], PROBING, log, ready.environment)
    if code == MISSED and not rehearsed:
        code = run_command(command, COMPILING, log, ready.environment)
        ready.said.append(f"the Triton cache did not serve: compiled on all cores (exit status {code})")
    else:
        ready.said.append(
            {0: "the Triton cache serves", MISSED: "the Triton cache does not serve"}.get(
                code, f"the probe of the Triton cache failed (exit status {code})"
            )
        )
