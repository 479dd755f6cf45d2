"""make gpu-check as far as a machine without a GPU can test it."""

import sys

import pytest
import torch

from benchmarks import gpu_check
from benchmarks.__main__ import CASES
from benchmarks.gpu_check import Step, main, run_command, run_steps, steps


def test_without_a_gpu_one_line_and_status_2(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "gpu-check: error: torch sees no NVIDIA GPU\n"


def test_outcomes():
    python = [sys.executable, "-c"]
    chosen = [
        Step("good", [*python, "pass"], 60),
        Step("bad", [*python, "raise SystemExit(3)"], 60),
        Step("slow", [*python, "import time; time.sleep(60)"], 1),
        Step("absent", ["no-such-program"], 200, "no-such-program"),
    ]
    found = run_steps(chosen, 200, run_command)
    assert [outcome for _, outcome, _ in found] == [
        "passed",
        "FAILED (exit status 3)",
        "ran out of time",
        "left out: no no-such-program",
    ]
    assert [outcome for _, outcome, _ in run_steps(chosen[:1], 0, run_command)] == ["left out: no time left"]


def test_a_step_may_take_what_others_leave():
    given = []
    run_steps([Step("a", [], 10), Step("b", [], 20)], 100, lambda command, limit: given.append(round(limit)) or 0)
    assert given == [80, 100]


def test_the_table_comes_last_and_a_failure_is_told(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    for code, expected in ((0, 0), (1, 1), (124, 1)):
        monkeypatch.setattr(gpu_check, "run_command", lambda command, limit, code=code: code)
        monkeypatch.setattr(gpu_check, "steps", lambda: [Step("tests", ["x"], 10)])
        assert main([]) == expected
        assert capsys.readouterr().out.splitlines()[-1].split()[0] == "tests"


def test_steps_are_commands_that_exist():
    assert sum(step.limit for step in steps()) <= gpu_check.SECONDS
    for step in steps():
        assert step.command[0] in (sys.executable, step.needs)
        if "benchmarks" in step.command:
            assert step.command[step.command.index("benchmarks") + 1] in CASES
        for word in step.command:
            assert not word.startswith("tests/") or (gpu_check.HERE / word.split("::")[0]).exists()
