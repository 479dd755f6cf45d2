"""The dense convolution under a mask on a CPU, and packed spikes by torch."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[2]))
import cpp_case

from snn_sparse.ops.convolution import LayerConfiguration, convolution, gpu
from snn_sparse.ops.spikes import NHWC, format_of, ordered, plain_pack

SIZES = (2, 4, 7, 6, 5)


def problem(dtype=torch.float64, channels_last=False):
    x = (torch.rand(SIZES) < 0.3).to(dtype)
    x = ordered(x, NHWC) if channels_last else x
    weight, bias = torch.randn(3, 7, 3, 3, dtype=dtype), torch.randn(3, dtype=dtype)
    return x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()


def by_torch(x, weight, bias, stride, padding):
    return F.conv2d(x.flatten(0, 1), weight, bias, stride, padding).unflatten(0, x.shape[:2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(("stride", "padding"), [(1, 1), (2, 0), (3, 2)])
def test_dense_is_torchs(dtype, channels_last, with_bias, stride, padding):
    *leaves, bias = problem(dtype, channels_last)
    leaves, bias = ([*leaves, bias], bias) if with_bias else (leaves, None)
    y, parts = convolution(*leaves[:2], bias, stride, padding)
    expected = by_torch(*leaves[:2], bias, stride, padding)
    assert parts is None
    assert torch.equal(y, expected)
    assert y.stride() == expected.stride()
    grad = torch.randn_like(y)
    for a, b in zip(*(torch.autograd.grad(out, leaves, grad) for out in (y, expected)), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("upstream", [1.0, torch.inf, torch.nan])
def test_the_gradient_of_a_pruned_weight_is_exactly_zero(upstream):
    x, weight, bias = problem()
    keep = torch.rand(weight.shape) < 0.4
    y, _ = convolution(x, weight, bias, 1, 1, LayerConfiguration.dense(keep))
    assert torch.equal(y, by_torch(x, weight, bias, 1, 1))  # pruned weights are the caller's, to be zero
    grad = torch.full_like(y, upstream)
    (found,) = torch.autograd.grad(y, weight, grad, retain_graph=True)
    (expected,) = torch.autograd.grad(by_torch(x, weight, bias, 1, 1), weight, grad)
    assert not found[~keep].any()
    torch.testing.assert_close(found[keep], expected[keep], equal_nan=True)


@cpp_case.needs_cpp
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_spikes_are_kept_at_one_bit(dtype, channels_last, with_bias):
    x, weight, bias = problem(dtype, channels_last)
    leaves = (x, weight, bias) if with_bias else (x, weight)
    kept, found = [], []
    for binary in (False, True):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.nbytes) or t, lambda t: t):
            y, _ = convolution(x, weight, bias if with_bias else None, 2, 1, binary=binary)
        found.append((y, *torch.autograd.grad(y.square().sum(), leaves)))
        kept.append(sum(sizes))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(b, a)
        assert a.stride() == b.stride()
    assert kept[0] - kept[1] == x.nbytes - x.numel() // 8


@cpp_case.needs_cpp
@pytest.mark.parametrize("x", [torch.ones(1, 1, 1, 3, 3), torch.ones(2, 2, 2, 4, 8)[..., ::2]], ids=["9", "strided"])
def test_what_does_not_pack_is_kept_as_it_is(x):
    weight = torch.randn(1, x.shape[2], 3, 3, requires_grad=True)
    found = []
    for binary in (False, True):
        y, _ = convolution(x, weight, None, 1, 1, binary=binary)
        found.append((y, torch.autograd.grad(y.square().sum(), weight)[0]))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_packed_spikes_by_torch():
    """What a GPU runs where no direction has a kernel."""
    x, weight, bias = problem()
    keep = torch.rand(weight.shape) < 0.4
    carrier = torch.zeros(1, dtype=x.dtype).expand(x.shape).requires_grad_()
    given = (weight, bias, x.dtype, 1, 1, keep, None, [])
    y, _, saved = gpu.forward(carrier, plain_pack(x), *given, True, False, False)
    torch.testing.assert_close(y, by_torch(x, weight, bias, 1, 1))
    grad = torch.randn_like(y)
    rest = (list(x.shape), False, 1, 1, keep, None, [], True, 7)
    found = gpu.backward(grad, None, plain_pack(x), weight, saved, *rest)
    expected = list(torch.autograd.grad(by_torch(x, weight, bias, 1, 1), (x, weight, bias), grad))
    expected[1] = expected[1] * keep
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_under_autocast_products_are_in_the_lower_precision():
    leaves = problem(torch.float32)
    keep = torch.rand(leaves[1].shape) < 0.4
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, _ = convolution(*leaves, 1, 1, LayerConfiguration.dense(keep), binary=True)
    assert y.dtype == torch.bfloat16
    grads = torch.autograd.grad(y.float().square().sum(), leaves)
    half = [t.detach().to(torch.bfloat16).requires_grad_() for t in leaves]
    expected = by_torch(*half, 1, 1)
    assert torch.equal(y, expected)
    wanted = list(torch.autograd.grad(expected.float().square().sum(), half))
    wanted[1] = wanted[1] * keep
    for a, b in zip(grads, wanted, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b.float())


def test_a_bias_that_is_not_added_gets_a_gradient_of_zero():
    x, weight, bias = problem()
    y, _ = convolution(x, weight, bias, 1, 1, adds_bias=False)
    assert torch.equal(y, by_torch(x, weight, None, 1, 1))
    found = torch.autograd.grad(y.square().sum(), (weight, bias))
    assert found[0].any()
    assert torch.equal(found[1], torch.zeros_like(bias))


@pytest.mark.parametrize("channels_last", [False, True])
def test_compiles_into_one_graph(channels_last):
    leaves = problem(channels_last=channels_last)
    keep = torch.rand(leaves[1].shape) < 0.4

    def run(*given):
        return convolution(*given, 1, 1, LayerConfiguration.dense(keep))[0]

    y, expected = torch.compile(run, fullgraph=True, backend="aot_eager")(*leaves), run(*leaves)
    assert torch.equal(y, expected)
    assert format_of(y) == format_of(expected)
    for a, b in zip(*(torch.autograd.grad(out.sin().sum(), leaves) for out in (y, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)  # torch 2.11 sums the bias in another order


@pytest.mark.parametrize("loss", [lambda y: y.sum(), lambda y: y.square().sum()], ids=["linear", "square"])
def test_a_second_derivative_is_refused(loss):
    leaves = problem()
    for leaf in leaves[:2]:
        (first,) = torch.autograd.grad(loss(convolution(*leaves, 1, 1)[0]), leaf, create_graph=True)
        with pytest.raises(RuntimeError, match="convolution can be differentiated only once"):
            torch.autograd.grad(first.sum(), leaves, allow_unused=True)


@cpp_case.needs_cpp
@pytest.mark.parametrize("what", ["live_configuration(keep, 1, 1, LiveConfiguration())", "convert(x, s, NCHW, lanes)"])
def test_the_first_call_loads_the_operators(what):
    code = f"""
import torch
from snn_sparse.ops.convolution import LiveConfiguration, live_configuration
from snn_sparse.ops.spikes import NCHW, MemoryFormat, convert
keep, s, lanes = torch.ones(1, 1, 3, 3).bool(), (1, 1, 1, 3, 3), MemoryFormat("lanes", 1)
x = torch.zeros(s)
{what}
"""
    subprocess.run([sys.executable, "-c", code], check=True)
