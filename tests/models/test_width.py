"""A width factor scales all numbers of channels, and stays with the network, its tickets and its run."""

import random
from fractions import Fraction

import pytest
import torch
from torch import nn

import snn_sparse as ss
from snn_sparse.models import ARCHITECTURES, VGG_LAYERS


def nearest(channels, width):
    """The multiple of 8 nearest to ``channels * width``, the larger of two, at least 8; found by trying all."""
    exact = Fraction(channels) * Fraction(width)
    return min((abs(n - exact), -n) for n in range(8, 16 * channels + 1, 8))[1] * -1


@pytest.fixture(params=[0.01, 0.125, 0.1875, 0.25, 1.5, "drawn"], ids=str)
def width(request):
    return random.uniform(0.02, 1.6) if request.param == "drawn" else request.param


@pytest.mark.parametrize("arch", [a for a in ARCHITECTURES if a in VGG_LAYERS])
def test_channels_of_vggs(arch, width):
    model = ss.build_model(arch, 7, 2, width=width)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    expected = [nearest(c, width) for c in VGG_LAYERS[arch] if c]
    assert [m.out_channels for m in convolutions] == expected
    assert [m.in_channels for m in convolutions] == [2, *expected[:-1]]
    assert model.classifier.weight.shape == (7, expected[-1])
    assert model.config["width"] == width


def test_channels_of_resnet19(width):
    model, full = (ss.build_model("resnet19", 7, 2, width=w) for w in (width, 1))
    own = {2: 2, 7: 7}  # channels of the input, classes
    for name, p in full.named_parameters():
        scaled = [own.get(size) or nearest(size, width) for size in p.shape[:2]]
        assert list(model.get_parameter(name).shape) == [*scaled, *p.shape[2:]], name


@pytest.mark.parametrize("arch", ["vgg_small", "resnet19"])
def test_a_narrow_network_computes_fused_as_plain(arch):
    model = ss.build_model(arch, 3, 2, 3, width=0.05).double()
    x = torch.randn(2, 2, 32, 32, dtype=torch.float64) * 3
    with torch.no_grad():
        torch.testing.assert_close(ss.fuse(model)(x), model(x))


def test_width_1_changes_nothing():
    torch.manual_seed(seed := random.randrange(2**31))
    one = ss.build_model("vgg_small", width=1).state_dict()
    torch.manual_seed(seed)
    assert all(torch.equal(one[n], v) for n, v in ss.build_model("vgg_small").state_dict().items())


@pytest.mark.parametrize(
    ("width", "error"),
    [
        (0, ValueError),
        (-0.5, ValueError),
        (16.01, ValueError),
        (10**400, ValueError),
        (float("nan"), ValueError),
        (float("inf"), ValueError),
    ]
    + [(value, TypeError) for value in ("0.5", None, True, [1])],
    ids=repr,
)
def test_wrong_widths(width, error):
    with pytest.raises(error, match=r"^width must"):
        ss.build_model("vgg_small", width=width)


def test_a_ticket_keeps_its_width(tmp_path):
    model = ss.build_model("vgg11", width=0.2)
    ss.Ticket.from_model(model, ss.magnitude_mask(model, 80)).save(tmp_path / "ticket.safetensors")
    ticket = ss.Ticket.load(tmp_path / "ticket.safetensors")
    assert ticket.config["width"] == 0.2
    assert ticket.build().features[0].out_channels == 16
    ticket.config["width"] = 0.5
    with pytest.raises(ValueError, match=r"features\.0\.weight"):
        ticket.build()
