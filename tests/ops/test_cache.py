"""The cache on disk: damage is as good as nothing, writers lose no update, and it works without a file."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from snn_sparse.ops import cache as caching
from snn_sparse.ops.cache import Cache


@pytest.fixture
def path(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "measured.json"
    monkeypatch.setenv("SNN_SPARSE_CACHE", str(path))
    return path


def same(value):
    return value


def test_what_is_put_is_found(path):
    assert Cache().get("a", same) is None
    for key, value in (("a", 1), ("b", {"x": [1.5, None, True]}), ("a", "new")):
        Cache().put(key, value)
        assert Cache().get(key, same) == value
    assert Cache().get("b", lambda value: value["x"]) == [1.5, None, True]
    assert json.loads(path.read_text()) == {"b": {"x": [1.5, None, True]}, "a": "new"}
    assert {p.name for p in path.parent.iterdir()} <= {path.name, f"{path.name}.lock"}  # nothing temporary stays


DEEP = "[" * 100_000
FILES = {
    "empty": "",
    "blank": " \n",
    "truncated": '{"key": 1',
    "truncated string": '{"ke',
    "list": '["key"]',
    "number": "3",
    "null": "null",
    "text": '"key"',
    "no JSON": "key: 1",
    "two documents": '{"key": 1}{"key": 2}',
    "deep": DEEP,
    "not UTF-8": b'{"key": "\xff\xfe"}',
    "binary": bytes(range(256)),
    "zeros": bytes(1000),
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_damaged_files_are_as_good_as_none(path, content):
    path.parent.mkdir()
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert Cache().get("key", same) is None
    Cache().put("other", 2)
    assert json.loads(path.read_text()) == {"other": 2}


@pytest.mark.parametrize(
    "error", [TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError, ZeroDivisionError]
)
def test_a_value_that_cannot_be_parsed_is_as_good_as_none(path, error):
    Cache().put("key", 1)

    def parse(_):
        raise error("no sense")

    if error is ZeroDivisionError:  # an error of the parser itself
        with pytest.raises(error):
            Cache().get("key", parse)
    else:
        assert Cache().get("key", parse) is None


def test_null_is_none_and_not_parsed(path):
    Cache().put("key", None)
    assert Cache().get("key", lambda _: pytest.fail("parsed")) is None


def test_a_directory_in_the_place_of_the_file(path):
    path.mkdir(parents=True)
    (path / "inside").touch()
    Cache().put("key", 1)
    assert Cache().get("key", same) is None
    assert [p.name for p in path.iterdir()] == ["inside"]
    assert not list(path.parent.glob(".*"))


def test_a_file_in_the_place_of_the_folder(path):
    path.parent.touch()
    Cache().put("key", 1)
    assert Cache().get("key", same) is None


@pytest.mark.parametrize("where", ["/proc/nowhere/measured.json", "/dev/null/measured.json"])
def test_a_folder_that_cannot_be_written(monkeypatch, where):
    monkeypatch.setenv("SNN_SPARSE_CACHE", where)
    Cache().put("key", 1)
    assert Cache().get("key", same) is None


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes anywhere")
def test_a_folder_without_permission(path):
    path.parent.mkdir()
    path.parent.chmod(0o500)
    Cache().put("key", 1)
    assert Cache().get("key", same) is None


def test_an_empty_name_means_none(monkeypatch, tmp_path):
    monkeypatch.setenv("SNN_SPARSE_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert Cache().path is None
    Cache().put("key", 1)
    assert Cache().get("key", same) is None
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="other folders elsewhere")
def test_without_a_name_it_is_in_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("SNN_SPARSE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    Cache().put("key", 1)
    assert json.loads((tmp_path / "snn_sparse" / "measured.json").read_text()) == {"key": 1}


def test_the_oldest_entries_go(path, monkeypatch):
    monkeypatch.setattr(caching, "MAX_ENTRIES", 3)
    for key in "abc":
        Cache().put(key, key)
    Cache().put("a", "again")  # the youngest now
    Cache().put("d", "d")
    assert json.loads(path.read_text()) == {"c": "c", "a": "again", "d": "d"}


def test_a_writer_that_never_lets_go(path, monkeypatch):
    from filelock import FileLock

    monkeypatch.setattr(caching, "LOCK_SECONDS", 0.05)
    Cache().put("old", 1)
    with FileLock(path.with_name(f"{path.name}.lock")):
        Cache().put("new", 2)
    assert json.loads(path.read_text()) == {"old": 1}
    Cache().put("new", 2)
    assert json.loads(path.read_text()) == {"old": 1, "new": 2}


def test_a_value_that_json_cannot_hold_leaves_the_file_alone(path):
    Cache().put("key", 1)
    with pytest.raises(TypeError):
        Cache().put("other", object())
    assert json.loads(path.read_text()) == {"key": 1}
    assert not list(path.parent.glob(".*"))


WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
from snn_sparse.ops.cache import Cache
print("ready", flush=True)
sys.stdin.readline()
for i in range(60):
    Cache().put(f"{sys.argv[1]} {i}", i)
"""


def test_two_writers_lose_nothing(path):
    root = str(Path(caching.__file__).parents[2])
    command = [sys.executable, "-c", WRITER]
    writers = [
        subprocess.Popen([*command, name, root], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name in ("first", "second")
    ]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    assert json.loads(path.read_text()) == {f"{name} {i}": i for name in ("first", "second") for i in range(60)}
