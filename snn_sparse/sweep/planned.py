"""Planned searches, as plain data: what a Ray worker needs to know of them, without torch."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PlannedSearch:
    """One search of a sweep.

    Attributes:
        name: of its directory.
        run: its directory.
        arguments: those of ``snn-sparse``: ``search``, its flags and ``--out``.
        after: name of the search whose run it needs, or None.
    """

    name: str
    run: str
    arguments: tuple[str, ...]
    after: str | None = None


@dataclass(frozen=True)
class Plan:
    """A sweep, ready to run.

    Attributes:
        out: its directory.
        searches: in the order of the file, but a search that needs another comes behind it.
        left_out: combinations of the grid that differ from others only in settings that their method has no use for.
    """

    out: Path
    searches: tuple[PlannedSearch, ...]
    left_out: int
