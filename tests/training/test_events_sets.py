"""Event data sets by name: read through SpikingJelly or tonic, split, integrated, kept on disk."""

import hashlib
import sys
import time
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor

import event_files
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from spikingjelly.datasets import utils as spikingjelly
from spikingjelly.datasets.n_mnist import NMNIST

from snn_sparse.training import Augmentation, load_dataset
from snn_sparse.training.events import integrate_events
from snn_sparse.training.events_cache import kept_frames
from snn_sparse.training.events_sets import EVENT_SOURCES


def frames_of(events, sensor, timesteps, size=None, split_by="number"):
    parts = (events[key] for key in "txyp")
    return integrate_events(*parts, timesteps=timesteps, sensor_size=sensor, image_size=size, split_by=split_by)


def same_frames(found, expected):
    """Two lists of frames are equal, in whatever order."""
    assert sorted(f.numpy().tobytes() for f in found) == sorted(f.numpy().tobytes() for f in expected)


def test_cifar10dvs(tmp_path):
    """The first tenth of each class, by number and not by the alphabet, is the test set."""
    events = event_files.write_cifar10dvs(tmp_path)
    data = load_dataset("cifar10dvs", tmp_path, timesteps=4)
    assert data.train.images.shape == (180, 4, 2, 48, 48)
    assert data.test.images.shape == (20, 4, 2, 48, 48)
    assert (data.num_classes, data.timesteps, data.in_channels) == (10, 4, 2)
    assert data.augmentation == Augmentation(crop_padding=6, flip=True)
    for k in range(10):
        expected = [frames_of(events[k, i], 128, 4, 48) for i in range(20)]
        same_frames(data.test.images[data.test.labels == k], expected[:2])
        same_frames(data.train.images[data.train.labels == k], expected[2:])


def test_dvs128gesture(tmp_path):
    """Eleven classes in folders named by number: gesture 2 stays class 2, though "10" comes before "2"."""
    events = event_files.write_splits(tmp_path, "dvs128gesture", 11, 128)
    data = load_dataset("dvs128gesture", tmp_path, timesteps=3, image_size=32, split_by="time")
    assert (data.train.images.shape, data.num_classes) == ((22, 3, 2, 32, 32), 11)
    assert data.augmentation == Augmentation(crop_padding=4)
    for k in range(11):
        for split, part, n in (("train", data.train, 2), ("test", data.test, 1)):
            expected = [frames_of(events[split, k, i], 128, 3, 32, "time") for i in range(n)]
            same_frames(part.images[part.labels == k], expected)


def test_nmnist_from_the_files_as_they_are_published(tmp_path, monkeypatch):
    """SpikingJelly unpacks and converts; frames at the camera's size are its own."""
    written, archives = {}, []
    (tmp_path / "nmnist" / "download").mkdir(parents=True)
    for split in ("Train", "Test"):
        path = tmp_path / "nmnist" / "download" / f"{split}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for k in range(10):
                written[split, k] = event_files.stream(34)
                archive.writestr(f"{split}/{k}/00001.bin", event_files.atis(written[split, k]))
        archives.append((path.name, "https://example.org", hashlib.md5(path.read_bytes()).hexdigest()))
    monkeypatch.setattr(NMNIST, "resource_url_md5", lambda: archives)
    data = load_dataset("nmnist", tmp_path, timesteps=5)
    assert data.augmentation == Augmentation(crop_padding=4)
    for split, part in (("Train", data.train), ("Test", data.test)):
        for k in range(10):
            frames = spikingjelly.integrate_events_by_fixed_frames_number(written[split, k], "number", 5, 34, 34)
            assert torch.equal(part.images[part.labels == k][0].double(), torch.from_numpy(frames))


def test_counts_are_divided_by_their_root_mean_square(tmp_path):
    event_files.write_splits(tmp_path, "nmnist", 10, 34)
    data = load_dataset("nmnist", tmp_path, timesteps=2)
    x = data.train.normalise(data.train.images)
    torch.testing.assert_close(x.square().mean((0, 1, 3, 4)), torch.ones(2))
    assert torch.equal(x == 0, data.train.images.transpose(0, 1) == 0)
    assert data.test.std == data.train.std


