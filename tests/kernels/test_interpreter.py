"""Runs the interpreted tests in processes of their own: Triton reads TRITON_INTERPRET when it decorates."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("triton")


FOLDER = Path(__file__).parent / "interpreted"
# The slowest first, so that both cores are busy to the end: the interpreter runs on one.
SLOW = ["test_neuron_kernels.py", "test_planned_layers.py", "test_torch_library.py", "test_conv_kernels.py"]
FILES = sorted(FOLDER.glob("test_*.py"), key=lambda f: (f.name not in SLOW, f.name))


def run(file):
    command = [sys.executable, "-m", "pytest", "--import-mode=importlib", "-p", "no:cacheprovider", str(file)]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_kernels_in_the_interpreter():
    assert set(SLOW) <= {file.name for file in FILES}
    with ThreadPoolExecutor(2) as workers:
        for done in workers.map(run, FILES):
            tail = "\n".join((done.stdout + done.stderr).splitlines()[-120:])
            assert done.returncode == 0, tail
            passed = re.search(r"(\d+) passed", done.stdout)
            assert passed, tail
            assert int(passed[1]) > 0
