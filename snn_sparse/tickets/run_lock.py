"""One process a run directory: the second one is told who has it."""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

LOCK, OWNER = ".lock", ".owner.json"


class RunInUseError(ValueError):
    """Another process has the run directory."""


@contextmanager
def only_process(root: Path) -> Iterator[None]:
    """Inside, this process alone has ``root``, which is made if need be; a process that is killed gives it back.

    Raises:
        RunInUseError: another process has it; the message says which.
    """
    root.mkdir(parents=True, exist_ok=True)
    owner = root / OWNER
    lock = FileLock(root / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise RunInUseError(f"{root} is in use{_described(owner)}: stop that process first") from None
    try:
        owner.write_text(json.dumps({"process": os.getpid(), "host": socket.gethostname(), "since": time.ctime()}))
        yield
    finally:
        with suppress(OSError):
            owner.unlink()
        lock.release()


def _described(owner: Path) -> str:
    try:
        found = json.loads(owner.read_text())
        return f" by process {found['process']} on {found['host']} since {found['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # it is just being written
        return ""
