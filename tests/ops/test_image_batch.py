"""Wrong arguments of batches, and their channels' statistics; what batches hold is tested in ``tests/training``."""

import pytest
import torch

from snn_sparse.ops.image_batch import Draws, channel_statistics, image_batch, normalise

IMAGES = torch.zeros(4, 2, 5, 5, dtype=torch.uint8)
GIVEN = {"images": IMAGES, "index": torch.tensor([1, 0, 1]), "mean": (0.5, 0.5), "std": (1.0, 2.0)}


def draws(n=3, device="cpu"):
    return Draws(torch.zeros(5, n, dtype=torch.int32, device=device), flip=True)


@pytest.mark.parametrize(
    ("name", "wrong", "error"),
    [
        ("images", IMAGES.float(), TypeError),
        ("images", IMAGES[0], ValueError),
        ("mean", (0.5,), ValueError),
        ("std", (0.5, 0.5, 0.5), ValueError),
        ("index", torch.tensor([1.0, 0.0, 1.0]), TypeError),
        ("index", torch.tensor([True, False, True, True]), TypeError),
        ("index", torch.tensor([[1, 0, 1]]), ValueError),
        ("index", torch.tensor([1, 0, 1], device="meta"), ValueError),
        ("draws", draws(4), ValueError),
        ("draws", draws(1), ValueError),
        ("draws", draws(device="meta"), ValueError),
        ("dtype", torch.float64, TypeError),
        ("dtype", torch.uint8, TypeError),
        ("memory_format", torch.preserve_format, ValueError),
    ],
)
def test_wrong_arguments_are_named(name, wrong, error):
    assert image_batch(**GIVEN, draws=draws()).shape == (3, 2, 5, 5)
    with pytest.raises(error, match=f"^{name} must"):
        image_batch(**{**GIVEN, "draws": draws(), name: wrong})


@pytest.mark.parametrize(
    ("name", "wrong", "error"),
    [
        ("values", {"values": torch.zeros(5, 3)}, TypeError),
        ("values", {"values": torch.zeros(4, 3, dtype=torch.int32)}, ValueError),
        ("values", {"values": torch.zeros(5, dtype=torch.int32)}, ValueError),
        ("crop_padding", {"crop_padding": -1}, ValueError),
        ("cutout", {"cutout": -2}, ValueError),
    ],
)
def test_wrong_draws_are_named(name, wrong, error):
    with pytest.raises(error, match=f"^{name} must"):
        Draws(**{"values": torch.zeros(5, 3, dtype=torch.int32), **wrong})


def test_mean_and_deviation_stay_on_the_device_in_float32():
    device = torch.device("cpu")
    torch.set_default_dtype(torch.float64)
    try:
        first = channel_statistics((0.125, 0.75), (0.5, 0.25), device)
        assert normalise(IMAGES, (0.125, 0.75), (0.5, 0.25)).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)
    assert first.dtype == torch.float32
    assert first.tolist() == [[0.125, 0.75], [0.5, 0.25]]
    assert channel_statistics((0.125, 0.75), (0.5, 0.25), device) is first
    assert channel_statistics((0.125, 0.75), (0.5, 0.5), device) is not first
