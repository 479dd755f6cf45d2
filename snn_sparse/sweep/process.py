"""One search of a sweep in a process of its own: started, told to stop, its end put in a word.

The process dies with whoever started it: on Linux the kernel sends it SIGTERM when that process goes, however it went.
Its log file is locked for as long as it runs, so that no second process works in the same directory.
"""

import ctypes
import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from snn_sparse.sweep.planned import PlannedSearch

POLL = 0.1  # seconds between two looks at a search
PATIENCE = 60.0  # seconds for an earlier process of the same search to finish its checkpoint
_TAIL = 4096  # bytes of a log in which its last line is looked for
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None

Asked = Callable[[], int | None]
State = Literal["done", "failed", "stopped"]


@dataclass(frozen=True)
class Outcome:
    """How a search ended.

    Attributes:
        name: the search's.
        state: ``done``, ``failed`` or ``stopped``.
        reason: one line, of a search that is not done.
        seconds: that this start of it took.
    """

    name: str
    state: State
    reason: str = ""
    seconds: float = 0.0


Report = Callable[[Outcome], None]


def without(search: PlannedSearch, needed: Outcome) -> Outcome:
    """Outcome of a search that needs the run of another one, which is not done: it shares that one's state."""
    return Outcome(search.name, needed.state, f"{needed.name}, which it is like, is {needed.state}")


def is_finished(search: PlannedSearch) -> bool:
    """Whether an earlier sweep carried this very command out, and its run is still there."""
    try:
        done = json.loads(_beside(search, ".done").read_text())
    except (FileNotFoundError, ValueError):
        return False
    return done == list(search.arguments) and (Path(search.run) / "config.json").exists()


def run_search_process(search: PlannedSearch, threads: int | None, asked: Asked, cwd: str | None = None) -> Outcome:
    """Run a search to its end; its output goes into ``NAME.log`` beside its directory.

    Args:
        search: which one.
        threads: OMP_NUM_THREADS of the process; as in this process if None.
        asked: the signal to pass on, once there is one. KeyboardInterrupt counts as SIGTERM.
        cwd: the directory to work in.
    """
    started = time.perf_counter()
    with _beside(search, ".log", cwd).open("ab") as log:
        if not lock_file(log, PATIENCE):
            return Outcome(search.name, "failed", "another process still runs this search")
        command = [sys.executable, "-m", "snn_sparse", *search.arguments]
        log.write(f"$ {shlex.join(command)}\n".encode())
        log.flush()
        process = _start(command, threads, log, cwd)
        try:
            status, stopped = _wait(process, asked)
        finally:
            if process.returncode is None:  # whatever went wrong here, nobody else would stop it
                process.terminate()
    seconds = time.perf_counter() - started
    if status == 0:
        _beside(search, ".done", cwd).write_text(json.dumps(search.arguments))
        return Outcome(search.name, "done", "", seconds)
    if stopped or status in (128 + signal.SIGTERM, 128 + signal.SIGINT, -signal.SIGTERM, -signal.SIGINT):
        return Outcome(search.name, "stopped", "the same command goes on", seconds)
    return Outcome(search.name, "failed", _reason(_beside(search, ".log", cwd), status), seconds)


def _beside(search: PlannedSearch, ending: str, cwd: str | None = None) -> Path:
    return Path(cwd or ".") / f"{search.run}{ending}"


def lock_file(file: BinaryIO, patience: float) -> bool:
    """Lock an open file for as long as anybody has it open, processes that inherit it included.

    Args:
        file: which one.
        patience: seconds to wait for it.

    Returns:
        false if somebody else keeps it locked; true too on a file system that has no locks.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL)
        except OSError:
            return True


def _start(command: list[str], threads: int | None, log: BinaryIO, cwd: str | None) -> subprocess.Popen[bytes]:
    environment = dict(os.environ) if threads is None else {**os.environ, "OMP_NUM_THREADS": str(threads)}
    parent = os.getpid()

    def in_the_child() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, [])  # Ray's processes block SIGINT, shells ignore it for jobs
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # it died before the line above
                os._exit(128 + signal.SIGTERM)

    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=environment,
        cwd=cwd,
        start_new_session=True,  # a Ctrl-C reaches the sweep alone, which passes it on once
        preexec_fn=in_the_child,
    )


def _wait(process: subprocess.Popen[bytes], asked: Asked) -> tuple[int, bool]:
    """Exit status, and whether the search was told to stop."""
    passed_on = False
    while True:
        try:
            return process.wait(POLL), passed_on
        except subprocess.TimeoutExpired:
            number = asked()
        except KeyboardInterrupt:  # how Ray cancels a task
            number = signal.SIGTERM
        if number is not None and not passed_on:
            process.send_signal(number)
            passed_on = True


def _reason(log: Path, status: int) -> str:
    """The last line of a log, or the signal that ended its process."""
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL))
        lines = file.read().decode(errors="replace").splitlines()
    said = [line.strip() for line in lines if line.strip()]
    return said[-1].removeprefix("snn-sparse: error: ") if said else f"exit status {status}"
