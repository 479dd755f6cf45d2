"""One process a run, its own plans and threads, files that are its own; whatever does not serve is told."""

import json
import multiprocessing
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from searching import KillAfter, Killed, make, run, same, tickets

from snn_sparse.ops.cache import Cache
from snn_sparse.tickets.drivers import run_search
from snn_sparse.tickets.firing_rates import follow_rates, rates_of
from snn_sparse.tickets.run_files import RunExistsError, RunFiles
from snn_sparse.tickets.run_lock import RunInUseError, only_process
from snn_sparse.tickets.run_plans import RunPlans
from snn_sparse.tickets.settings import Settings
from snn_sparse.training.files import DamagedFileError
from snn_sparse.tuning import LayerTuner, Winner, choosing, cpu


def hold(root, held, done):
    with only_process(Path(root)):
        held.set()
        done.wait(60)


def test_the_second_process_is_told_who_has_the_run(tiny, tmp_path):
    search = make(tiny, tmp_path / "run", method="snip", end_iter=1)
    context = multiprocessing.get_context("spawn")
    held, done = context.Event(), context.Event()
    process = context.Process(target=hold, args=(str(tmp_path / "run"), held, done))
    process.start()
    assert held.wait(60)
    for attempt in (lambda: run_search(search), lambda: make(tiny, tmp_path / "run", method="snip", end_iter=1)):
        with pytest.raises(RunInUseError, match=rf"run is in use by process {process.pid} on .* since "):
            attempt()
    process.kill()  # a killed process gives it back
    process.join()
    run_search(search)
    assert search.files.levels() == [1]


def test_what_a_kill_in_the_first_moment_leaves_is_no_stranger(tmp_path):
    run_directory = tmp_path / "run"
    run_directory.mkdir()
    for name in (".lock", ".owner.json", ".config.json.abcdefgh.tmp"):
        (run_directory / name).write_text("{")
    RunFiles(run_directory).start(Settings())
    assert not list(run_directory.glob("*.tmp"))
    shutil.copy(run_directory / ".config.json", tmp_path / "copy")
    (run_directory / "config.json").unlink()  # killed between the copy and the file
    RunFiles(run_directory).start(Settings())
    assert (run_directory / "config.json").read_bytes() == (tmp_path / "copy").read_bytes()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".hidden").write_text("")
    with pytest.raises(RunExistsError, match="is no run"):
        RunFiles(tmp_path / "other").start(Settings())


def test_a_run_keeps_its_plans_whatever_the_machine_says(tmp_path, monkeypatch):
    monkeypatch.setenv("SNN_SPARSE_CACHE", str(tmp_path / "measured.json"))
    first, second = (Winner((float(n),), (9.0,)).as_dict() for n in (1, 2))
    plans = RunPlans(tmp_path / "plans.jsonl", "run")
    assert plans.get("layer", Winner.parse) is None
    plans.put("layer", first)
    assert Cache().get("layer", Winner.parse).seconds == (1.0,)
    Cache().put("layer", second)  # the machine thinks again
    Cache().put("another", second)
    again = RunPlans(tmp_path / "plans.jsonl", "run")
    assert again.get("layer", Winner.parse).seconds == (1.0,)
    assert again.get("another", Winner.parse).seconds == (2.0,)
    (tmp_path / "measured.json").unlink()
    again = RunPlans(tmp_path / "plans.jsonl", "run")
    assert again.get("another", Winner.parse).seconds == (2.0,)
    path = tmp_path / "plans.jsonl"
    path.write_bytes(path.read_bytes()[:-3])
    damaged = RunPlans(path, "run")
    assert damaged.damaged == 1
    assert damaged.get("another", Winner.parse) is None
    assert damaged.get("layer", Winner.parse).seconds == (1.0,)
    assert RunPlans(path, "run").damaged == 0  # it was repaired