def test_a_recording_out_of_order_is_sorted_and_a_broken_one_is_named(tmp_path):
    events = event_files.write_splits(tmp_path, "nmnist", 10, 34)
    path = tmp_path / "nmnist" / "events_np" / "train" / "3" / "1.npz"
    order = torch.randperm(60).numpy()
    np.savez(path, **{key: part[order] for key, part in events["train", 3, 1].items()})
    data = load_dataset("nmnist", tmp_path, timesteps=4, split_by="time")
    expected = [frames_of(events["train", 3, i], 34, 4, split_by="time") for i in range(2)]
    same_frames(data.train.images[data.train.labels == 3], expected)
    np.savez(path, **{**events["train", 3, 1], "x": np.full(60, 34)})
    with pytest.raises(ValueError, match=r"^1\.npz: x must lie between 0 and 33"):
        load_dataset("nmnist", tmp_path, timesteps=5)


def test_frames_are_made_once_for_each_t_size_and_split(tmp_path):
    event_files.write_splits(tmp_path, "nmnist", 10, 34)
    wanted = [
        {"timesteps": 3},
        {"timesteps": 2},
        {"timesteps": 3, "image_size": 17},
        {"timesteps": 3, "split_by": "time"},
    ]
    first = [load_dataset("nmnist", tmp_path, **how) for how in wanted]
    kept = ["frames_T2_34_number", "frames_T3_17_number", "frames_T3_34_number", "frames_T3_34_time"]
    assert sorted(p.stem for p in (tmp_path / "nmnist").glob("*.safetensors")) == kept
    (tmp_path / "nmnist" / "events_np").rename(tmp_path / "elsewhere")
    for how, data in zip(wanted, first, strict=True):
        again = load_dataset("nmnist", tmp_path, **how)
        for part, old in ((again.train, data.train), (again.test, data.test)):
            assert torch.equal(part.images, old.images)
            assert torch.equal(part.labels, old.labels)
            assert part.std == old.std


def damage_byte(path):
    content = bytearray(path.read_bytes())
    content[-int(torch.randint(1, 2000, ()))] ^= 4
    path.write_bytes(content)


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-100])


def another_t(path):
    path.write_bytes(path.with_name("frames_T2_34_number.safetensors").read_bytes())


def without_checksums(path):
    save_file(load_file(path), path)


@pytest.mark.parametrize("damage", [damage_byte, cut_off, another_t, without_checksums, lambda p: p.write_bytes(b"")])
def test_damaged_frames_are_made_anew(tmp_path, damage):
    event_files.write_splits(tmp_path, "nmnist", 10, 34)
    load_dataset("nmnist", tmp_path, timesteps=2)
    data = load_dataset("nmnist", tmp_path, timesteps=3)
    path = tmp_path / "nmnist" / "frames_T3_34_number.safetensors"
    damage(path)
    with pytest.warns(UserWarning, match="frames_T3_34_number.safetensors is damaged"):
        again = load_dataset("nmnist", tmp_path, timesteps=3)
    assert torch.equal(again.train.images, data.train.images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the file is whole again
        load_dataset("nmnist", tmp_path, timesteps=3)


def test_two_at_once_make_frames_once(tmp_path):
    shape, made = (2, 2, 3, 3), []

    def make():
        made.append(1)
        time.sleep(0.2)
        counts = {f"{split}_frames": torch.randint(0, 256, (5, *shape)).byte() for split in ("train", "test")}
        return counts | {f"{split}_labels": torch.randint(0, 4, (5,)) for split in ("train", "test")}

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: kept_frames(tmp_path / "f.safetensors", {"a": 1}, shape, make), range(2)))
    assert made == [1]
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize(
    ("name", "needed", "page"),
    [
        ("nmnist", "Train.zip, Test.zip", "garrickorchard.com"),
        ("cifar10dvs", "airplane.zip, automobile.zip", "figshare.com"),
        ("dvs128gesture", "DvsGesture.tar.gz, gesture_mapping.csv", "ibm.ent.box.com"),
    ],
)
def test_missing_files_are_told_with_page_and_folder(tmp_path, name, needed, page):
    """Nothing is left behind, and no damaged file is deleted."""
    with pytest.raises(FileNotFoundError) as told:
        load_dataset(name, tmp_path, timesteps=3)
    message = str(told.value)
    assert f"needs {needed}" in message
    assert page in message
    assert f"in {tmp_path / name / 'download'};" in message
    assert "\n" not in message
    assert ("--download" in message) == (name == "cifar10dvs")
    assert not list(tmp_path.iterdir())
    if name != "cifar10dvs":
        kept = tmp_path / name / "download" / needed.split(",")[0]
        kept.parent.mkdir(parents=True)
        kept.write_bytes(b"half of it")
        for download in (False, True):  # neither can be downloaded
            with pytest.raises(FileNotFoundError, match=needed.split(",")[0]):
                load_dataset(name, tmp_path, timesteps=3, download=download)
        assert kept.read_bytes() == b"half of it"


