"""make gpu-check on a machine without a GPU: its runner, its steps, and a rehearsal of all of them, offline."""

import os
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_check
from benchmarks.gpu_check import main, run_steps
from benchmarks.gpu_check_run import HERE, run_command, run_timed
from benchmarks.gpu_check_setup import Ready
from benchmarks.gpu_check_steps import STEPS, Place, Step, choose
from benchmarks.gpu_check_training import known
from benchmarks.rows import SKIPPED, read

sys.path.insert(0, str(Path(__file__).parent))
from kit_case import MODULE, make_kit


def python(code, name="s", limit=60, needs=None):
    return Step("a", name, lambda place: [sys.executable, "-c", code], limit, needs)


def test_without_a_gpu_one_line_and_status_2(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stop:
        main(["--out", str(tmp_path)])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "gpu-check: error: torch sees no NVIDIA GPU; --rehearse does without\n"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--only", "a,nothing"], "--only: no step 'nothing': choose from a, b, "),
        (["--kit", "/no/such/kit"], "--kit /no/such/kit is no kit (FileNotFoundError): make one with `make gpu-kit`"),
    ],
)
def test_wrong_arguments_are_one_line_and_status_2(flags, said, capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        main(["--rehearse", "quick", "--out", str(tmp_path), *flags])
    assert stop.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith(f"gpu-check: error: {said}")
    assert line.count("\n") == 1


def test_outcomes_and_what_is_there_after_each_step(tmp_path):
    work, out, seen = tmp_path / "work", tmp_path / "out", []
    work.mkdir()
    row = {"case": "c", "provider": "p", "metric": "seconds", "device": "d", "versions": "", "commit": "", "date": ""}
    row |= {"median": 0.002, "p20": 1.0, "p80": 1.0}
    write = f"import json; open({str(work / 'rows.jsonl')!r}, 'a').write(json.dumps({row!r}) + '\\n'); print('said')"
    chosen = [
        python(write, "good"),
        python("raise SystemExit(3)", "bad"),
        python("import time; time.sleep(60)", "slow", limit=1),
        python("pass", "absent", needs="no-such-program"),
    ]

    def run(command, limit, log, environment):
        seen.append(sorted(p.name for p in out.iterdir()) if out.exists() else [])
        return run_timed(command, limit, log, environment)

    found = run_steps(chosen, Place(work), Ready(dict(os.environ)), out, 200, run)
    assert [(name, outcome) for name, outcome, _ in found] == [
        ("good", "passed"),
        ("bad", "FAILED (exit status 3)"),
        ("slow", "ran out of time"),
        ("absent", "left out: no no-such-program"),
    ]
    assert seen == [[], *[["log.txt", "report.txt", "rows.jsonl"]] * 2]
    assert "said" in (out / "log.txt").read_text()
    assert "c | p: 2.000 ms" in (out / "report.txt").read_text()
    found = run_steps(chosen[:1], Place(work), Ready({}), out, 0, run)
    assert [outcome for _, outcome, _ in found] == ["left out: no time left"]


def test_a_step_is_killed_with_its_children(tmp_path):
    noted = tmp_path / "noted"
    child = f"import time, pathlib; time.sleep(3); pathlib.Path({str(noted)!r}).touch()"
    parent = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); "
    started = time.perf_counter()
    for last, limit, expected in (("time.sleep(60)", 1.0, 124), ("raise SystemExit(0)", 60.0, 0)):
        command = [sys.executable, "-c", parent + last]
        assert run_command(command, limit, tmp_path / "log", dict(os.environ)) == expected
    time.sleep(max(0.0, 5 - (time.perf_counter() - started)))
    assert not noted.exists()


def test_statuses_of_what_does_not_end_by_itself(tmp_path):
    kill = [sys.executable, "-c", "import os; os.kill(os.getpid(), 11)"]
    assert run_command(kill, 60, tmp_path / "log", dict(os.environ)) == 128 + 11
    assert run_command(["/no/such/program"], 60, tmp_path / "log", {}) == 127
    assert "No such file" in (tmp_path / "log").read_text()


def test_steps_are_taken_singly():
    assert {step.group for step in STEPS} == set("abcde")
    assert [step.group for step in STEPS] == sorted(step.group for step in STEPS)  # in order of worth
    assert all(step.limit <= 600 and "," not in step.name for step in STEPS)
    assert [s.name for s in choose("d,first-use checks")] == ["first-use checks", "search"]
    assert choose(None) == list(STEPS)


def test_commands_of_a_gpu_name_what_exists(tmp_path):
    for step in STEPS:
        command = step.command(Place(tmp_path))
        assert command[0] in (sys.executable, step.needs)
        assert "benchmarks.gpu_check_stand_in" not in command
        for word in command:
            assert not word.startswith("tests/") or (HERE / word.split("::")[0]).exists()
        if "benchmarks.gpu_check_training" in command:
            first = command.index("benchmarks.gpu_check_training") + 2
            assert set(command[first : command.index("--out")]) <= set(known())


@pytest.mark.slow
def test_a_rehearsal_of_everything_offline(tmp_path, monkeypatch, capsys):
    pytest.importorskip("triton")
    kit, out = make_kit(tmp_path / "kit"), tmp_path / "out"
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nobody listens
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    code = main(["--rehearse", "quick", "--kit", str(kit), "--out", str(out)])
    said = capsys.readouterr().out
    assert code == 0, said + (out / "log.txt").read_text()[-6000:]
    assert f"installed {MODULE}" in said
    report = (out / "report.txt").read_text()
    assert all(f"{step.name:28} passed" in report for step in STEPS)
    names = {"log.txt", "profile.txt", "report.txt", "rows.jsonl", "search.json"}
    assert {p.name for p in out.iterdir()} - {"measured.json"} == names
    rows = read(out / "rows.jsonl")
    timed = {r.provider for r in rows if r.metric == "seconds"}
    assert {"fused dense bf16", "fused 95 % uniform bf16", "fused", "fused packed"} <= timed
    assert {r.commit for r in rows} == {"abc"}
    assert all("stand-in" in r.device for r in rows)  # never to be taken for a GPU's
    assert not any(r.provider.startswith("fused") for r in rows if r.metric == SKIPPED)
    assert "_forward_kernel" in (out / "profile.txt").read_text()


def test_a_failure_is_told(monkeypatch, tmp_path, capsys):
    for outcome, expected in (("passed", 0), ("FAILED (exit status 1)", 1), ("ran out of time", 1), ("left out: x", 0)):
        monkeypatch.setattr(gpu_check, "run_timed", lambda *a, outcome=outcome: (outcome, 1.0))
        assert main(["--rehearse", "quick", "--out", str(tmp_path), "--only", "c"]) == expected
        assert f"neuron operator              {outcome}" in capsys.readouterr().out
