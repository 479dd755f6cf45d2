import json
import os
import resource
import stat
from contextlib import contextmanager

import pytest
import torch

import snn_sparse as ss
from snn_sparse.tickets.run_files import RunFiles
from snn_sparse.training import load_checkpoint, save_checkpoint, write_atomic, write_json
from snn_sparse.training.files import DamagedFileError, remove_temporaries


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "file"
    write_atomic(path, b"old")

    def fails(_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="no space"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def ticket(number):
    model = ss.build_model("vgg_small", 4, 1, 2)
    state = {n: torch.full_like(v, number) for n, v in model.state_dict().items()}
    return ss.Ticket(model.config, ss.Mask.dense(model), state, state, {"number": number})


WRITERS = {
    "bytes": ("file", lambda folder, number: write_atomic(folder / "file", b"%d" % number * 10_000)),
    "json": ("file", lambda folder, number: write_json(folder / "file", [number] * 10_000)),
    "checkpoint": ("file", lambda folder, number: save_checkpoint(folder / "file", {"x": torch.ones(9999) * number})),
    "ticket": ("file", lambda folder, number: ticket(number).save(folder / "file")),
    "memory": ("memory.pt", lambda folder, number: RunFiles(folder).save_memory({"x": torch.ones(9999) * number})),
    "level": ("level_03/ticket.safetensors", lambda folder, number: RunFiles(folder).finish_level(3, ticket(number))),
    "state": (
        "level_03/checkpoint.pt",
        lambda folder, number: RunFiles(folder).save_checkpoint(3, {"x": torch.ones(9999) * number}),
    ),
}


@contextmanager
def full_disk(size):
    """No file may grow beyond ``size`` bytes: a write breaks off in the middle."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_reader_never_sees_half_a_file(tmp_path, kind):
    """Whoever has the old file open reads it to the end, whatever is written; its name leads to the new one."""
    name, write = WRITERS[kind]
    write(tmp_path, 1)
    old = (tmp_path / name).read_bytes()
    with open(tmp_path / name, "rb") as reader:
        begun = reader.read(5)
        write(tmp_path, 2)
        assert begun + reader.read() == old
    assert (tmp_path / name).read_bytes() != old
    assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o644
    assert {p for p in tmp_path.rglob("*") if p.is_file()} - {RunFiles(tmp_path).earlier_checkpoint(3)} == {
        tmp_path / name
    }


@pytest.mark.parametrize("kind", WRITERS)
def test_a_write_that_breaks_off_leaves_the_old_file(tmp_path, kind):
    name, write = WRITERS[kind]
    write(tmp_path, 1)
    old = (tmp_path / name).read_bytes()
    with full_disk(5000), pytest.raises(OSError, match="File too large"):
        write(tmp_path, 2)
    assert (tmp_path / name).read_bytes() == old
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [tmp_path / name]


def test_json_refuses_what_json_cannot_hold(tmp_path):
    write_json(tmp_path / "a", {"x": 1})
    assert json.loads((tmp_path / "a").read_text()) == {"x": 1}
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a", float("nan"))


def test_checkpoints_load_without_running_code(tmp_path):
    state = {"tensor": torch.randn(3), "list": [1, {"a": True}], "none": None}
    save_checkpoint(tmp_path / "a", state)
    loaded = load_checkpoint(tmp_path / "a")
    assert torch.equal(loaded["tensor"], state["tensor"])
    assert loaded["list"] == state["list"]

    class Evil:
        def __reduce__(self):
            return os.system, ("exit 1",)

    torch.save({"x": Evil()}, tmp_path / "evil")
    with pytest.raises(DamagedFileError, match="evil is damaged: UnpicklingError"):
        load_checkpoint(tmp_path / "evil")


def test_damage_to_a_checkpoint_shows(tmp_path):
    """One bit anywhere, a piece cut off, or another checkpoint's end: an error, or exactly what was written."""
    whole, path = {"x": torch.randn(50), "n": 3}, tmp_path / "a"
    save_checkpoint(path, whole)
    content = path.read_bytes()
    places = torch.randint(0, 8 * len(content), (150,)).tolist()
    damaged = [content[: n // 8] for n in places[:50]] + [b"", content + b"x", content[: len(content) - 74]]
    for n in places:
        flipped = bytearray(content)
        flipped[n // 8] ^= 1 << n % 8
        damaged.append(bytes(flipped))
    refused = 0
    for bad in damaged:
        path.write_bytes(bad)
        try:
            found = load_checkpoint(path)
        except DamagedFileError:
            refused += 1
            continue
        assert found.keys() == whole.keys()
        assert torch.equal(found["x"], whole["x"])
    assert refused > 150


def test_torch_reads_our_checkpoints(tmp_path):
    save_checkpoint(tmp_path / "a", {"x": torch.arange(3)})
    assert torch.load(tmp_path / "a", weights_only=True)["x"].tolist() == [0, 1, 2]


def test_the_checkpoint_before_is_kept(tmp_path):
    for number in range(3):
        save_checkpoint(tmp_path / "a", {"n": number}, keep=tmp_path / "b")
    assert (load_checkpoint(tmp_path / "a")["n"], load_checkpoint(tmp_path / "b")["n"]) == (2, 1)


def test_what_killed_writes_leave_is_removed(tmp_path):
    ours = [".config.json.abcd_123.tmp", ".memory.pt.zyxw9876"]  # the second by an earlier version
    others = [".config.json", ".lock", "config.json", ".gitignore", "notes.tmp"]
    for name in (*ours, *others):
        (tmp_path / name).write_text("")
    remove_temporaries(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == set(others)
    remove_temporaries(tmp_path / "none")
