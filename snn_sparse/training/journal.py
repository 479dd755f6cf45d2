"""A file of JSON lines that only grows: a kill costs no line but the one being written, and damage shows."""

import json
import os
import zlib
from pathlib import Path
from typing import Any

from snn_sparse.training.files import write_atomic

Entry = dict[str, Any]


class Journal:
    """Entries, one a line, each with a checksum.

    Args:
        path: of the file.
        owner: whose lines they are; those of another owner count as damaged. Without one, lines may lack a checksum.
    """

    def __init__(self, path: Path, owner: str = "") -> None:
        self.path, self.owner = path, owner

    def _checksum(self, entry: Entry) -> str:
        return f"{zlib.crc32((self.owner + json.dumps(entry, sort_keys=True)).encode()):08x}"

    def _parse(self, line: bytes) -> Entry | None:
        try:
            entry = json.loads(line)
            checksum = entry.pop("crc", None) if isinstance(entry, dict) else None
        except (ValueError, RecursionError):
            return None
        if not isinstance(entry, dict) or (checksum is None and self.owner):
            return None
        return entry if checksum in (None, self._checksum(entry)) else None

    def read(self) -> tuple[list[Entry], int]:
        """List the entries in order, and count the lines that are damaged, or cut short by a kill."""
        lines = self.path.read_bytes().splitlines() if self.path.exists() else []
        found = [self._parse(line) for line in lines]
        return [entry for entry in found if entry is not None], found.count(None)

    def _line(self, entry: Entry) -> bytes:
        return (json.dumps({**entry, "crc": self._checksum(entry)}, allow_nan=False) + "\n").encode()

    def append(self, entry: Entry) -> None:
        """Add an entry, on disk when this returns; where that fails, the file is as it was."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab", buffering=0) as f:
            before = f.tell()
            try:
                line = self._line(entry)
                if f.write(line) != len(line):
                    raise OSError(f"no room for a line in {self.path}")
                os.fsync(f.fileno())
            except BaseException:
                os.ftruncate(f.fileno(), before)
                raise

    def rewrite(self, entries: list[Entry]) -> None:
        """Replace all entries, atomically."""
        write_atomic(self.path, b"".join(map(self._line, entries)))
