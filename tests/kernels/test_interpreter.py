"""Runs the interpreted tests in a process of their own: Triton reads TRITON_INTERPRET when it decorates."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")


FILES = sorted((Path(__file__).parent / "interpreted").glob("test_*.py"))


def test_kernels_in_the_interpreter():
    """Two processes, a core each: the interpreter runs on one."""
    command = [sys.executable, "-m", "pytest", "--import-mode=importlib", "-p", "no:cacheprovider"]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [*command, *map(str, files)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        for files in (FILES[::2], FILES[1::2])
    ]
    for process in started:
        output, _ = process.communicate()
        tail = "\n".join(output.splitlines()[-120:])
        assert process.returncode == 0, tail
        passed = re.search(r"(\d+) passed", output)
        assert passed, tail
        assert int(passed[1]) > 0
