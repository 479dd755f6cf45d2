"""The kit of a bare machine: launches are recorded, compiled ahead, packed, unpacked elsewhere, and found there."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_check_kit
from benchmarks.gpu_check_run import HERE
from benchmarks.gpu_check_setup import CACHE, DATA, LAUNCHES, MANIFEST, WHEELS, read_manifest, set_up, unpack_cache

sys.path.insert(0, str(Path(__file__).parent))
from kit_case import MODULE, make_images, make_kit

pytest.importorskip("triton")


def compile_ahead(launches, cache, *flags):
    environment = {**os.environ, "TRITON_CACHE_DIR": str(cache), "PYTHONPATH": str(HERE)}
    command = [sys.executable, "-m", "benchmarks.compile_ahead", str(launches), "--arch", "90", "--jobs", "1", *flags]
    return subprocess.run(command, env=environment, cwd=HERE, capture_output=True, text=True, check=False)


def a_launch(words=2):
    """A line for the kernel that unpacks spikes, which compiles within a second."""
    from benchmarks.compile_ahead import as_line
    from snn_sparse.ops.spikes.triton_bits import unpack
    from snn_sparse.ops.triton_launch import recording

    with recording() as found:
        unpack(torch.zeros(2, 3, 4, 5, words, dtype=torch.int32), (2, 3, 32 * words, 4, 5), torch.bfloat16)
    return as_line(found[0])


@pytest.mark.slow
def test_a_cache_serves_where_it_is_unpacked(tmp_path):
    launches, baked = tmp_path / "launches", tmp_path / "baked"
    launches.write_text(a_launch() + "\n")
    assert compile_ahead(launches, baked, "--probe").returncode == 3  # it was not there
    done = compile_ahead(launches, baked)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1 launches, 0 failed; ")
    kit = make_kit(tmp_path / "kit", baked, [a_launch()])
    for entry in baked.iterdir():
        entry.rename(tmp_path / f"moved-{entry.name}")  # what the archive's entries point to is gone
    work = tmp_path / "work"
    work.mkdir()
    ready = set_up(kit, work, work / "log.txt", rehearsed=True)
    assert "the Triton cache serves" in ready.said, ready.said
    (kit / LAUNCHES).write_text(a_launch(words=1) + "\n")  # 1 is a constant of its own
    assert "the Triton cache does not serve" in set_up(kit, work, work / "log.txt", rehearsed=True).said


def test_what_does_not_compile_is_told(tmp_path):
    wrong = json.loads(a_launch())
    wrong["arguments"]["WORDS"] = 33  # no power of two
    (tmp_path / "launches").write_text(json.dumps(wrong) + "\n")
    done = compile_ahead(tmp_path / "launches", tmp_path / "cache")
    assert done.returncode == 1
    assert done.stdout.startswith("_unpack_kernel: ")
    assert "1 launches, 1 failed" in done.stdout
    missing = compile_ahead(tmp_path / "nothing", tmp_path / "cache")
    assert missing.returncode == 2
    assert missing.stderr.count("\n") == 1


def test_places_in_a_cache_move_with_it(tmp_path):
    entry = tmp_path / "made" / "KEY"
    entry.mkdir(parents=True)
    (entry / "k.cubin").write_bytes(b"1")
    (entry / "__grp__k.json").write_text(json.dumps({"child_paths": {"k.cubin": str(entry / "k.cubin")}}))
    kit = make_kit(tmp_path / "kit", tmp_path / "made")
    assert unpack_cache(kit / CACHE, tmp_path / "there") == 1
    group = json.loads((tmp_path / "there" / "KEY" / "__grp__k.json").read_text())
    assert group == {"child_paths": {"k.cubin": str(tmp_path / "there" / "KEY" / "k.cubin")}}


def test_only_what_is_missing_is_installed(tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    kit = make_kit(tmp_path / "kit")
    said = json.loads((kit / MANIFEST).read_text())
    said["wheels"]["torch"] = "no-such-file.whl"  # torch is there
    (kit / MANIFEST).write_text(json.dumps(said))
    ready = set_up(kit, work, work / "log.txt")
    assert ready.said == [f"installed {MODULE}"]
    path = ready.environment["PYTHONPATH"].split(os.pathsep)
    assert path[0] == str(HERE)
    done = subprocess.run([sys.executable, "-c", f"import {MODULE}"], env=ready.environment, check=False)
    assert done.returncode == 0
    assert (work / "FashionMNIST" / "raw" / "t10k-labels-idx1-ubyte").stat().st_size == 8 + 12


@pytest.mark.parametrize("text", ["", "[]", '{"wheels": []}', '{"wheels": [], "commit": "a"}'])
def test_what_is_no_kit(tmp_path, text):
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(ValueError, match="is no kit"):
        read_manifest(tmp_path)


def test_a_kit_is_built(tmp_path, monkeypatch, capsys):
    wheels = {MODULE: "some.whl"}
    monkeypatch.setattr(gpu_check_kit, "download", lambda folder: (folder / "some.whl").write_bytes(b"1") and wheels)
    monkeypatch.setattr(gpu_check_kit, "bake", lambda launches, archive, jobs: archive.write_bytes(b"1" * 2**20) * 0)
    for name in ("data", "none"):
        (tmp_path / name).mkdir()
    make_images(tmp_path / "data")
    (tmp_path / "launches").write_text("a\nb\n")
    folder, given = tmp_path / "kit", ["--launches", str(tmp_path / "launches")]
    assert gpu_check_kit.main([str(folder), "--data", str(tmp_path / "data"), *given]) == 0
    assert {p.name for p in folder.iterdir()} == {WHEELS, DATA, LAUNCHES, CACHE, MANIFEST}
    assert read_manifest(folder)["wheels"] == wheels
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2] == "2 launches baked for sm_90"
    assert lines[-1] == f"1.0 MiB in {folder}"
    monkeypatch.setattr(gpu_check_kit, "MOST", 0.5)
    with pytest.raises(SystemExit) as stop:
        gpu_check_kit.main([str(tmp_path / "none"), *given])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "gpu-kit: error: the kit has 1 MiB, more than 0.5\n"


def test_a_wheel_that_pip_does_not_find(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check_kit, "PACKAGES", {"x": "no_such_package_for_this_test"})
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS"):
        monkeypatch.setenv(name, {"PIP_NO_INDEX": "1"}.get(name, str(tmp_path)))
    with pytest.raises(ValueError, match="no wheel of no_such_package_for_this_test: "):
        gpu_check_kit.download(tmp_path)


def test_modules_that_tell_whether_a_package_is_there():
    for module in ("platformdirs", "filelock", "jinja2", "rich", "xdist", "pytest_timeout", "markdown_it"):
        assert module in gpu_check_kit.PACKAGES
        importlib.import_module(module)
