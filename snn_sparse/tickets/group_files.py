"""The run directory of many processes: rank 0 reads and writes it, the others are told."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from snn_sparse.tickets.run_files import RunFiles, State
from snn_sparse.tickets.settings import Settings
from snn_sparse.tickets.ticket import Ticket
from snn_sparse.training import Group, SharedPlans


class GroupFiles:
    """All that a search asks of :class:`RunFiles`, for each process of a group.

    What is read comes from rank 0, with its errors, so all ranks must read the same at the same time; what is written,
    rank 0 writes, and other ranks go on at once.

    Args:
        root: the directory, which only rank 0 needs to see.
        group: the processes.

    Attributes:
        notes: what had to be repaired or left out; rank 0 alone has them.
    """

    def __init__(self, root: str | Path, group: Group) -> None:
        self.root = Path(root)
        self._group, self._files = group, RunFiles(root)
        self.notes = self._files.notes
        self.level, self.ticket, self.checkpoint = self._files.level, self._files.ticket, self._files.checkpoint

    def inside(self, name: str) -> "GroupFiles":
        """The run in a sub-directory."""
        return GroupFiles(self.root / name, self._group)

    # ---- told by rank 0 ----------------------------------------------------------------------------------------------

    def start(self, settings: Settings) -> None:
        """As :meth:`RunFiles.start`."""
        self._group.on_first(lambda: self._files.start(settings))

    @contextmanager
    def alone(self) -> Iterator[None]:
        """As :meth:`RunFiles.alone`: inside, no other group has this directory."""
        with ExitStack() as stack:
            self._group.on_first(lambda: stack.enter_context(self._files.alone()))
            yield

    def config(self) -> dict[str, Any]:
        """As :meth:`RunFiles.config`."""
        return self._group.on_first(self._files.config)

    @property
    def run(self) -> str | None:
        """Identity of the run."""
        return self._group.on_first(lambda: self._files.run)

    def load_ticket(self, level: int) -> Ticket | None:
        """As :meth:`RunFiles.load_ticket`."""
        return self._group.on_first(lambda: self._files.load_ticket(level))

    def load_checkpoint(self, level: int, device: str) -> State | None:
        """As :meth:`RunFiles.load_checkpoint`."""
        return self._group.on_first(lambda: self._files.load_checkpoint(level, device))

    def load_memory(self, device: str) -> State | None:
        """As :meth:`RunFiles.load_memory`."""
        return self._group.on_first(lambda: self._files.load_memory(device))

    def plans(self) -> SharedPlans:
        """How the run's layers compute, on every rank as on rank 0."""
        return SharedPlans(self._group, self._files.plans() if self._group.first else None)

    # ---- written by rank 0 -------------------------------------------------------------------------------------------

    def _write(self, action: Callable[[], None]) -> None:
        if self._group.first:
            action()

    def finish_level(self, level: int, ticket: Ticket) -> None:
        """As :meth:`RunFiles.finish_level`."""
        self._write(lambda: self._files.finish_level(level, ticket))

    def forget_checkpoints(self, level: int) -> None:
        """As :meth:`RunFiles.forget_checkpoints`."""
        self._write(lambda: self._files.forget_checkpoints(level))

    def save_checkpoint(self, level: int, state: State) -> None:
        """As :meth:`RunFiles.save_checkpoint`."""
        self._write(lambda: self._files.save_checkpoint(level, state))

    def save_memory(self, memory: State) -> None:
        """As :meth:`RunFiles.save_memory`."""
        self._write(lambda: self._files.save_memory(memory))

    def append_metrics(self, line: dict[str, Any]) -> None:
        """As :meth:`RunFiles.append_metrics`."""
        self._write(lambda: self._files.append_metrics(line))

    def forget_metrics(self, level: int, epoch: int) -> None:
        """As :meth:`RunFiles.forget_metrics`."""
        self._write(lambda: self._files.forget_metrics(level, epoch))

    def miss_metrics(self, level: int, epochs: int) -> None:
        """Leave a note if there are fewer lines of a level than it has had epochs."""
        self._write(lambda: self._files.miss_metrics(level, epochs))
