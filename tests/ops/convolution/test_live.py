"""The convolution at live weights against torch's dense convolution and its autograd."""

import os
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2]))
import cpp_case

from snn_sparse.ops.convolution import LiveConfiguration, convolution, live_configuration
from snn_sparse.ops.convolution.configuration import live_of
from snn_sparse.ops.spikes import NCHW, MemoryFormat, convert

pytestmark = cpp_case.needs_cpp
EXAMPLES = int(os.environ.get("EXAMPLES", 80))
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5}


def reference(x, weight, bias, mask, stride, padding):
    """Output, a random gradient of it, and the gradients of input, weight and bias, all in float64."""
    leaves = [t.double().detach().requires_grad_() for t in (x, weight, bias)]
    masked = leaves[1].masked_fill(~mask, 0)
    y = F.conv2d(leaves[0].flatten(0, 1), masked, leaves[2], stride, padding).unflatten(0, x.shape[:2])
    grad = torch.randn_like(y)
    return y.detach(), grad, torch.autograd.grad(y, leaves, grad)


def assert_close(got, expected, dtype):
    assert (got.shape, got.dtype) == (expected.shape, dtype)
    scale = expected.abs().max().clamp(min=1.0)
    assert (got.double() - expected).abs().max() <= TOLERANCE[dtype] * scale


def through_lanes(x, weight, bias, how, stride, padding, **options):
    """As a caller uses it: lanes in, lanes out."""
    lanes, sizes = MemoryFormat("lanes", how.live.vectors), tuple(x.shape)
    y, parts = convolution(convert(x, sizes, NCHW, lanes), weight, bias, stride, padding, how, **options)
    assert parts is None
    return convert(y, (*sizes[:2], *y.shape[1:4]), lanes, NCHW)


def check(x, mask, dtype, live, stride=1, padding=0):
    weight = torch.randn(mask.shape, dtype=dtype)
    weight[~mask] = torch.nan  # only live entries may be read
    bias = torch.randn(mask.shape[0], dtype=dtype)
    y, grad, expected = reference(x, weight.nan_to_num(), bias, mask, stride, padding)
    how = live_configuration(mask, stride, padding, live)
    leaves = [t.detach().clone().requires_grad_() for t in (x, weight, bias)]
    got = through_lanes(*leaves, how, stride, padding)
    assert_close(got.detach(), y, dtype)
    grads = torch.autograd.grad(got, leaves, grad.to(dtype))
    for found, wanted in zip(grads, expected, strict=True):
        assert_close(found, wanted, dtype)
    assert not grads[1][~mask].any()


@st.composite
def problems(draw):
    def one_of(*choices):
        return draw(st.sampled_from(choices))

    kernel, padding = one_of((1, 1), (3, 3), (3, 3), (2, 3), (5, 1)), draw(st.integers(0, 2))
    maps = [draw(st.integers(max(1, k - 2 * padding), 9)) for k in kernel]
    return {
        "sizes": (draw(st.integers(1, 5)), draw(st.integers(1, 17)), draw(st.integers(1, 17)), *maps),
        "mask": (draw(st.integers(1, 17)), kernel, one_of(0.0, 0.05, 0.3, 1.0)),
        "strided": one_of("contiguous", "channels_last", "sliced", "expanded"),
        "seed": draw(st.integers(0, 999)),
        "window": {"stride": draw(st.integers(1, 2)), "padding": padding},
        "live": LiveConfiguration(
            draw(st.integers(1, 5)), one_of(0, 1, 5, 8), draw(st.booleans()), draw(st.booleans())
        ),
    }


def make_input(sizes, strided, dtype):
    t, b, c, h, w = sizes
    if strided == "channels_last":
        return torch.randn(t, b, h, w, c, dtype=dtype).permute(0, 1, 4, 2, 3)
    if strided == "sliced":
        return torch.randn(b, t, c + 1, h, 2 * w, dtype=dtype).transpose(0, 1)[:, :, 1:, :, ::2]
    if strided == "expanded":
        return torch.randn(b, c, h, w, dtype=dtype).expand(t, b, c, h, w)
    return torch.randn(t, b, c, h, w, dtype=dtype)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(problem=problems(), dtype=st.sampled_from([torch.float64, torch.float32]))
