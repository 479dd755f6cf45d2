"""The run directory: ``config.json``, ``metrics.jsonl``, ``memory.pt``; in ``level_NN/`` a ticket or checkpoints.

Every file carries a checksum and says which run it belongs to, so that damaged or misplaced ones are never used.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from snn_sparse.tickets import run_config
from snn_sparse.tickets.run_lock import only_process
from snn_sparse.tickets.run_plans import RunPlans
from snn_sparse.tickets.settings import Settings
from snn_sparse.tickets.ticket import Ticket
from snn_sparse.tickets.ticket_file import TicketHeader, read_header
from snn_sparse.training.files import (
    DamagedFileError,
    load_checkpoint,
    remove_temporaries,
    save_checkpoint,
)
from snn_sparse.training.journal import Entry, Journal

State = dict[str, Any]


class RunExistsError(ValueError):
    """The directory holds a run of another configuration."""


class RunFiles:
    """Reads and writes one run directory; every write is atomic.

    Args:
        root: the directory, ``runs/NAME``.

    Attributes:
        notes: what had to be repaired or left out, for whoever tells the user.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.notes: list[str] = []
        self._metrics: list[Entry] | None = None
        self._run: str | None = None

    def inside(self, name: str) -> "RunFiles":
        """The run in a sub-directory."""
        return RunFiles(self.root / name)

    def start(self, settings: Settings) -> None:
        """Write ``config.json``, or check that the one there says the same.

        Raises:
            RunExistsError: it says something else, or the directory is no run.
            RunInUseError: another process has the directory.
            DamagedFileError: it is damaged, and so is its copy.
        """
        if run_config.is_new(self.root) and run_config.is_foreign(self.root):
            raise RunExistsError(f"out {self.root} exists and is no run of snn-sparse: choose another --out")
        with self.alone():
            if run_config.is_new(self.root):
                run_config.write_config(self.root, settings)
        old = Settings().as_dict() | self.config()["settings"]  # an older run knew fewer settings
        new = json.loads(json.dumps(settings.as_dict()))
        differing = [k for k in {**old, **new} if old.get(k) != new.get(k)]
        if differing:
            k = differing[0]
            raise RunExistsError(
                f"out {self.root} holds another configuration: {k} is {old.get(k)!r} there, {new.get(k)!r} here; "
                "choose another --out"
            )

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Inside, no other process has this directory; what killed writes have left is removed first.

        Raises:
            RunInUseError: another process has it.
        """
        with only_process(self.root):
            for folder in (self.root, *self.root.glob("level_*")):
                remove_temporaries(folder)
            yield

    def config(self) -> dict[str, Any]:
        """Contents of ``config.json``.

        Raises:
            ValueError: the directory is no run. DamagedFileError: it is damaged, and so is its copy.
        """
        return run_config.read_config(self.root, self.notes)

    @property
    def run(self) -> str | None:
        """Identity of the run, which its files carry; None in a run of an earlier version."""
        if self._run is None and not run_config.is_new(self.root):
            self._run = self.config().get("run")
        return self._run

    def level(self, level: int) -> Path:
        """Directory of a level."""
        return self.root / f"level_{level:02d}"

    def ticket(self, level: int) -> Path:
        """Path of a level's ticket."""
        return self.level(level) / "ticket.safetensors"

    def checkpoint(self, level: int) -> Path:
        """Path of a level's checkpoint."""
        return self.level(level) / "checkpoint.pt"

    def earlier_checkpoint(self, level: int) -> Path:
        """Path of the checkpoint before that, for the case that it is damaged."""
        return self.level(level) / "checkpoint.earlier.pt"

    def levels(self) -> list[int]:
        """The finished levels, in order."""
        names = (p.parent.name.removeprefix("level_") for p in self.root.glob("level_*/ticket.safetensors"))
        return sorted(int(name) for name in names if name.isdecimal())

    def header(self, level: int) -> TicketHeader:
        """Everything about a finished level but its weights.

        Raises:
            TicketError: its ticket is damaged. DamagedFileError: it is of another level or run.
        """
        header = read_header(self.ticket(level))
        self._check_belongs(level, header.meta)
        return header

    def load_ticket(self, level: int) -> Ticket | None:
        """The ticket of a finished level, or None.

        Raises:
            TicketError: it is damaged. DamagedFileError: it is of another level or run.
        """
        if not self.ticket(level).exists():
            return None
        ticket = Ticket.load(self.ticket(level))
        self._check_belongs(level, ticket.meta)
        return ticket

    def _check_belongs(self, level: int, meta: dict[str, Any]) -> None:
        config, path = self.config(), self.ticket(level)
        if meta.get("level") != level:
            raise DamagedFileError(f"{path} is the ticket of level {meta.get('level')}, not of level {level}")
        if meta.get("run") != config.get("run"):
            raise DamagedFileError(f"{path} is the ticket of another run")
        for name, value in (meta.get("settings") or {}).items():
            if config["settings"].get(name, value) != value:
                raise DamagedFileError(f"{path} is the ticket of another search: its {name} is {value!r}")

    def finish_level(self, level: int, ticket: Ticket) -> None:
        """Write a level's ticket; its checkpoints have done their duty."""
        ticket.save(self.ticket(level))
        self.forget_checkpoints(level)

    def forget_checkpoints(self, level: int) -> None:
        """Remove the checkpoints of a level."""
        for path in (self.checkpoint(level), self.earlier_checkpoint(level)):
            path.unlink(missing_ok=True)

    def save_checkpoint(self, level: int, state: State) -> None:
        """Write the state of a level under way; the one before is kept."""
        save_checkpoint(
            self.checkpoint(level), {**state, "level": level, "run": self.run}, self.earlier_checkpoint(level)
        )

    def load_checkpoint(self, level: int, device: str) -> State | None:
        """The state of a level under way: of the newest checkpoint that is whole; None without one."""
        for path in (self.checkpoint(level), self.earlier_checkpoint(level)):
            found = self._load(path, device, {"level": level, "run": self.run})
            if found is not None:
                return found
        return None

    def _load(self, path: Path, device: str, belongs: State) -> State | None:
        """Contents of a file of ours; None where there is none, or a note is left of why it does not serve."""
        if not path.exists():
            return None
        try:
            found = load_checkpoint(path, device)
        except DamagedFileError as error:
            self.notes.append(str(error))
            return None
        for name, value in belongs.items():
            if found.pop(name, value) != value:
                self.notes.append(f"{path} is of another {name}")
                return None
        return found

    def save_memory(self, memory: State) -> None:
        """Write what later levels must not forget."""
        save_checkpoint(self.root / "memory.pt", {"memory": memory, "run": self.run})

    def load_memory(self, device: str) -> State | None:
        """Memory that earlier levels left: nothing at the start, None where it is lost."""
        path = self.root / "memory.pt"
        if not self.levels():  # of a first level that was never finished, and is trained anew
            return {}
        found = self._load(path, device, {"run": self.run})
        return None if found is None else found.get("memory", found)

    def _journal(self) -> Journal:
        return Journal(self.root / "metrics.jsonl", self.run or "")

    def plans(self) -> RunPlans:
        """How the run's layers compute."""
        found = RunPlans(self.root / "plans.jsonl", self.run or "")
        if found.damaged:
            self.notes.append(
                f"{self.root / 'plans.jsonl'}: {found.damaged} damaged line(s); those layers are planned anew, and "
                "later results may differ in the last bits"
            )
        return found

    def metrics(self) -> list[Entry]:
        """The lines of ``metrics.jsonl``, one an epoch; damaged ones are left out, and a note tells."""
        if self._metrics is None:
            self._metrics, damaged = self._journal().read()
            if damaged:
                self.notes.append(f"{self.root / 'metrics.jsonl'}: {damaged} damaged line(s) left out")
        return self._metrics

    def append_metrics(self, line: Entry) -> None:
        """Add a line to ``metrics.jsonl``."""
        self.metrics().append(line)
        self._journal().append(line)

    def miss_metrics(self, level: int, epochs: int) -> None:
        """Leave a note if there are fewer lines of a level than it has had epochs."""
        lost = epochs - sum(m["level"] == level for m in self.metrics())
        if lost > 0:
            self.notes.append(f"{self.root / 'metrics.jsonl'}: {lost} line(s) of level {level} are lost")

    def forget_metrics(self, level: int, epoch: int) -> None:
        """Drop the lines of a level after ``epoch``: a kill came between them and the checkpoint; and damaged ones."""
        kept = [m for m in self.metrics() if m["level"] != level or m["epoch"] <= epoch]
        if (kept, 0) != self._journal().read():
            self._metrics = kept
            self._journal().rewrite(kept)
