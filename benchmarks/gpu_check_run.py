"""Runs commands with limits, each in a process group of its own that is killed whole."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
OUT_OF_TIME = 124  # exit status of what took too long
NOT_STARTED = 127


def run_command(command: Sequence[str], limit: float, log: Path, environment: Mapping[str, str]) -> int:
    """Run a command in the root of this checkout; whatever it leaves running is killed.

    Args:
        command: program and arguments.
        limit: seconds.
        log: file to which all that it prints is appended.
        environment: of the process, all of it.

    Returns:
        its exit status, 128 and the signal that ended it, 124 where it took too long, 127 where it did not start.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as text:
        try:
            process = subprocess.Popen(
                list(command), cwd=HERE, stdin=subprocess.DEVNULL, stdout=text, stderr=subprocess.STDOUT,
                env=dict(environment), start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            text.write(f"{error}\n".encode())
            return NOT_STARTED
        try:
            code = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            code = OUT_OF_TIME
        finally:  # a process group lives as long as one of its processes, and so does its number
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return code if code >= 0 else 128 - code


def run_timed(
    command: Sequence[str], limit: float, log: Path, environment: Mapping[str, str]
) -> tuple[str, float]:  # fmt: skip
    """Run a command as :func:`run_command` does; the outcome in words, and the seconds it took."""
    started = time.perf_counter()
    code = run_command(command, limit, log, environment)
    words = {0: "passed", OUT_OF_TIME: "ran out of time"}
    return words.get(code, f"FAILED (exit status {code})"), time.perf_counter() - started
