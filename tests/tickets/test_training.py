"""One level of a search against the training loop that its settings stand for."""

import sys
from pathlib import Path

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR

import snn_sparse as ss

sys.path.insert(0, str(Path(__file__).parent))
from searching import make, same

from snn_sparse.tickets.search import snapshot
from snn_sparse.training import Augmentation, Dataset, ImageSet

CASES = {
    "sgd": {"momentum": 0.7, "weight_decay": 0.02},
    "published sgd": {"round": 3},
    "adam, steps": {"optimizer": "adam", "scheduler": "step", "learning_rate": 0.01, "weight_decay": 0.1},
    "batches": {"batch_size": 70, "bn_statistics": "pooled", "neuron": "plif"},
}


def trained_by_hand(search, mask, level, epochs):
    s, data = search.settings, search.data
    model = search.new_model()
    mask.apply_(model)
    if s.optimizer == "sgd":
        decay = 5e-4 if s.weight_decay is None else s.weight_decay
        optimizer = torch.optim.SGD(model.parameters(), s.learning_rate, s.momentum, weight_decay=decay)
    else:
        optimizer = torch.optim.Adam(model.parameters(), s.learning_rate, weight_decay=s.weight_decay)
    steps = MultiStepLR(optimizer, [epochs // 2, epochs * 3 // 4]) if s.scheduler == "step" else None
    schedule = steps or CosineAnnealingLR(optimizer, epochs)
    options = {"augmentation": data.augmentation, "memory_format": torch.channels_last}  # which rounds alike
    for epoch in range(epochs):
        for x, y in data.train.batches(s.batch_size, generator=search.generator(level, epoch), **options):
            optimizer.zero_grad()
            ss.temporal_cross_entropy(model(x), y).backward()
            optimizer.step()
        schedule.step()
    model.eval()
    with torch.no_grad():
        right = ss.predict(model(data.test.normalise(data.test.images))) == data.test.labels
    return snapshot(model), 100 * right.double().mean().item()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("percent", [None, 60.0])
def test_a_level_is_the_training_its_settings_say(tiny, tmp_path, case, percent):
    search = make(tiny, tmp_path / "run", backend="plain", timestep=2, **CASES[case])
    model, s = search.new_model(), search.settings
    built = {"neuron": s.neuron, "bn_statistics": s.bn_statistics, "timesteps": 2, "num_classes": 10, "in_channels": 1}
    assert model.config.items() >= built.items()
    mask = ss.Mask.dense(model) if percent is None else ss.magnitude_mask(model, percent)
    result = search.train(model, mask, 1, 2)
    expected, accuracy = trained_by_hand(search, mask, 1, 2)
    assert same(snapshot(model), expected)
    assert result.epochs == 2
    assert result.accuracy == pytest.approx(accuracy)
    assert result.seconds > 0


def numbered(tiny):
    """Images that say which they are: the only pixel of image n that is not zero holds n."""
    images = torch.zeros(100, 1, 8, 8, dtype=torch.uint8)
    images[:, 0, 4, 4] = torch.arange(100)
    train = ImageSet(images, torch.zeros(100, dtype=torch.int64), (0.0,), (1.0,))
    return Dataset("digits", train, tiny.test, 10, Augmentation(crop_padding=2))


def seen(data, root, level, **changes):
    """Number and place of each image, epoch by epoch."""
    search = make(data, root, timestep=1, **changes)
    model, batches = search.new_model(), []

    def trained_on(module, given):
        if module.training and torch.is_grad_enabled():  # without gradients, a search looks at firing rates
            batches.append(given[0])

    model.register_forward_pre_hook(trained_on)
    search.train(model, ss.Mask.dense(model), level, 3)
    sizes = [len(x) for x in batches]
    flat = torch.cat(batches).flatten(1)
    numbers, places = (flat * 255).round().long().max(1)
    return sizes, numbers.view(3, 100), places.view(3, 100)


def test_every_epoch_has_its_own_order_and_augmentation(tiny, tmp_path):
    data = numbered(tiny)
    sizes, numbers, places = seen(data, tmp_path / "a", 0, batch_size=40)
    assert sizes == [40, 40, 20] * 3
    assert all(sorted(order.tolist()) == list(range(100)) for order in numbers)
    _, other_level, _ = seen(data, tmp_path / "b", 1, batch_size=40)
    _, other_seed, _ = seen(data, tmp_path / "c", 0, batch_size=40, seed=6)
    orders = [*numbers, *other_level, *other_seed]
    assert len({tuple(order.tolist()) for order in orders}) == 9
    by_number = [place[order.argsort()].tolist() for order, place in zip(numbers, places, strict=True)]
    assert len({tuple(place) for place in by_number}) == 3
    _, again, same_places = seen(data, tmp_path / "d", 0, batch_size=40)
    assert torch.equal(numbers, again)
    assert torch.equal(places, same_places)


def test_initial_weights_depend_on_seed_and_round_alone(tiny, tmp_path):
    initial = snapshot(make(tiny, tmp_path / "a").new_model())
    torch.rand(3)
    state = torch.random.get_rng_state()
    assert same(snapshot(make(tiny, tmp_path / "b", backend="plain", method="eb").new_model()), initial)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not same(snapshot(make(tiny, tmp_path / "c", seed=6).new_model()), initial)
    second = snapshot(make(tiny, tmp_path / "d", round=2).new_model())
    assert not same(second, initial)
    assert same(snapshot(make(tiny, tmp_path / "e", seed=6, round=1).new_model()), second)
    torch.manual_seed(5)
    assert same(snapshot(ss.build_model("vgg_small", 10, 1, 4)), initial)
