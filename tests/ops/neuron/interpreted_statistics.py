"""Batch statistics, in Triton's interpreter."""

import pytest
import torch
import torch.nn.functional as F

from snn_sparse.ops.neuron import triton_statistics
from snn_sparse.ops.neuron.triton_statistics import batch_statistics
from snn_sparse.ops.spikes import NCHW, NHWC, ordered, triton_tiles


def expected(y, pooled, eps, factors, running):
    parts = y.double().flatten(0, 1).unsqueeze(0) if pooled else y.double()
    for part, factor in zip(parts, factors, strict=True):
        F.batch_norm(part, *running, training=True, momentum=factor, eps=eps)
    mean, var = parts.mean((1, 3, 4)), parts.var((1, 3, 4), unbiased=False)
    return mean, 1 / torch.sqrt(var + eps)


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("programs", [1, 3, 2048])
@pytest.mark.parametrize(("shape", "dtype"), [((3, 3, 5, 9, 7), torch.float32), ((2, 4, 3, 1, 1), torch.bfloat16)])
def test_statistics(shape, dtype, programs, channels_last, pooled, monkeypatch):
    monkeypatch.setattr(triton_tiles, "MAX_SUMMING_PROGRAMS", programs)
    monkeypatch.setattr(triton_statistics, "_ELEMENTS", 64)
    monkeypatch.setattr(triton_statistics, "_PARTS", 2)
    channels, updates = shape[2], 1 if pooled else shape[0]
    y = (torch.randn(shape) * torch.linspace(0.5, 2, channels).view(-1, 1, 1) + 1).to(dtype)
    y = ordered(y, NHWC if channels_last else NCHW)
    factors = tuple(torch.linspace(0.1, 0.4, updates).tolist())
    running = torch.randn(channels), torch.rand(channels) + 0.5
    exact = tuple(x.double() for x in running)
    mean, invstd = expected(y, pooled, 1e-3, factors, exact)
    moved = {"running_mean": running[0], "running_var": running[1], "factors": factors}
    weight, bias = torch.randn(2, channels)
    affine = {"weight": weight, "bias": bias} if programs > 1 else {}
    mean_to, spread = batch_statistics(y, 1e-3, pooled=pooled, **affine, **moved)
    found = mean_to, spread[:, 0]
    scale = invstd * weight.double() if affine else invstd
    torch.testing.assert_close(spread[:, 1].double(), scale, rtol=2e-5, atol=2e-6)
    shift = (bias.double() if affine else 0) - mean * scale
    torch.testing.assert_close(spread[:, 2].double(), shift, rtol=2e-5, atol=1e-5)
    for a, b in zip((*found, *running), (mean, invstd, *exact), strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a.double(), b, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("pooled", [False, True])
def test_parts_and_a_shift(pooled):
    """Statistics of parts that somebody else gives; the running mean has the bias that the data lacks."""
    t, n, c, h, w = 3, 4, 5, 3, 2
    y, shift = torch.randn(t, n, c, h, w), torch.randn(c)
    pieces = y.unflatten(1, (2, 2)).movedim(3, 0).flatten(3)  # two parts of each step: [C, T, 2, elements]
    mean = pieces.mean(-1)
    parts = torch.stack([torch.full_like(mean, pieces.shape[-1]), mean, ((pieces - mean[..., None]) ** 2).sum(-1)])
    factors, running = (0.3,) * (1 if pooled else t), (torch.zeros(c), torch.ones(c))
    exact = tuple(x.double() for x in running)
    wanted = expected(y.double() + shift[:, None, None], pooled, 1e-3, factors, exact)
    found = batch_statistics(
        torch.full_like(y, torch.nan), 1e-3, pooled=pooled, running_mean=running[0], running_var=running[1],
        factors=factors, parts=parts.contiguous(), shift=shift,
    )  # fmt: skip
    for a, b in zip((found[0] + shift, found[1][:, 0], *running), (*wanted, *exact), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=2e-5, atol=2e-6)


def test_a_mean_far_from_zero():
    y = (torch.randn(1, 4, 2, 8, 8) * 0.1 + 1000).contiguous()
    mean, spread = batch_statistics(y, 0.0)
    exact = y.double()
    torch.testing.assert_close(mean.double(), exact.mean((1, 3, 4)), rtol=5e-7, atol=0.0)
    torch.testing.assert_close(spread[:, 0].double(), exact.var((1, 3, 4), unbiased=False).rsqrt(), rtol=2e-3, atol=0.0)


def test_errors():
    y, running = torch.zeros(2, 2, 3, 1, 1), {"running_mean": torch.zeros(3), "running_var": torch.zeros(3)}
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        batch_statistics(torch.zeros(2, 1, 3, 1, 1))
    batch_statistics(torch.zeros(2, 1, 3, 1, 1), pooled=True)
    with pytest.raises(ValueError, match="given together"):
        batch_statistics(y, running_mean=torch.zeros(3))
    with pytest.raises(ValueError, match="factors must be"):
        batch_statistics(y, **running, factors=(0.0,))
    with pytest.raises(ValueError, match="running_var must be"):
        batch_statistics(y, **{**running, "running_var": torch.zeros(4)}, factors=(0.1, 0.1))
    with pytest.raises(ValueError, match="weight must be"):
        batch_statistics(y, weight=torch.ones(4))
    with pytest.raises(ValueError, match="parts must be"):
        batch_statistics(y, parts=torch.zeros(3, 2, 3, 1))
    with pytest.raises(ValueError, match="y must be"):
        batch_statistics(y[0])
    with pytest.raises(TypeError, match="float32, float16 or bfloat16"):
        batch_statistics(y.double())