def test_resumed_with_a_cold_cache_the_plans_are_those_of_the_run(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("SNN_SPARSE_CACHE", str(tmp_path / "a.json"))
    search = run(tiny, tmp_path / "run", method="imp")
    plans = (tmp_path / "run" / "plans.jsonl").read_text()
    assert plans.count("\n") > 5
    shutil.rmtree(tmp_path / "run" / "level_02")
    monkeypatch.setenv("SNN_SPARSE_CACHE", str(tmp_path / "b.json"))
    again = run(tiny, tmp_path / "run", method="imp")
    assert (tmp_path / "run" / "plans.jsonl").read_text() == plans
    assert same(tickets(search)[2].trained, tickets(again)[2].trained)


def test_deterministic_times_nothing(tiny, tmp_path, monkeypatch):
    races, usual = [], cpu.race
    monkeypatch.setattr(cpu, "race", lambda *args, **options: races.append(args) or usual(*args, **options))
    monkeypatch.setenv("SNN_SPARSE_CACHE", str(tmp_path / "none.json"))
    search = run(tiny, tmp_path / "run", method="imp", deterministic=True)
    assert search.files.levels() == [0, 1, 2]
    assert not races
    assert not (tmp_path / "run" / "plans.jsonl").exists()
    run(tiny, tmp_path / "timed", method="imp")
    assert races


def test_a_rule_for_every_layer():
    from snn_sparse.specs import ConvGeometry

    for size, images, density in ((32, 16, 0.05), (8, 16, 0.3), (4, 3, 0.02), (2, 80, 0.1), (1, 7, 0.01), (8, 5, 0.9)):
        g = ConvGeometry(3, images, 32, 24, size, size, (3, 3), 1, 1)
        keep = torch.rand(g.weight_shape) < density
        with choosing(timed=False):
            chosen = {LayerTuner(keep).on_cpu(g, torch.float32)[0] for _ in range(3)}
            dense, how = LayerTuner(None).on_cpu(g, torch.float32)
        assert len(chosen) == 1
        assert (chosen.pop().kind == "lanes") == (density < 0.4)
        assert (dense.kind, how.live) == ("nhwc", None)


def test_a_run_computes_with_the_threads_that_it_began_with(tiny, tmp_path):
    before = torch.get_num_threads()
    search = make(tiny, tmp_path / "run", method="snip", end_iter=1)
    config = tmp_path / "run" / "config.json"
    assert json.loads(config.read_text())["environment"]["threads"] == before
    seen = []
    search.progress.epoch = lambda *_: seen.append(torch.get_num_threads())
    torch.set_num_threads(before + 1)
    try:
        run_search(search)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
    assert seen == [before]
    assert f"computing with {before} threads, as this run began (here: {before + 1})" in search.progress.notes


def test_another_machine_is_told(tiny, tmp_path, monkeypatch):
    search = make(tiny, tmp_path / "run", method="snip", end_iter=1)
    monkeypatch.setattr("snn_sparse.tickets.environment.processor", lambda: "abacus")
    monkeypatch.setenv("WORLD_SIZE", "4")
    run_search(search)
    notes = "\n".join(search.progress.notes)
    assert "abacus now; from here on, results may round another way" in notes
    assert "processes 1 then, 4 now" in notes


@pytest.mark.parametrize("place", ["level", "run", "search"])
def test_a_ticket_of_another_place_is_refused(imp, tiny, tmp_path, place):
    root = tmp_path / "run"
    shutil.copytree(imp.files.root, root)
    files = RunFiles(root)
    if place == "level":
        shutil.copy(files.ticket(1), files.ticket(2))
        message = "is the ticket of level 1, not of level 2"
    else:
        other = run(tiny, tmp_path / "other", method="imp", seed=9 if place == "search" else 5)
        shutil.copy(other.files.ticket(2), files.ticket(2))
        message = "is the ticket of another run"
    for read in (files.load_ticket, files.header):
        with pytest.raises(DamagedFileError, match=message):
            read(2)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("snn_sparse.tickets.level.CHECKPOINT_SHARE", 1e9)
    whole = run(tiny, tmp_path / "whole", method="snip", end_iter=3)
    search = make(tiny, tmp_path / "run", method="snip", end_iter=3)
    monkeypatch.setattr(search, "finish", lambda *_a, **_o: None)
    run_search(search)
    newest, earlier = search.files.checkpoint(1), search.files.earlier_checkpoint(1)
    newest.write_bytes(newest.read_bytes()[:-100])
    again = make(tiny, tmp_path / "run", method="snip", end_iter=3)
    run_search(again)
    assert again.progress.notes[0].endswith("going on after epoch 2")
    assert "checkpoint.pt is damaged" in again.progress.notes[1]
    assert again.progress.epochs == [(1, 3, 4)]
    assert same(tickets(again)[0].trained, tickets(whole)[0].trained)
    assert not newest.exists()
    assert not earlier.exists()


@pytest.mark.parametrize("method", ["imp+et", "eb"])
def test_a_lost_memory_is_made_again(tiny, tmp_path, method):
    whole = run(tiny, tmp_path / "run", method=method, timestep=5)
    last = whole.files.levels()[-1]
    shutil.rmtree(whole.files.level(last))
    memory = tmp_path / "run" / "memory.pt"
    memory.write_bytes(memory.read_bytes()[:-1])
    reference = tickets(run(tiny, tmp_path / "whole", method=method, timestep=5))
    again = run(tiny, tmp_path / "run", method=method, timestep=5)
    assert any("memory.pt is damaged" in note for note in again.progress.notes)
    for a, b in zip(tickets(again), reference, strict=True):
        assert a.mask.equal(b.mask)
        assert same(a.trained, b.trained)


def test_memory_of_a_level_that_was_never_finished_is_forgotten(tiny, tmp_path):
    """Early-Bird would count the masks that it had drawn twice."""
    search = make(tiny, tmp_path / "run", method="eb")
    search.files.save_memory({"masks": [1]})
    assert make(tiny, tmp_path / "run", method="eb").memory == {}


def test_lost_metrics_are_told(tiny, tmp_path):
    search = run(tiny, tmp_path / "run", method="snip", end_iter=2)
    (tmp_path / "run" / "metrics.jsonl").write_text("")
    again = run(tiny, tmp_path / "run", method="snip", end_iter=2)
    assert any(note.endswith("metrics.jsonl: 2 line(s) of level 1 are lost") for note in again.progress.notes)
    assert len(search.files.metrics()) == 2


def test_like_belongs_to_the_configuration(imp, tiny, tmp_path):
    copy = tmp_path / "imp"
    shutil.copytree(imp.files.root, copy)
    control = run(tiny, tmp_path / "control", method="random", like=copy)
    assert control.files.config()["settings"]["like"] == str(copy)
    with pytest.raises(RunExistsError, match="like is "):
        make(tiny, tmp_path / "control", method="random", like=imp.files.root)
    shutil.rmtree(control.files.level(2))
    changed = run(tiny, tmp_path / "changed", method="imp", pruning_scope="local")
    shutil.rmtree(copy)
    shutil.copytree(changed.files.root, copy)
    with pytest.raises(ValueError, match="has changed since this control began: level 1 has another mask"):
        run(tiny, tmp_path / "control", method="random", like=copy)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_directory_that_cannot_be_written(tiny, tmp_path):
    (tmp_path / "run").mkdir(mode=0o500)
    with pytest.raises(PermissionError):
        make(tiny, tmp_path / "run")


def test_a_resumed_level_takes_the_firing_rates_it_had(tiny, tmp_path, monkeypatch):
    races, seen = [], []

    def race(runs, device, always=1):
        races.append(len(runs))
        return [1.0 if i == len(races) % len(runs) else 2.0 for i in range(len(runs))]  # each time another way wins

    def watched(model, *args):
        follow_rates(model, *args)
        seen.append(rates_of(model))

    monkeypatch.setenv("SNN_SPARSE_CACHE", "")
    monkeypatch.setattr("snn_sparse.tickets.level.CHECKPOINT_SHARE", 1e9)
    monkeypatch.setattr("snn_sparse.tickets.level.follow_rates", watched)
    monkeypatch.setattr(cpu, "race", race)
    monkeypatch.setattr(cpu, "nearest_rate", lambda share: 1 + int(1e5 * share) % 50)  # any change moves a rate
    monkeypatch.setattr(cpu, "left_rate", lambda rate, share: cpu.nearest_rate(share) != rate)
    whole = run(tiny, tmp_path / "whole", method="snip", end_iter=4)
    undisturbed = [*seen]
    assert len({str(rates) for rates in undisturbed}) == 4
    races.clear()
    seen.clear()
    with pytest.raises(Killed):
        run(tiny, tmp_path / "run", KillAfter(3), method="snip", end_iter=4)
    again = run(tiny, tmp_path / "run", method="snip", end_iter=4)
    assert seen == [*undisturbed[:3], *undisturbed[2:]]  # the third epoch is done twice
    plans = [(tmp_path / name / "plans.jsonl").read_text().count("winner") for name in ("whole", "run")]
    assert plans[0] == plans[1] > 10
    assert same(tickets(whole)[0].trained, tickets(again)[0].trained)
