"""Spikes at one bit each: packed words of a sequence, and bytes for the backward pass."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
import cpp_case

from snn_sparse.ops.spikes import (
    NCHW,
    NHWC,
    Packed,
    dense_spikes,
    empty_dense,
    format_of,
    ordered,
    packed_shape,
    plain_pack,
    plain_unpack,
    unpack_spikes,
)


@pytest.mark.parametrize("memory_format", [NCHW, NHWC], ids=lambda f: f.kind)
@pytest.mark.parametrize("sizes", [(2, 1, 33, 4, 8), (1, 3, 64, 1, 1), (3, 2, 7, 9, 5), (1, 1, 32, 4, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_words(memory_format, sizes, dtype):
    spikes = ordered((torch.rand(sizes) < 0.4).to(dtype), memory_format)
    channels_last = format_of(spikes) == NHWC
    bits = plain_pack(spikes)
    assert (bits.shape, bits.dtype) == (packed_shape(sizes, channels_last), torch.int32)
    unpacked = plain_unpack(bits, sizes, dtype)
    assert torch.equal(unpacked, spikes)
    assert torch.equal(dense_spikes(bits, sizes, dtype), spikes)
    assert unpacked.stride() == spikes.stride() == empty_dense(sizes, bits, dtype).stride()


def test_bit_by_bit():
    spikes = (torch.rand(1, 1, 3, 5, 7) < 0.5).float()
    for packed, lines in ((plain_pack(spikes), spikes.flatten(3)), (plain_pack(ordered(spikes, NHWC)), None)):
        lines = spikes.permute(0, 1, 3, 4, 2) if lines is None else lines
        for place in torch.cartesian_prod(*map(torch.arange, lines.shape)).tolist():
            *outer, i = place
            word = int(packed[(*outer, i // 32)])
            assert (word >> (i % 32) & 1) == lines[tuple(place)]


def test_unpacking_is_differentiable():
    sizes = (2, 3, 5, 4, 6)
    spikes = (torch.rand(sizes) < 0.4).double()
    carrier = torch.zeros(1, dtype=torch.float64).expand(sizes).requires_grad_()
    unpacked = unpack_spikes(Packed(carrier, plain_pack(spikes)))
    assert torch.equal(unpacked, spikes)
    grad = torch.randn_like(spikes)
    assert torch.equal(torch.autograd.grad(unpacked, carrier, grad)[0], grad)


def test_wrong_arguments():
    for wrong in (torch.zeros(1), (torch.zeros(1), torch.zeros(1))):
        with pytest.raises(TypeError, match="packed must be Packed spikes"):
            unpack_spikes(wrong)


@cpp_case.needs_cpp
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(8,), (3, 5, 24), (2, 7, 4, 3, 40), (0, 8)])
def test_bytes(dtype, shape):
    x = (torch.rand(shape) < 0.3).to(dtype)
    bits = torch.ops.snn_sparse.pack_bits(x)
    assert bits.shape == (*shape[:-1], shape[-1] // 8)
    weights = 2 ** torch.arange(8)
    assert torch.equal(bits.long(), (x.unflatten(-1, (-1, 8)).long() * weights).sum(-1))
    assert torch.equal(torch.ops.snn_sparse.unpack_bits(bits, x), x)


X = torch.zeros(2, 16)
BAD = {
    "pack_bits: nine": (X[:, :9].contiguous(),),
    "pack_bits: strided": (X[:, ::2],),
    "pack_bits: half": (X.half(),),
    "unpack_bits: no bytes": (X, X),
    "unpack_bits: strided": (torch.zeros(2, 2, dtype=torch.uint8)[:, 0], X),
    "unpack_bits: half": (torch.zeros(2, dtype=torch.uint8), X.half()),
}


@cpp_case.needs_cpp
@pytest.mark.parametrize("case", BAD)
def test_refusals(case):
    name = case.split(":")[0]
    with pytest.raises(RuntimeError, match=f"{name}: "):
        getattr(torch.ops.snn_sparse, name)(*BAD[case])