def test_a_conversion_that_was_cut_short(tmp_path):
    event_files.write_splits(tmp_path, "nmnist", 10, 34)
    (tmp_path / "nmnist" / "events_np.building").touch()
    with pytest.raises(ValueError, match=r"cut short: remove events_np\.building, events_np and extract there"):
        load_dataset("nmnist", tmp_path, timesteps=3)


@pytest.fixture
def only_tonic(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "spikingjelly", None)
    (tmp_path / "site" / "tonic").mkdir(parents=True)
    (tmp_path / "site" / "tonic" / "__init__.py").write_text("")
    (tmp_path / "site" / "tonic" / "datasets.py").write_text(event_files.TONIC)
    monkeypatch.syspath_prepend(tmp_path / "site")
    yield tmp_path / "data"
    for name in ("tonic", "tonic.datasets"):
        sys.modules.pop(name, None)


def test_through_tonic(only_tonic):
    with pytest.raises(FileNotFoundError, match=r"needs train.zip from https://example.org/nmnist in .*; missing"):
        load_dataset("nmnist", only_tonic, timesteps=3)
    assert not only_tonic.exists()
    with pytest.raises(OSError, match="the network was asked"):
        load_dataset("nmnist", only_tonic, timesteps=3, download=True)
    folder = only_tonic / "nmnist" / "NMNIST"
    files = [(split, k) for split in ("Train", "Test") for k in range(10)]
    events = {(split, k): event_files.write_stream(folder / split / f"{k}.npz", 34) for split, k in files}
    data = load_dataset("nmnist", only_tonic, timesteps=3)
    for split, part in (("Train", data.train), ("Test", data.test)):
        assert part.labels.tolist() == list(range(10))
        assert torch.equal(part.images, torch.stack([frames_of(events[split, k], 34, 3) for k in range(10)]))


def test_without_either_library_frames_on_disk_serve(tmp_path, monkeypatch):
    event_files.write_splits(tmp_path, "nmnist", 10, 34)
    load_dataset("nmnist", tmp_path, timesteps=3)
    for name in ("spikingjelly", "tonic"):
        monkeypatch.setitem(sys.modules, name, None)
    assert load_dataset("nmnist", tmp_path, timesteps=3).timesteps == 3
    with pytest.raises(ImportError, match=r"^N-MNIST is read through SpikingJelly or tonic: pip install"):
        load_dataset("nmnist", tmp_path, timesteps=4)


@pytest.mark.parametrize("name", EVENT_SOURCES)
def test_wrong_arguments(tmp_path, name):
    sensor = EVENT_SOURCES[name].sensor
    for options, message in (
        ({}, f"timesteps must be given for {name}"),
        ({"timesteps": 0}, "timesteps must be at least 1, got 0"),
        ({"timesteps": 3, "image_size": 0}, "image_size must be at least 1, got 0"),
        ({"timesteps": 3, "image_size": sensor + 1}, f"image_size must be between 1 and {sensor}"),
        ({"timesteps": 3, "split_by": "size"}, "split_by must be one of"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            load_dataset(name, tmp_path, **options)
