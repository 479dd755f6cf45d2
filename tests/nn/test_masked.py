"""A layer owns its mask: pruned weights count as zero and have a gradient of exactly zero, whatever computes it."""

import copy
import io
import pickle
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))
import cpp_case

import snn_sparse as ss
from snn_sparse.nn import MaskedConv2d, MaskedLinear
from snn_sparse.ops.convolution import LiveConfiguration
from snn_sparse.ops.spikes import NCHW, NHWC, MemoryFormat
from snn_sparse.tuning import Winner
from snn_sparse.tuning import cpu as tuning

SHAPES = {"conv": (2, 4, 3, 6, 5), "linear": (2, 4, 3)}


def make(kind, dtype=torch.float64):
    layer = MaskedConv2d(3, 5, 3, padding=1) if kind == "conv" else MaskedLinear(3, 5)
    return layer.to(dtype)


def expected_of(layer, x, keep):
    weight = layer.weight.detach() * keep
    if x.dim() == 3:
        return F.linear(x, weight, layer.bias)
    return F.conv2d(x.flatten(0, 1), weight, layer.bias, 1, 1).unflatten(0, x.shape[:2])


@pytest.fixture(params=["live", "dense nchw", "dense nhwc", "plain"])
def how(request, monkeypatch):
    """Each way in which a masked layer computes on a CPU."""
    if request.param != "plain" and cpp_case._found.name != "cpp":
        pytest.skip("the C++ operators do not run")

    def choose(g, dtype, keep, rate):
        if request.param == "live" and keep is not None:
            return Winner((1.0,), (2.0,), MemoryFormat("lanes", 2), LiveConfiguration(2), rate=rate)
        return Winner((1.0,), (1.0,), NHWC if request.param == "dense nhwc" else NCHW, rate=rate)

    monkeypatch.setenv("SNN_SPARSE_CACHE", "")
    monkeypatch.setattr(tuning, "choose", choose)
    if request.param == "plain":
        monkeypatch.setattr("snn_sparse.nn.masked.implementation", lambda *_: "plain")
    return request.param


@pytest.mark.parametrize("kind", SHAPES)
def test_computes_under_its_mask(how, kind):
    layer, x = make(kind), torch.randn(SHAPES[kind], dtype=torch.float64)
    keep = torch.rand(layer.weight.shape) < 0.4
    layer.set_mask(keep)
    assert layer.keep_mask is keep
    assert not layer.weight[~keep].any()
    assert layer.weight[keep].all()
    torch.testing.assert_close(layer(x), expected_of(layer, x, keep))
    if how == "live":
        assert all(w.live is not None for w in layer.tuner.winners.values())


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("upstream", [1.0, torch.nan, torch.inf, -torch.inf])
def test_the_gradient_of_a_pruned_weight_is_exactly_zero(how, kind, upstream):
    layer, x = make(kind), torch.rand(SHAPES[kind], dtype=torch.float64)
    keep = torch.rand(layer.weight.shape) < 0.4
    layer.set_mask(keep)
    y = layer(x)
    y.backward(torch.full_like(y, upstream))
    assert not layer.weight.grad[~keep].any()
    assert layer.weight.grad[keep].all()


@pytest.mark.parametrize("kind", SHAPES)
def test_what_is_written_to_pruned_weights_counts_as_zero(how, kind):
    layer, x = make(kind), torch.randn(SHAPES[kind], dtype=torch.float64)
    keep = torch.rand(layer.weight.shape) < 0.4
    layer.set_mask(keep)
    expected = layer(x).detach()
    for value in (5.0, torch.nan):
        layer.weight.data[~keep] = value
        y = layer(x)
        assert torch.equal(y, expected)
        y.sum().backward()
        assert not layer.weight.grad[~keep].any()
        layer.weight.data[~keep] = value
        assert torch.equal(layer.state_dict()["weight"], layer.weight)
        assert not layer.weight[~keep].any()


@pytest.mark.parametrize("kind", SHAPES)
def test_training_leaves_pruned_weights_at_zero(how, kind):
    """With momentum and weight decay, of an optimizer that has already made a step without the mask."""
    layer, x = make(kind), torch.randn(SHAPES[kind], dtype=torch.float64)
    keep = torch.rand(layer.weight.shape) < 0.4
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, weight_decay=0.1)
    layer.set_mask(keep)
    before = layer.weight.detach().clone()
    for _ in range(3):
        optimizer.zero_grad()
        layer(x).square().sum().backward()
        optimizer.step()
    assert not layer.weight[~keep].any()
    assert (layer.weight != before)[keep].all()


