"""Measurements of this machine on disk: first-use checks, and which configuration won a race.

``SNN_SPARSE_CACHE`` names another file than that in the user's cache directory; an empty value means none.
Where nothing can be kept, everything works, is measured anew in every process, and one warning says why.
"""

import json
import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

MAX_ENTRIES = 20_000
LOCK_SECONDS = 10.0
T = TypeVar("T")

_warned = False


class Cache:
    """Values by key in one JSON file; a file, or a value, that makes no sense is as good as none.

    Writers take turns by a lock beside the file, so that no update is lost; readers need none, since the file is
    replaced whole. The oldest entries go where there are more than :data:`MAX_ENTRIES`.
    """

    def __init__(self) -> None:
        named = os.environ.get("SNN_SPARSE_CACHE")
        self.path: Path | None = None
        self._problem = ""
        if named is None:
            self._find()
        elif named and not Path(named).name:  # such as "/"
            self._problem = f"SNN_SPARSE_CACHE={named} names no file"
        elif named:
            self.path = Path(named)

    def _find(self) -> None:
        """Take the file in the user's cache directory, if there is one."""
        from platformdirs import user_cache_path

        try:
            folder = user_cache_path("snn_sparse", appauthor=False)
        except (OSError, KeyError, RuntimeError) as error:  # no HOME, and a user whom the system does not know
            self._problem = f"there is no cache directory: {error}"
            return
        if folder.is_absolute():  # else nobody said what "~" is
            self.path = folder / "measured.json"
        else:
            self._problem = f"the cache directory {folder} is not an absolute path: set HOME or SNN_SPARSE_CACHE"

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self.path.read_bytes()) if self.path is not None else {}
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def get(self, key: str, parse: Callable[[Any], T | None]) -> T | None:
        """Return what ``parse`` makes of the value under ``key``; None without one, or where it makes no sense."""
        found = self._read().get(key)
        try:
            return None if found is None else parse(found)
        except (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError):
            return None

    def put(self, key: str, value: Any) -> None:
        """Add a value that JSON can hold; where the file cannot be written, the first call in a process warns."""
        if self.path is None:
            _warn(self._problem)
            return
        from filelock import FileLock, Timeout

        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path.with_name(f"{self.path.name}.lock"), timeout=LOCK_SECONDS):
                entries = self._read()
                entries.pop(key, None)
                entries[key] = value
                kept = dict(list(entries.items())[-MAX_ENTRIES:])
                temporary.write_text(json.dumps(kept))
                os.replace(temporary, self.path)
        except (OSError, Timeout, NotImplementedError) as error:  # the last: a file system without locks
            _warn(f"{self.path} cannot be written: {type(error).__name__}: {error}")
            with suppress(OSError):  # where it cannot even be looked for, it was not written
                temporary.unlink()


def _warn(problem: str) -> None:
    """Say once in a process that measurements are not kept; without a problem nobody wanted them kept."""
    global _warned
    if problem and not _warned:
        _warned = True
        warnings.warn(
            f"measurements of this machine are not kept, but made again in every process: {problem}", stacklevel=3
        )