def test_against_dense(problem, dtype):
    torch.manual_seed(problem["seed"])
    x = make_input(problem["sizes"], problem["strided"], dtype)
    filters, kernel, density = problem["mask"]
    mask = torch.rand(filters, problem["sizes"][2], *kernel) < density
    mask[0] = density == 1.0  # an empty filter, unless all is full
    check(x, mask, dtype, problem["live"], **problem["window"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("vectors", range(1, 9))
def test_every_vector_count(vectors, dtype):
    for pack in (False, True):
        x, mask = torch.randn(2, 9, 6, 9, 16, dtype=dtype), torch.rand(5, 6, 3, 3) < 0.4
        check(x, mask, dtype, LiveConfiguration(vectors, 4, pack, pack), padding=1)


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(7, 1, 3), (7, 2, 6), (5, 3, 2), (4, 4, 0), (1, 5, 1), (3, 2, 20), (2, 8, 0)]
)
def test_unusual_windows(kernel, stride, padding, pack):
    for rows in (False, True):
        x, mask = torch.randn(2, 3, 4, 11, 8, dtype=torch.float64), torch.rand(6, 4, kernel, kernel) < 0.5
        check(x, mask, torch.float64, LiveConfiguration(2, 0, rows, pack), stride, padding)


def test_linear_is_a_pointwise_convolution_on_one_pixel():
    x, mask = torch.randn(5, 16, 200, 1, 1), torch.rand(50, 200, 1, 1) < 0.1
    for vectors in (1, 5, 8):
        check(x, mask, torch.float32, LiveConfiguration(vectors, 64))


