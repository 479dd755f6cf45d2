"""Neurons that are written into the loop of ``forward`` are cut out of the graph and recognised."""

import copy

import pytest
import torch
from torch import nn

import snn_sparse as ss


class Fire(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u):
        ctx.save_for_backward(u)
        return (u > 0).to(u)

    @staticmethod
    def backward(ctx, grad):
        (u,) = ctx.saved_tensors
        return grad * (u.abs() < 0.5).to(u)


class Written(nn.Module):
    """Two neurons in a loop over ``[T, N, C, H, W]``; ``how`` says what is written down."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.conv1, self.conv2 = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def step(self, mem, spike, x):
        if self.how == "zero reset":
            mem = mem * 0.5 * (1 - spike) + x
        elif self.how == "subtract":
            mem = 0.75 * mem + x - 0.8 * spike.detach()
        elif self.how == "two potentials":
            mem = 0.5 * mem * mem.abs() * (1 - spike) + x
        else:
            mem = mem * 0.5 * (1 - spike.detach()) + x
        return mem, Fire.apply(mem - 0.8)

    def forward(self, x):
        out = 0
        zeros = torch.zeros(x.shape[1], 4, *x.shape[3:], dtype=x.dtype)
        states = [(zeros, 0.0 if self.how == "zero reset" else zeros)] * 2
        for frame in x:
            states[0] = self.step(*states[0], self.conv1(frame))
            states[1] = self.step(*states[1], self.conv2(states[0][1]))
            out = out + states[1][1].mean((2, 3))
        return out


def run(model, x):
    x = x.clone().requires_grad_()
    out = model(x)
    grads = torch.autograd.grad((out * torch.linspace(-1, 1, out.numel(), dtype=x.dtype).view_as(out)).sum(),
                                [x, *model.parameters()])  # fmt: skip
    return out, grads


@pytest.mark.parametrize("how", ["zero reset", "detached", "subtract"])
@pytest.mark.parametrize("timesteps", [2, 5])
def test_written_neurons_fuse(how, timesteps):
    model = Written(how).double()
    x = torch.randn(timesteps, 3, 2, 6, 5, dtype=torch.float64) * 2
    fast = ss.fuse(copy.deepcopy(model), x)
    torch.testing.assert_close(run(fast, x), run(model, x), rtol=1e-9, atol=1e-11)
    told = ss.explain(fast)
    assert set(told.fused) == {"conv1", "inline_neuron_0", "conv2", "inline_neuron_1"}
    assert all(len(stage) == 2 for stage in told.stages)


def test_other_dynamics_stay_as_they_were_written():
    model = Written("two potentials").double()
    x = torch.randn(4, 3, 2, 6, 5, dtype=torch.float64) * 2
    fast = ss.fuse(copy.deepcopy(model), x)
    torch.testing.assert_close(run(fast, x), run(model, x), rtol=1e-9, atol=1e-11)
    assert set(ss.explain(fast).fused) == {"conv1", "conv2"}  # once for all timesteps, without the neurons
