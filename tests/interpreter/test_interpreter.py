"""Runs each file of interpreted tests in a process of its own: Triton reads TRITON_INTERPRET when it decorates."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

TESTS = Path(__file__).parents[1]
FILES = sorted(file for folder in ("interpreter", "nn", "ops") for file in (TESTS / folder).rglob("interpreted_*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(TESTS)))
def test_in_the_interpreter(file):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "--durations=5", str(file)]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=TESTS.parent, check=False)
    assert done.returncode == 0, "\n".join((done.stdout + done.stderr).splitlines()[-120:])