@pytest.mark.parametrize("block", [0, 4])
@pytest.mark.parametrize("rows", [False, True])
def test_lists_name_every_live_weight_once(block, rows):
    mask = torch.rand(7, 10, 3, 3) < 0.3
    how = live_configuration(mask, 2, 1, LiveConfiguration(3, block, rows, True))
    live, lists = live_of(how.lists, list(how.numbers))
    assert live == how.live == LiveConfiguration(3, block, rows, True)
    for transposed, (channels, pointers, taps) in ((False, lists[:3]), (True, lists[3:])):
        filters, sources = (10, 7) if transposed else (7, 10)
        blocks = -(-sources // (block or sources))
        assert pointers.numel() == blocks * filters * 9 + 1
        assert sorted(taps.tolist()) == list(range(9))
        found = torch.zeros_like(mask)
        for row in range(pointers.numel() - 1):
            filter_, tap = row // 9 % filters, int(taps[row % 9])
            for channel in channels[pointers[row] : pointers[row + 1]]:
                index = (channel, filter_) if transposed else (filter_, channel)
                place = (*index, tap // 3, tap % 3)
                assert not found[place]
                found[place] = True
        assert torch.equal(found, mask)


def test_same_result_on_any_number_of_threads():
    x, mask = torch.randn(3, 16, 24, 9, 9).requires_grad_(), torch.rand(40, 24, 3, 3) < 0.2
    weight, bias, grad = torch.randn(mask.shape).requires_grad_(), torch.randn(40), torch.randn(3, 16, 40, 9, 9)
    how = live_configuration(mask, 1, 1, LiveConfiguration(1, 8))

    def run():
        y = through_lanes(x, weight, bias.requires_grad_(), how, 1, 1)
        return y, *torch.autograd.grad(y, (x, weight, bias), grad)

    first, *others = cpp_case.with_threads((1, 2, 3, 2), run)
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


# ---- the derivative --------------------------------------------------------------------------------------------------


def small_problem(stride=1, with_bias=True):
    sizes, mask = (1, 9, 2, 4, 3), torch.rand(3, 2, 3, 3) < 0.5
    x, weight = torch.randn(sizes, dtype=torch.float64), torch.randn(mask.shape, dtype=torch.float64)
    bias = torch.randn(3, dtype=torch.float64).requires_grad_() if with_bias else None
    how = live_configuration(mask, stride, 1, LiveConfiguration(2, 1))
    return x.requires_grad_(), weight.requires_grad_(), bias, how


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_are_those_of_finite_differences(stride, with_bias):
    *leaves, how = small_problem(stride, with_bias)
    torch.autograd.gradcheck(lambda *given: through_lanes(*given, how, stride, 1), leaves)


@pytest.mark.parametrize("needed", range(1, 8))
def test_only_what_needs_a_gradient_has_one(needed):
    *leaves, how = small_problem()
    expected = torch.autograd.grad(through_lanes(*leaves, how, 1, 1).sin().sum(), leaves)
    leaves = [t.detach().requires_grad_(bool(needed >> i & 1)) for i, t in enumerate(leaves)]
    through_lanes(*leaves, how, 1, 1).sin().sum().backward()
    for leaf, grad in zip(leaves, expected, strict=True):
        assert (leaf.grad is not None) == leaf.requires_grad
        assert leaf.grad is None or torch.equal(leaf.grad, grad)


def test_a_bias_that_is_not_added_gets_a_gradient_of_zero():
    x, weight, bias, how = small_problem()
    y = through_lanes(x, weight, bias, how, 1, 1, adds_bias=False)
    assert torch.equal(y, through_lanes(x, weight, None, how, 1, 1))
    found = torch.autograd.grad(y.sin().sum(), (x, weight, bias))
    expected = torch.autograd.grad(through_lanes(x, weight, None, how, 1, 1).sin().sum(), (x, weight))
    assert all(torch.equal(a, b) for a, b in zip(found[:2], expected, strict=True))
    assert torch.equal(found[2], torch.zeros(3, dtype=bias.dtype))


def test_strided_arguments_are_taken():
    x, weight, bias, how = small_problem()
    expected = through_lanes(x, weight, bias, how, 1, 1)
    sliced = [torch.stack((t, t), -1)[..., 0] for t in (weight, bias)]
    assert torch.equal(through_lanes(x, *sliced, how, 1, 1), expected)
    lanes = convert(x.detach(), tuple(x.shape), NCHW, MemoryFormat("lanes", 2)).transpose(1, 2).contiguous()
    y, _ = convolution(lanes.transpose(1, 2), weight, bias, 1, 1, how)
    assert torch.equal(convert(y, (1, 9, 3, 4, 3), MemoryFormat("lanes", 2), NCHW), expected)


@pytest.mark.parametrize("loss", [lambda y: y.sum(), lambda y: y.square().sum()], ids=["linear", "square"])
def test_a_second_derivative_is_refused(loss):
    x, weight, bias, how = small_problem()
    lanes = convert(x.detach(), tuple(x.shape), NCHW, MemoryFormat("lanes", 2)).requires_grad_()
    for leaf in (lanes, weight):
        (first,) = torch.autograd.grad(loss(convolution(lanes, weight, bias, 1, 1, how)[0]), leaf, create_graph=True)
        with pytest.raises(RuntimeError, match="convolution can be differentiated only once"):
            torch.autograd.grad(first.sum(), (lanes, weight), allow_unused=True)
    (first,) = torch.autograd.grad(loss(through_lanes(x, weight, bias, how, 1, 1)), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        first.sum().backward()


def test_padding_lanes_stay_finite_and_pruned_weights_unread():
    mask = torch.zeros(4, 3, 3, 3, dtype=torch.bool)
    how = live_configuration(mask, 1, 1, LiveConfiguration(2))
    x = convert(torch.randn(1, 3, 3, 4, 4), (1, 3, 3, 4, 4), NCHW, MemoryFormat("lanes", 2)).requires_grad_()
    weight = torch.full(mask.shape, torch.nan, requires_grad=True)
    y, _ = convolution(x, weight, None, 1, 1, how)
    assert torch.equal(y, torch.zeros_like(y))
    grads = torch.autograd.grad(y, (x, weight), torch.ones_like(y))
    assert not any(g.any() for g in grads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_spikes_are_kept_at_one_bit(dtype):
    mask = torch.rand(6, 5, 3, 3) < 0.4
    how = live_configuration(mask, 1, 1, LiveConfiguration(2))
    x = (torch.rand(3, 5, 7, 6, 16) < 0.3).to(dtype).requires_grad_()
    weight, bias = torch.randn(mask.shape, dtype=dtype).requires_grad_(), torch.randn(6, dtype=dtype).requires_grad_()
    found, kept = [], []
    for binary in (False, True):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.nbytes) or t, lambda t: t):
            y, _ = convolution(x, weight, bias, 1, 1, how, binary=binary)
        found.append((y.detach(), *torch.autograd.grad(y.square().sum(), (x, weight, bias))))
        kept.append(sum(sizes))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert kept[0] - kept[1] == x.nbytes - x.numel() // 8


@pytest.mark.slow
@pytest.mark.parametrize("isa", cpp_case.ISAS)
def test_every_instruction_set(isa):
    cpp_case.run_again(isa, __file__, Path(__file__).parents[1] / "spikes")
