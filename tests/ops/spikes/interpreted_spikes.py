"""Packed spikes, in Triton's interpreter."""

import pytest
import torch

from snn_sparse.ops import Packed, unpack_spikes
from snn_sparse.ops.spikes import NCHW, NHWC, ordered, plain_pack
from snn_sparse.ops.spikes.triton_bits import unpack


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", [(1, 2, 31, 4, 8), (2, 1, 33, 1, 3), (1, 1, 64, 5, 13), (2, 0, 3, 2, 2)])
def test_unpacking(shape, channels_last, dtype):
    spikes = ordered((torch.rand(shape) < 0.4).to(dtype), NHWC if channels_last else NCHW)
    bits = plain_pack(spikes)
    carrier = spikes.new_zeros(1).expand(shape).requires_grad_()
    for words in (bits, torch.stack([bits, bits], -1)[..., 0]):
        found = unpack_spikes(Packed(carrier, words))
        assert found.dtype == dtype
        assert torch.equal(found, spikes)
        assert found.stride() == spikes.stride() or not found.numel()
    grad = torch.randn(shape).to(dtype)
    assert torch.equal(torch.autograd.grad(found, carrier, grad)[0], grad)


def test_errors():
    with pytest.raises(ValueError, match="not the packed form"):
        unpack(torch.zeros(1, 1, 3, 2, dtype=torch.int32), (1, 1, 3, 4, 4), torch.float32)
    with pytest.raises(TypeError, match="int32"):
        unpack(torch.zeros(1, 1, 3, 1), (1, 1, 3, 4, 4), torch.float32)
    with pytest.raises(TypeError, match="int32"):
        unpack(torch.zeros(1, 1, 3, 1, dtype=torch.int32), (1, 1, 3, 4, 4), torch.float64)
    with pytest.raises(TypeError, match="packed must be"):
        unpack_spikes(torch.zeros(1))
