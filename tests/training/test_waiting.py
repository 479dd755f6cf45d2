"""Inside an epoch the host never waits for the device; the meta device stands for a GPU."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import snn_sparse as ss
from snn_sparse.training import Augmentation, ImageSet, evaluate, train_epoch

AUGMENTATION = Augmentation(flip=True, crop_padding=1, cutout=2)
WAITING = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
READING = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default}


class Waits(TorchDispatchMode):
    """Counts copies from one device to another and reads of single numbers, all of which are answered by 1."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.count = 0
        original = torch.tensor

        def counted(*args, device=None, **kwargs):  # copies below the reach of a dispatch mode
            self.count += device is not None
            return original(*args, device=device, **kwargs)

        monkeypatch.setattr(torch, "tensor", counted)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in READING:
            self.count += 1
            return 1
        out = function(*args, **(kwargs or {}))
        if function in WAITING:
            self.count += len({x.device for x in (out, *args) if isinstance(x, torch.Tensor)}) > 1
        return out


@pytest.fixture
def data():
    deviations = tuple(torch.rand(1).add(0.5).tolist())  # new ones, which no earlier test has left on the device
    images = torch.randint(0, 256, (23, 1, 8, 8), dtype=torch.uint8)
    return ImageSet(images, torch.arange(23) % 10, (0.5,), deviations).to("meta")


@pytest.mark.parametrize("generator", [None, torch.Generator()])
def test_only_the_first_batch_copies_to_the_device(data, generator, monkeypatch):
    with Waits(monkeypatch) as waits:
        batches = data.batches(4, augmentation=AUGMENTATION, generator=generator)
        next(batches)
        # mean and deviation; the order; the numbers of the augmentation
        assert waits.count == (1 if generator is None else 3)
        assert len(list(batches)) == 5
        assert waits.count == (1 if generator is None else 3)


def test_training_reads_the_device_after_the_last_batch(data, monkeypatch):
    model = ss.build_model("vgg_small", 10, 1, 2).to("meta")
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    counts = []

    def batches():
        for batch in data.batches(4, augmentation=AUGMENTATION, generator=torch.Generator()):
            counts.append(waits.count)
            yield batch
        counts.append(waits.count)

    with Waits(monkeypatch) as waits:
        train_epoch(model, batches(), optimizer)
    assert counts == [3] * 7
    assert waits.count > 3


def test_evaluation_reads_the_device_once(data, monkeypatch):
    model = ss.build_model("vgg_small", 10, 1, 2).to("meta")
    with Waits(monkeypatch) as waits:
        assert evaluate(model, data, batch_size=4) == pytest.approx(100 / 23)
    assert waits.count == 2  # mean and deviation, and the result
