"""Runs the interpreted tests in a process of their own: Triton reads TRITON_INTERPRET when it decorates."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")


def test_kernels_in_the_interpreter():
    folder = Path(__file__).parent / "interpreted"
    command = [sys.executable, "-m", "pytest", "--import-mode=importlib", "-p", "no:cacheprovider", str(folder)]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    tail = "\n".join((done.stdout + done.stderr).splitlines()[-120:])
    assert done.returncode == 0, tail
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed, tail
    assert int(passed[1]) > 0
