"""Measurements of this machine on disk: first-use checks, and which configuration won a race.

``SNN_SPARSE_CACHE`` names another file than that in the user's cache directory; an empty value means none.
"""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

MAX_ENTRIES = 20_000
LOCK_SECONDS = 10.0
T = TypeVar("T")


class Cache:
    """Values by key in one JSON file; a file, or a value, that makes no sense is as good as none.

    Writers take turns by a lock beside the file, so that no update is lost; readers need none, since the file is
    replaced whole. The oldest entries go where there are more than :data:`MAX_ENTRIES`.
    """

    def __init__(self) -> None:
        from platformdirs import user_cache_path

        named = os.environ.get("SNN_SPARSE_CACHE")
        default = user_cache_path("snn_sparse", appauthor=False) / "measured.json"
        self.path = default if named is None else Path(named) if named else None

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
        """Add a value that JSON can hold; where the file cannot be written, nothing happens."""
        if self.path is None:
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
                temporary.write_text(json.dumps(kept, indent=1))
                os.replace(temporary, self.path)
        except (OSError, Timeout):
            with suppress(OSError):  # where it cannot even be looked for, it was not written
                temporary.unlink()
