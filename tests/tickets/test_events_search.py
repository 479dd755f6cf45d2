"""Searches on sequences: T is that of the data, T_early its first frames."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from searching import make, run, tickets

from snn_sparse.training import Dataset, ImageSet, load_dataset


@pytest.fixture(scope="module")
def bars():
    """60 training and 20 test sequences of four frames of 8x8 pixels."""
    data = load_dataset("events", timesteps=4, image_size=8)

    def cut(part, n):
        return ImageSet(part.images[:n], part.labels[:n], part.mean, part.std)

    return Dataset(data.name, cut(data.train, 60), cut(data.test, 20), 4, data.augmentation)


@pytest.fixture
def shown(monkeypatch):
    """T of every batch that is trained on or evaluated."""
    lengths = []
    plain = ImageSet.batches

    def batches(self, *args, **kwargs):
        for x, y in plain(self, *args, **kwargs):
            lengths.append(x.shape[0])
            yield x, y

    monkeypatch.setattr(ImageSet, "batches", batches)
    return lengths


COMMON = {"dataset": "events", "backend": "plain", "end_iter": 4, "prune_iterations": 2, "valid_freq": 1}


def test_early_time_shows_the_first_frames(bars, tmp_path, shown):
    search = run(bars, tmp_path / "run", method="imp+et", early_time_threshold=1.1, batch_size=60, **COMMON)
    # an epoch and its accuracy each: the second epoch's is of T_early, which it chose; the last level is at full T
    assert shown == [4, 4] + [4, 2] + [2, 2] * 2 + [4, 4] * 3
    assert [t.meta["timesteps"] for t in tickets(search)] == [2, 4]
    assert search.memory["timesteps_early"] == 2


def test_early_time_is_chosen_on_whole_sequences(bars, tmp_path):
    search = make(bars, tmp_path / "run", method="imp+et", **COMMON)
    model, asked = search.new_model(), []
    model.register_forward_pre_hook(lambda _, inputs: asked.append(inputs[0].shape))
    assert 2 <= search.choose_timesteps(model) <= 4
    assert asked == [torch.Size([4, 60, 2, 8, 8])]


def test_transfer_shows_all_frames_to_the_conventional_network(bars, tmp_path, shown):
    run(bars, tmp_path / "run", method="transfer", batch_size=60, **COMMON | {"end_iter": 2})
    assert set(shown) == {4}


def test_another_t_than_that_of_the_data_is_refused(bars, tmp_path):
    with pytest.raises(ValueError, match=r"^timestep must be 4, as many as the data has frames, got 3"):
        make(bars, tmp_path / "run", timestep=3, dataset="events")
