"""Each example runs at small sizes, fuses all of its network, and finds both networks equal."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted(p for p in (ROOT / "examples").glob("*.py") if p.name != "common.py")


def run(example, *flags):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, example, *flags], capture_output=True, text=True, env=env, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda p: p.stem)
def test_fused_and_equal(example):
    if example.stem == "snntorch_tutorial":
        pytest.importorskip("snntorch")
    done = run(example, "--quick")
    assert done.returncode == 0, done.stderr
    fused, equal, faster = done.stdout.splitlines()
    assert re.fullmatch(r"\d+ modules run in \d+ stages, 0 were left as they are", fused)
    dtype, output, gradient = re.search(r"in (\w+): outputs (\S+), gradients (\S+) ", equal).groups()
    limit = {"float64": 1e-9, "float32": 1e-3}[dtype]
    assert float(output) <= limit
    assert float(gradient) <= limit
    assert re.fullmatch(r"a training step: [\d.]+ ms before, [\d.]+ ms after: [\d.]+ times faster", faster)


def test_a_wrong_size_is_one_line():
    done = run(ROOT / "examples" / "loop_network.py", "--width", "0")
    assert done.returncode == 2
    assert "width must be at least 1, got 0" in done.stderr.splitlines()[-1]