@pytest.mark.parametrize("kind", SHAPES)
def test_a_new_mask_and_none(how, kind):
    layer, x = make(kind), torch.randn(SHAPES[kind], dtype=torch.float64)
    layer.weight.grad = torch.ones_like(layer.weight)
    first, second = torch.rand(2, *layer.weight.shape).unbind()
    for keep in (first < 0.6, second < 0.6):
        layer.set_mask(keep)
        assert not layer.weight.grad[~keep].any()  # what an optimizer may still read
        torch.testing.assert_close(layer(x), expected_of(layer, x, keep))
    layer.set_mask(None)
    assert layer.keep_mask is None
    torch.testing.assert_close(layer(x), expected_of(layer, x, second >= -1))
    layer.weight.grad = None
    layer(x).sum().backward()
    assert layer.weight.grad.all()


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), "file"], ids=["copy", "pickle", "file"]
)
def test_copies_keep_the_mask(how, kind, copied):
    layer, x = make(kind), torch.randn(SHAPES[kind], dtype=torch.float64)
    keep = torch.rand(layer.weight.shape) < 0.4
    layer.set_mask(keep)
    expected = layer(x)
    if copied == "file":
        file = io.BytesIO()
        torch.save(layer, file)
        file.seek(0)
        twin = torch.load(file, weights_only=False)
    else:
        twin = copied(layer)
    assert "_tuner" not in vars(twin)  # it is made again
    assert torch.equal(twin(x), expected)
    assert twin.keep_mask is not keep
    assert twin.weight is not layer.weight
    assert twin.tuner is not layer.tuner
    twin.set_mask(~keep)
    assert torch.equal(layer(x), expected)


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_another_dtype(how, kind, dtype):
    layer, x = make(kind), torch.randn(SHAPES[kind], dtype=torch.float64)
    keep = torch.rand(layer.weight.shape) < 0.4
    layer.set_mask(keep)
    expected = layer(x)
    layer.to(dtype)
    assert layer.keep_mask.dtype == torch.bool
    y = layer(x.to(dtype))
    assert y.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 0.1
    torch.testing.assert_close(y.double(), expected, rtol=tolerance, atol=tolerance)
    y.sum().backward()
    assert not layer.weight.grad[~keep].any()


def test_loading_dense_weights_into_a_masked_layer(how):
    layer, x = make("conv"), torch.randn(SHAPES["conv"], dtype=torch.float64)
    keep = torch.rand(layer.weight.shape) < 0.4
    layer.set_mask(keep)
    dense = make("conv").state_dict()
    layer.load_state_dict(dense)
    expected = F.conv2d(x.flatten(0, 1), dense["weight"] * keep, dense["bias"], 1, 1)
    torch.testing.assert_close(layer(x).flatten(0, 1), expected)


@pytest.mark.parametrize("kind", SHAPES)
def test_wrong_masks(kind):
    layer = make(kind)
    shape = layer.weight.shape
    good = torch.ones(shape, dtype=torch.bool)
    layer.set_mask(good)
    weight = layer.weight.detach().clone()
    for wrong in (good[:1], good[None], good.flatten(), good[..., None]):
        with pytest.raises(ValueError, match=r"^mask must be"):
            layer.set_mask(wrong)
    for dtype in (torch.float32, torch.uint8, torch.int64):
        with pytest.raises(TypeError, match=r"^mask must be bool"):
            layer.set_mask(torch.zeros(shape, dtype=dtype))
    assert layer.keep_mask is good
    assert torch.equal(layer.weight, weight)


@pytest.mark.parametrize("lead", [(), (7,), (2, 3), (2, 3, 4)])
def test_linear_layers_take_any_leading_sizes(how, lead):
    layer, x = make("linear"), torch.randn(*lead, 3, dtype=torch.float64, requires_grad=True)
    keep = torch.rand(5, 3) < 0.6
    layer.set_mask(keep)
    y, expected = layer(x), F.linear(x, layer.weight.detach() * keep, layer.bias)
    torch.testing.assert_close(y, expected)
    for a, b in zip(*(torch.autograd.grad(out.sin().sum(), x) for out in (y, expected)), strict=True):
        torch.testing.assert_close(a, b)
    assert layer(x[:0] if lead else x).shape == ((0, *lead[1:], 5) if lead else (5,))


@pytest.mark.parametrize(
    "options",
    [
        {"groups": 3},
        {"dilation": 2},
        {"stride": (1, 2)},
        {"padding": (0, 1)},
        {"padding": "same"},
        {"padding_mode": "circular", "padding": 1},
        {"bias": False},
        {"stride": 2, "padding": 2},
    ],
    ids=str,
)
def test_every_kind_of_convolution(how, options):
    layer = MaskedConv2d(3, 6, 3, **options).double()
    keep = torch.rand(layer.weight.shape) < 0.5
    layer.set_mask(keep)
    x = torch.randn(2, 4, 3, 7, 8, dtype=torch.float64)
    twin = ss.nn.Conv2d(3, 6, 3, **options).double()
    twin.load_state_dict(layer.state_dict())
    y, expected = layer(x), twin(x)
    torch.testing.assert_close(y, expected)
    y.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(layer.weight.grad, twin.weight.grad * keep)
    torch.testing.assert_close(layer(x[0]), twin(x[0]))
