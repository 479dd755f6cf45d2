"""Results as rows: one JSON object a line, with everything needed to judge a figure."""

import datetime
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import Timing

SKIPPED = "skipped"  # the metric of a provider that was left out
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Row:
    """One figure: which case, whose, what, how much, and where and when it was measured."""

    case: str
    provider: str
    metric: str
    median: float
    p20: float
    p80: float
    device: str
    versions: str
    commit: str
    date: str
    reason: str = ""  # why a provider was skipped; such a row has no figure


def device_name(device: str) -> str:
    """Name the processor or GPU that figures are measured on."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return f"{model}, {torch.get_num_threads()} threads"


def versions() -> str:
    """List the versions that figures are measured with."""
    found = []
    for package in ("snn_sparse", "torch", "spikingjelly", "triton"):
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def commit() -> str:
    """The commit of this checkout, with a plus sign if files were changed since; without git SNN_SPARSE_COMMIT."""
    here, named = Path(__file__).parent, os.environ.get("SNN_SPARSE_COMMIT")
    if named:
        return named

    def git(*arguments: str) -> str:
        if shutil.which("git") is None:
            return ""
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ":!results")
    return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")


def _common(device: str) -> tuple[str, str, str, str]:
    return device_name(device), versions(), commit(), datetime.date.today().isoformat()


def make_rows(case: str, metric: str, timings: Mapping[str, Timing], device: str) -> list[Row]:
    """Rows of one metric, a provider each."""
    common = _common(device)
    return [Row(case, name, metric, t.median, t.quantile(0.2), t.quantile(0.8), *common) for name, t in timings.items()]


def skipped_rows(case: str, skipped: Mapping[str, str], device: str) -> list[Row]:
    """Rows of providers that were left out, with the reason of each."""
    common = _common(device)
    return [Row(case, name, SKIPPED, 0.0, 0.0, 0.0, *common, reason) for name, reason in skipped.items()]


def write(rows: list[Row], file: str, folder: Path | None = None) -> Path:
    """Put rows into a file of ``benchmarks/results``; older rows of the same case, metric and device make way."""
    path = (folder or RESULTS) / f"{file}.jsonl"
    new = {(r.case, metric, r.device) for r in rows for metric in (r.metric, SKIPPED)}
    kept = [r for r in read(path) if (r.case, r.metric, r.device) not in new]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(_as_dict(r)) + "\n" for r in [*kept, *rows]))
    return path


def _as_dict(row: Row) -> dict[str, Any]:
    return {name: value for name, value in asdict(row).items() if name != "reason" or value}


def read(path: Path) -> list[Row]:
    """The rows of a file; none if there is no file."""
    return [Row(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []
