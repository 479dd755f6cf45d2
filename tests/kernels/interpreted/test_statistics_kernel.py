"""Batch statistics and packed spikes, in Triton's interpreter."""

import pytest
import torch
import torch.nn.functional as F

from snn_sparse.kernels import statistics, tiles
from snn_sparse.kernels.spike_bits import pack, unpack

pytestmark = pytest.mark.usefixtures("poison")


def place(x, channels_last):
    return x.movedim(-3, -1).contiguous().movedim(-1, -3) if channels_last else x


def expected(y, pooled, eps, factors, running):
    parts = y.double().flatten(0, 1).unsqueeze(0) if pooled else y.double()
    for part, factor in zip(parts, factors, strict=True):
        F.batch_norm(part, *running, training=True, momentum=factor, eps=eps)
    mean, var = parts.mean((1, 3, 4)), parts.var((1, 3, 4), unbiased=False)
    return mean, 1 / torch.sqrt(var + eps)


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("programs", [1, 3, 2048])
@pytest.mark.parametrize(("shape", "dtype"), [((3, 3, 5, 9, 7), torch.float32), ((2, 4, 3, 1, 1), torch.float16)])
def test_statistics(shape, dtype, programs, channels_last, pooled, monkeypatch):
    monkeypatch.setattr(tiles, "MAX_SUMMING_PROGRAMS", programs)
    monkeypatch.setattr(statistics, "_ELEMENTS", 64)
    monkeypatch.setattr(statistics, "_PARTS", 2)
    channels, updates = shape[2], 1 if pooled else shape[0]
    y = place((torch.randn(shape) * torch.linspace(0.5, 2, channels).view(-1, 1, 1) + 1).to(dtype), channels_last)
    factors = torch.linspace(0.1, 0.4, updates)
    running = torch.randn(channels), torch.rand(channels) + 0.5
    exact = tuple(x.double() for x in running)
    mean, invstd = expected(y, pooled, 1e-3, factors.tolist(), exact)
    found = statistics.batch_statistics(
        y, 1e-3, pooled=pooled, running_mean=running[0], running_var=running[1], factors=factors
    )
    for a, b in zip((*found, *running), (mean, invstd, *exact), strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a.double(), b, rtol=2e-5, atol=2e-6)


def test_a_mean_far_from_zero():
    y = (torch.randn(1, 4, 2, 8, 8) * 0.1 + 1000).contiguous()
    mean, invstd = statistics.batch_statistics(y, 0.0)
    exact = y.double()
    torch.testing.assert_close(mean.double(), exact.mean((1, 3, 4)), rtol=5e-7, atol=0.0)
    torch.testing.assert_close(invstd.double(), exact.var((1, 3, 4), unbiased=False).rsqrt(), rtol=2e-3, atol=0.0)


def test_errors():
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        statistics.batch_statistics(torch.zeros(2, 1, 3, 1, 1))
    statistics.batch_statistics(torch.zeros(2, 1, 3, 1, 1), pooled=True)
    with pytest.raises(ValueError, match="given together"):
        statistics.batch_statistics(torch.zeros(2, 2, 3, 1, 1), running_mean=torch.zeros(3))
    running = {"running_mean": torch.zeros(3), "running_var": torch.zeros(3)}
    with pytest.raises(ValueError, match="factors must be"):
        statistics.batch_statistics(torch.zeros(2, 2, 3, 1, 1), **running, factors=torch.zeros(1))
    with pytest.raises(TypeError, match="float32, float16 or bfloat16"):
        statistics.batch_statistics(torch.zeros(2, 2, 3, 1, 1, dtype=torch.float64))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", [(1, 2, 31, 4, 8), (2, 1, 33, 1, 3), (1, 1, 64, 5, 13)])
def test_bits_are_elements_in_memory_order(shape, channels_last):
    spikes = place((torch.rand(shape) < 0.4).to(torch.float16), channels_last)
    bits = pack(spikes)
    lines = spikes.movedim(2, -1) if channels_last else spikes.flatten(3)
    bit = (bits.unsqueeze(-1) >> torch.arange(32)) & 1
    bit = bit.flatten(-2)
    assert torch.equal(bit[..., : lines.shape[-1]].half(), lines)
    assert bit[..., lines.shape[-1] :].eq(0).all()
    again = unpack(bits, shape, torch.float16)
    assert torch.equal(again, spikes)
    assert again.stride() == spikes.stride()


def test_bits_errors():
    with pytest.raises(ValueError, match="not the packed form"):
        unpack(torch.zeros(1, 1, 3, 2, dtype=torch.int32), (1, 1, 3, 4, 4), torch.float32)
    with pytest.raises(TypeError, match="int32"):
        unpack(torch.zeros(1, 1, 3, 1), (1, 1, 3, 4, 4), torch.float32)
