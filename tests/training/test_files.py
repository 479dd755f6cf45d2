import json
import os

import pytest
import torch

from snn_sparse.training import load_checkpoint, save_checkpoint, write_atomic, write_json


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "file"
    write_atomic(path, b"old")

    def full_disk(_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


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
    with pytest.raises(Exception, match=r"weights_only|Unsupported"):
        load_checkpoint(tmp_path / "evil")
