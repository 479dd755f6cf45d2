"""Winners of a run's races, in its directory: resumed, it computes as it began, whatever the machine's cache says."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from snn_sparse.ops.cache import Cache
from snn_sparse.training.journal import Journal
from snn_sparse.tuning import Winner


class RunPlans:
    """How each layer of a run computes: what the run has used before, else what this machine knows, else a race.

    Args:
        path: the file.
        run: identity of the run.

    Attributes:
        used: winners by the name of their race.
        damaged: number of plans that are lost; their layers are raced anew, and may round another way.
    """

    def __init__(self, path: Path, run: str) -> None:
        self._journal, self._machine = Journal(path, run), Cache()
        entries, self.damaged = self._journal.read()
        self.used = {entry["layer"]: entry["winner"] for entry in entries}
        if self.damaged:
            self._journal.rewrite(entries)

    def get(self, key: str, parse: Callable[[Any], Winner]) -> Winner | None:
        """The winner of a race; None where it must be run."""
        if key in self.used:
            return parse(self.used[key])
        found = self._machine.get(key, parse)
        if found is not None:
            self._remember(key, found.as_dict())
        return found

    def put(self, key: str, value: Any) -> None:
        """Remember the winner of a race: on disk before anything is computed with it."""
        self._remember(key, value)
        self._machine.put(key, value)

    def _remember(self, key: str, value: Any) -> None:
        self.used[key] = value
        self._journal.append({"layer": key, "winner": value})
