"""The generated event set: what it is, and that networks take and learn its sequences."""

import numpy as np
import pytest
import torch

from snn_sparse import build_model, fuse
from snn_sparse.ops import predict
from snn_sparse.training import Augmentation, TrainStep, evaluate, load_dataset, make_optimizer, train_epoch
from snn_sparse.training.events_bars import moving_bars


@pytest.fixture(scope="module")
def bars():
    return load_dataset("events", "/nonexistent", timesteps=4)


def test_the_set(bars):
    assert (bars.name, bars.num_classes, bars.timesteps, bars.in_channels) == ("events", 4, 4, 2)
    assert (bars.train.images.shape, bars.test.images.shape) == ((400, 4, 2, 16, 16), (100, 4, 2, 16, 16))
    assert torch.bincount(bars.train.labels).tolist() == [100] * 4
    assert torch.bincount(bars.test.labels).tolist() == [25] * 4
    assert bars.augmentation == Augmentation(crop_padding=2)
    again = load_dataset("events", "/nonexistent", timesteps=4)
    assert torch.equal(again.train.images, bars.train.images)
    assert not {f.numpy().tobytes() for f in bars.train.images} & {f.numpy().tobytes() for f in bars.test.images}


def test_bars_move_as_their_labels_say():
    """ON events, which a bar causes where it arrives: columns (right, left) or rows (down, up) go with time."""
    recordings = moving_bars(train=True)
    for i, label in enumerate(recordings.labels):
        t, x, y, p = recordings.read(i)
        found = [np.corrcoef(t[p == 1], place[p == 1])[0, 1] for place in (x, y)]
        along, sign = (label // 2, 1 - label % 2 * 2)
        assert sign * found[along] > 0.7
        assert abs(found[1 - along]) < 0.5


def test_a_network_is_evaluated_at_its_own_first_frames(bars):
    model = build_model("vgg_small", 4, 2, timesteps=3)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    for timesteps in (1, 3, 4):
        model.timesteps = timesteps
        with torch.no_grad():
            logits = model.eval()(bars.test.normalise(bars.test.images)[:timesteps])
        assert logits.shape == (timesteps, 100, 4)
        expected = (predict(logits) == bars.test.labels).double().mean().item() * 100
        assert evaluate(model, bars.test, batch_size=100) == pytest.approx(expected)
    model.timesteps = 5
    with pytest.raises(ValueError, match=r"^timesteps must be between 1 and the data's 4, got 5"):
        evaluate(model, bars.test)


@pytest.mark.slow
def test_a_small_network_learns_it(bars):
    torch.manual_seed(0)
    model = fuse(build_model("vgg_small", 4, 2, timesteps=4))
    optimizer = make_optimizer(model, "sgd", 0.1, 0.9, 5e-4)
    step, generator = TrainStep(model, optimizer), torch.Generator().manual_seed(0)
    for _ in range(4):
        batches = bars.train.batches(
            50, augmentation=bars.augmentation, generator=generator, memory_format=torch.channels_last
        )
        train_epoch(model, batches, optimizer, step)
    assert evaluate(model, bars.test) > 60  # chance is 25
    model.timesteps = 2
    assert evaluate(model, bars.test) > 60
