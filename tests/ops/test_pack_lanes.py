"""Spikes in lanes at one bit each, for the backward pass of the sparse convolution."""

import pytest
import torch
import torch.nn.functional as F

from snn_sparse.ops.library import cpu_library

if not cpu_library():
    pytest.skip("the C++ operators are not built", allow_module_level=True)

from snn_sparse.ops.binary_conv import binary_conv2d
from snn_sparse.ops.sparse_conv import Blocking, Structure, sparse_conv2d

OPS = torch.ops.snn_sparse


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(8,), (3, 5, 24), (2, 7, 4, 3, 40), (0, 8)])
def test_round_trip(dtype, shape):
    x = (torch.rand(shape, dtype=dtype) < 0.3).to(dtype)
    bits = OPS.pack_lanes(x)
    assert bits.shape == (*shape[:-1], shape[-1] // 8)
    weights = 2 ** torch.arange(8)
    assert torch.equal(bits.long(), (x.unflatten(-1, (-1, 8)).long() * weights).sum(-1))
    assert torch.equal(OPS.unpack_lanes(bits, x), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_binary_convolution_has_the_same_gradients_and_keeps_bits(dtype):
    mask = torch.rand(6, 5, 3, 3) < 0.4
    structure = Structure(mask, 1, 1, Blocking(2))
    x = (torch.rand(3, 5, 7, 6, 16) < 0.3).to(dtype).requires_grad_()
    weight, bias = (torch.randn(mask.shape, dtype=dtype) * mask).requires_grad_(), torch.randn(6, dtype=dtype)
    found, kept = [], []
    for binary in (False, True):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.nbytes) or t, lambda t: t):
            y = sparse_conv2d(x, weight, bias.requires_grad_(), (7, 6), structure, binary=binary)
        found.append((y.detach(), *torch.autograd.grad(y.square().sum(), (x, weight, bias))))
        kept.append(sum(sizes))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert kept[0] - kept[1] == x.nbytes - x.numel() // 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_a_dense_binary_convolution(dtype, channels_last, with_bias):
    x = (torch.rand(4, 7, 6, 5, dtype=dtype) < 0.3).to(dtype)
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    weight, bias = torch.randn(3, 7, 3, 3, dtype=dtype).requires_grad_(), torch.randn(3, dtype=dtype).requires_grad_()
    leaves = (x.requires_grad_(), weight, *([bias] if with_bias else []))
    kept, found = [], []
    for convolve in (F.conv2d, binary_conv2d):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.nbytes) or t, lambda t: t):
            y = convolve(x, weight, bias if with_bias else None, 2, 1)
        found.append((y, *torch.autograd.grad(y.square().sum(), leaves)))
        kept.append(sum(sizes))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(b, a)
        assert a.stride() == b.stride()
    assert kept[1] <= kept[0] - x.nbytes + x.numel() // 8


def test_a_dense_binary_convolution_of_odd_size_and_its_second_derivative():
    x, weight = torch.ones(1, 1, 3, 3).requires_grad_(), torch.randn(1, 1, 3, 3).requires_grad_()
    torch.testing.assert_close(binary_conv2d(x, weight, None, 1, 1), F.conv2d(x, weight, None, 1, 1))
    x = torch.ones(2, 4, 3, 3).requires_grad_()
    with pytest.raises(RuntimeError, match="only once"):
        torch.autograd.grad(
            binary_conv2d(x, torch.randn(1, 4, 3, 3).requires_grad_(), None, 1, 1).sum(), x, create_graph=True
        )


def test_refusals():
    x = torch.zeros(2, 16)
    for call in (
        lambda: OPS.pack_lanes(x[:, :9]),
        lambda: OPS.pack_lanes(x[:, ::2]),
        lambda: OPS.pack_lanes(x.half()),
        lambda: OPS.unpack_lanes(x, x),
        lambda: OPS.unpack_lanes(torch.zeros(2, 2, dtype=torch.uint8)[:, 0], x),
        lambda: OPS.unpack_lanes(torch.zeros(2, dtype=torch.uint8), x.half()),
    ):
        with pytest.raises(RuntimeError):
            call()
