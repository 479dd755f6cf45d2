"""The run directory: ``config.json``, ``metrics.jsonl``, ``memory.pt``; in ``level_NN/`` a ticket or a checkpoint."""

import json
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy
import torch

from snn_sparse.tickets.settings import Settings
from snn_sparse.tickets.ticket import Ticket
from snn_sparse.training.files import load_checkpoint, save_checkpoint, write_atomic, write_json
from snn_sparse.version import __version__


class RunExistsError(ValueError):
    """The directory holds a run of another configuration."""


def environment(device: str) -> dict[str, Any]:
    """Versions, device and commit of this run."""
    here = Path(__file__).resolve().parent
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False
    ).stdout.strip()
    cuda = device.startswith("cuda") and torch.cuda.is_available()
    return {
        "snn_sparse": __version__,
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if cuda else f"cpu, {torch.get_num_threads()} threads",
        "commit": commit or None,
    }


class RunFiles:
    """Reads and writes one run directory; every write is atomic.

    Args:
        root: the directory, ``runs/NAME``.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self._metrics: list[dict[str, Any]] | None = None

    def start(self, settings: Settings) -> None:
        """Write ``config.json``, or check that the one there says the same.

        Raises:
            RunExistsError: it says something else, or the directory is no run.
        """
        config = self.root / "config.json"
        if not config.exists():
            if self.root.exists() and (not self.root.is_dir() or any(self.root.iterdir())):
                raise RunExistsError(f"out {self.root} exists and is no run of snn-sparse: choose another --out")
            write_json(config, {"settings": settings.as_dict(), "environment": environment(settings.device)})
            return
        old = Settings().as_dict() | self.config()["settings"]  # an older run knew fewer settings
        new = json.loads(json.dumps(settings.as_dict()))
        differing = [k for k in {**old, **new} if old.get(k) != new.get(k)]
        if differing:
            k = differing[0]
            raise RunExistsError(
                f"out {self.root} holds another configuration: {k} is {old.get(k)!r} there, {new.get(k)!r} here; "
                "choose another --out"
            )

    def config(self) -> dict[str, Any]:
        """Contents of ``config.json``.

        Raises:
            ValueError: the directory is no run, or the file is damaged.
        """
        try:
            return json.loads((self.root / "config.json").read_text())
        except FileNotFoundError:
            raise ValueError(f"{self.root} is no run directory: it has no config.json") from None
        except json.JSONDecodeError as error:
            raise ValueError(f"{self.root / 'config.json'} is damaged: {error}") from error

    def level(self, level: int) -> Path:
        """Directory of a level."""
        return self.root / f"level_{level:02d}"

    def ticket(self, level: int) -> Path:
        """Path of a level's ticket."""
        return self.level(level) / "ticket.safetensors"

    def checkpoint(self, level: int) -> Path:
        """Path of a level's checkpoint."""
        return self.level(level) / "checkpoint.pt"

    def levels(self) -> list[int]:
        """The finished levels, in order."""
        return sorted(int(p.parent.name.removeprefix("level_")) for p in self.root.glob("level_*/ticket.safetensors"))

    def load_ticket(self, level: int) -> Ticket | None:
        """The ticket of a finished level, or None."""
        return Ticket.load(self.ticket(level)) if self.ticket(level).exists() else None

    def finish_level(self, level: int, ticket: Ticket) -> None:
        """Write a level's ticket; its checkpoint has done its duty."""
        ticket.save(self.ticket(level))
        self.checkpoint(level).unlink(missing_ok=True)

    def save_checkpoint(self, level: int, state: dict[str, Any]) -> None:
        """Write the state of a level under way."""
        save_checkpoint(self.checkpoint(level), state)

    def load_checkpoint(self, level: int, device: str) -> dict[str, Any] | None:
        """The state of a level under way, or None."""
        path = self.checkpoint(level)
        return load_checkpoint(path, device) if path.exists() else None

    def save_memory(self, memory: dict[str, Any]) -> None:
        """Write what later levels must not forget."""
        save_checkpoint(self.root / "memory.pt", memory)

    def load_memory(self, device: str) -> dict[str, Any]:
        """Read what earlier levels left to remember; empty at the start."""
        path = self.root / "memory.pt"
        return load_checkpoint(path, device) if path.exists() else {}

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``, one an epoch."""
        if self._metrics is None:
            path = self.root / "metrics.jsonl"
            self._metrics = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return self._metrics

    def append_metrics(self, line: dict[str, Any]) -> None:
        """Add a line to ``metrics.jsonl``."""
        self.metrics().append(line)
        self._write_metrics()

    def forget_metrics(self, level: int, epoch: int) -> None:
        """Drop the lines of a level after ``epoch``: a kill came between them and the checkpoint."""
        kept = [m for m in self.metrics() if m["level"] != level or m["epoch"] <= epoch]
        if len(kept) != len(self.metrics()):
            self._metrics = kept
            self._write_metrics()

    def _write_metrics(self) -> None:
        write_atomic(self.root / "metrics.jsonl", "".join(json.dumps(m) + "\n" for m in self.metrics()).encode())
