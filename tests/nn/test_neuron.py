"""The leaky neuron as a module, against snnTorch's recurrence written down from its description."""

import pytest
import torch

from snn_sparse.nn import Leaky


class FastSigmoidOfSnnTorch(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u):
        ctx.save_for_backward(u)
        return (u > 0).to(u.dtype)

    @staticmethod
    def backward(ctx, grad):
        (u,) = ctx.saved_tensors
        return grad / (25.0 * u.abs() + 1.0) ** 2


def snntorch_by_hand(x, beta, v_threshold):
    """snnTorch's Leaky with its defaults (``subtract``, ``reset_delay``), written down from its description."""
    memory, spikes = torch.zeros_like(x[0]), []
    for x_t in x:
        fired = (memory - v_threshold > 0).to(x.dtype)
        memory = beta.clamp(0, 1) * memory + x_t - fired * v_threshold
        spikes.append(FastSigmoidOfSnnTorch.apply(memory - v_threshold))
    return torch.stack(spikes), memory


@pytest.mark.parametrize("beta", [0.1, 0.85, 0.99])
def test_late_reset_is_snntorchs(beta):
    layer = Leaky(beta, True, True, v_threshold=0.9, surrogate="fast_sigmoid", strict=True).double()
    x = (torch.randn(7, 4, 5, dtype=torch.float64) + 0.3).requires_grad_()
    weight, weight_v = torch.randn(7, 4, 5, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    results = []
    for spikes, v in (layer.sequence(x), snntorch_by_hand(x, layer.beta, 0.9)):
        loss = (spikes * weight).sum() + (v * weight_v).sum()
        results.append((spikes, v, *torch.autograd.grad(loss, (x, layer.beta))))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    assert 0 < results[0][0].mean() < 1
    assert results[0][3] != 0
    fixed = Leaky(beta, False, True, v_threshold=0.9, surrogate="fast_sigmoid", strict=True)
    assert torch.equal(fixed(x), layer(x))
    assert (list(fixed.state_dict()), list(layer.state_dict())) == ([], ["beta"])


def test_a_learnt_beta_is_clamped():
    layer = Leaky(0.5, learn_beta=True)
    for value, used in ((1.5, 1.0), (-0.5, 0.0), (0.25, 0.25)):
        layer.beta.data.fill_(value)
        assert layer.rate().item() == used
    assert "beta=0.25" in repr(layer)
