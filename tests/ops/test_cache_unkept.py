"""Where measurements cannot be kept: everything works, and one warning a process says why."""

import errno
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from snn_sparse.ops import cache as caching
from snn_sparse.ops.cache import Cache


@pytest.fixture(autouse=True)
def _not_warned_yet(monkeypatch):
    monkeypatch.setattr(caching, "_warned", False)


def assert_works_and_warns_once(match):
    """Put and get twice: nothing is kept."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for key in ("a", "b"):
            Cache().put(key, 1)
            assert Cache().get(key, lambda value: value) is None
    assert len(caught) == 1
    assert re.search(f"measurements of this machine are not kept.*{match}", str(caught[0].message))
    assert Path(caught[0].filename).name == Path(__file__).name  # whoever put it


@pytest.fixture
def path(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "measured.json"
    monkeypatch.setenv("SNN_SPARSE_CACHE", str(path))
    return path


def test_a_directory_in_the_place_of_the_file(path):
    path.mkdir(parents=True)
    assert_works_and_warns_once("measured.json cannot be written")
    assert not list(path.parent.glob(".*"))


def test_a_file_in_the_place_of_the_folder(path):
    path.parent.touch()
    assert_works_and_warns_once("measured.json cannot be written")


def test_a_lock_that_cannot_be_made(path):
    path.with_name(f"{path.name}.lock").mkdir(parents=True)
    assert_works_and_warns_once("measured.json cannot be written")
    assert not path.exists()


def test_a_lock_that_nobody_gives_back(path, monkeypatch):
    from filelock import FileLock

    monkeypatch.setattr(caching, "LOCK_SECONDS", 0.05)
    path.parent.mkdir()
    with FileLock(path.with_name(f"{path.name}.lock")):
        assert_works_and_warns_once("Timeout")


@pytest.mark.parametrize(
    "error", [OSError(errno.EROFS, os.strerror(errno.EROFS)), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))]
)
def test_a_disk_that_is_read_only_or_full_keeps_what_it_has(path, monkeypatch, error):
    Cache().put("old", 1)

    def fails(*args, **kwargs):
        raise error

    monkeypatch.setattr(Path, "write_text", fails)
    assert_works_and_warns_once(error.strerror)
    assert json.loads(path.read_text()) == {"old": 1}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes anywhere")
def test_a_folder_without_permission_is_still_read(path):
    Cache().put("old", 1)
    path.parent.chmod(0o500)
    path.with_name(f"{path.name}.lock").chmod(0o400)
    assert_works_and_warns_once("Permission")
    assert Cache().get("old", lambda value: value) == 1


def test_a_file_system_without_locks(path, monkeypatch):
    import filelock

    class NoLocks(filelock.FileLock):
        def acquire(self, *args, **kwargs):
            raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr(filelock, "FileLock", NoLocks)
    assert_works_and_warns_once("support flock")


@pytest.mark.parametrize("name", ["/", "."])
def test_a_name_that_is_no_file(monkeypatch, name):
    monkeypatch.setenv("SNN_SPARSE_CACHE", name)
    assert_works_and_warns_once("names no file")


@pytest.fixture
def nobody(monkeypatch, tmp_path):
    """A user without HOME whom the system does not know."""
    import pwd

    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("SNN_SPARSE_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RuntimeError):
        Path.home()


linux = pytest.mark.skipif(sys.platform != "linux", reason="other folders elsewhere")


@linux
@pytest.mark.usefixtures("nobody")
@pytest.mark.parametrize("empty", ["", " "])
def test_an_unknown_user_without_home(monkeypatch, tmp_path, empty):
    monkeypatch.setenv("XDG_CACHE_HOME", empty)
    assert_works_and_warns_once("cache directory.* HOME")
    assert not list(tmp_path.iterdir())  # no folder of the name ~


@pytest.mark.usefixtures("nobody")
def test_a_platformdirs_that_leaves_the_tilde_as_it_is(monkeypatch, tmp_path):
    import platformdirs

    monkeypatch.setattr(platformdirs, "user_cache_path", lambda *args, **kwargs: Path("~/.cache/snn_sparse"))
    assert_works_and_warns_once("set HOME or SNN_SPARSE_CACHE")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("nobody")
@pytest.mark.parametrize("error", [RuntimeError("no home"), KeyError("uid"), OSError("no folder")])
def test_a_platformdirs_that_raises(monkeypatch, error):
    import platformdirs

    def fails(*args, **kwargs):
        raise error

    monkeypatch.setattr(platformdirs, "user_cache_path", fails)
    assert_works_and_warns_once("there is no cache directory")


@linux
@pytest.mark.usefixtures("nobody")
def test_an_unknown_user_with_a_cache_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Cache().put("key", 1)
    assert json.loads((tmp_path / "snn_sparse" / "measured.json").read_text()) == {"key": 1}


@linux
def test_an_empty_cache_directory_means_the_one_in_home(monkeypatch, tmp_path):
    monkeypatch.delenv("SNN_SPARSE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    Cache().put("key", 1)
    assert json.loads((tmp_path / ".cache" / "snn_sparse" / "measured.json").read_text()) == {"key": 1}


def test_who_wants_no_file_is_not_warned(monkeypatch):
    monkeypatch.setenv("SNN_SPARSE_CACHE", "")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Cache().put("key", 1)


TRAINS = """
import sys
sys.path.insert(0, sys.argv[1])
import torch, snn_sparse as ss
model = ss.fuse(ss.build_model("vgg_small", 4, 1, 2))
ss.magnitude_mask(model, 90.0).apply_(model)
for size in (8, 9):
    model(torch.randn(2, 1, size, size)).sum().backward()
print("done")
"""


@linux
def test_a_network_trains_where_nothing_can_be_kept(tmp_path):
    kept = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
    root = str(Path(caching.__file__).parents[2])
    blocked = tmp_path / "blocked"
    blocked.touch()
    for named in (str(blocked / "measured.json"), str(tmp_path)):
        done = subprocess.run(
            [sys.executable, "-c", TRAINS, root],
            env=kept | {"SNN_SPARSE_CACHE": named},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == "done\n"
        assert done.stderr.count("are not kept") == 1
    assert blocked.read_bytes() == b""
