"""Environment of a run: versions, device, threads, and what differs from where the run began."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy
import torch

from snn_sparse.tuning.race import processor
from snn_sparse.version import __version__


def environment(device: str) -> dict[str, Any]:
    """Versions, device and commit of this process."""
    here = Path(__file__).resolve().parent
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False
        ).stdout.strip()
    except OSError:  # there is no git
        commit = ""
    cuda = device.startswith("cuda") and torch.cuda.is_available()
    return {
        "snn_sparse": __version__,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if cuda else f"cpu, {torch.get_num_threads()} threads",
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),  # by torchrun
        "commit": commit or None,
    }


def changes(before: dict[str, Any], device: str) -> list[str]:
    """List, in words, what of the environment decides the last bits and is not as it was ``before``."""
    now = environment(device)
    names = ["torch", "snn_sparse", "processes"] + (["device"] if device.startswith("cuda") else ["processor"])
    return [
        f"{name} {before[name]} then, {now[name]} now" for name in names if before.get(name, now[name]) != now[name]
    ]
