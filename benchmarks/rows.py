"""Results as rows: one JSON object a line, with everything needed to judge a figure."""

import datetime
import json
import platform
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks.timing import Timing

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


def device_name(device: str) -> str:
    """What the figures were measured on."""
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
    """Versions of what was measured."""
    from importlib import metadata

    found = []
    for package in ("snn_sparse", "torch", "spikingjelly", "triton"):
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def commit() -> str:
    """The commit of this checkout, with a plus sign if files were changed since."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ":!results")
    return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")


def make_rows(case: str, metric: str, timings: dict[str, Timing], device: str) -> list[Row]:
    """Rows of one metric, a provider each."""
    common = (device_name(device), versions(), commit(), datetime.date.today().isoformat())
    return [Row(case, name, metric, t.median, t.quantile(0.2), t.quantile(0.8), *common) for name, t in timings.items()]


def write(rows: list[Row], file: str, folder: Path = RESULTS) -> Path:
    """Put rows into a file of ``benchmarks/results``; older rows of the same case, metric and device make way."""
    path = folder / f"{file}.jsonl"
    new = {(r.case, r.metric, r.device) for r in rows}
    kept = [r for r in read(path) if (r.case, r.metric, r.device) not in new]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(asdict(r)) + "\n" for r in [*kept, *rows]))
    return path


def read(path: Path) -> list[Row]:
    """The rows of a file; none if there is no file."""
    return [Row(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []
