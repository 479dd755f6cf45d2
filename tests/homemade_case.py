"""Neurons as people write them themselves."""

import torch
from spike_case import AtLeast, Lens, Logistic, Tent
from torch import nn


class MemUpdate(nn.Module):
    """``[T, N, ...]`` with the T that it was written for."""

    def __init__(self, steps):
        super().__init__()
        self.steps, self.decay = steps, 0.25

    def forward(self, x):
        mem, spike, out = torch.zeros_like(x[0]), torch.zeros_like(x[0]), torch.zeros_like(x)
        for t in range(self.steps):
            mem = mem * self.decay * (1 - spike.detach()) + x[t]
            spike = Lens.apply(mem, 0.5, 0.5)
            out[t] = spike
        return out


class WithActivation(MemUpdate):
    """The same with a smooth activation for another mode, and the spike function as an attribute."""

    def __init__(self, steps):
        super().__init__(steps)
        self.smooth, self.spike = nn.SiLU(), Lens.apply

    def forward(self, x):
        spikes, mem = [], x[0]
        for t in range(self.steps):
            if t:
                mem = mem * self.decay * (1 - spikes[-1].detach()) + x[t]
            spikes.append(self.spike(mem, 0.5, 0.5))
        return torch.stack(spikes)


class Insists(nn.Module):
    """One step a call; a state of one size, float32, from the beginning."""

    def __init__(self, batch, *shape):
        super().__init__()
        self.register_buffer("mem", torch.zeros(batch, *shape))

    def reset(self):
        self.mem = torch.zeros_like(self.mem)

    def forward(self, x):
        assert x.shape == self.mem.shape
        self.mem = self.mem * 0.75 + x
        spike = AtLeast.apply(self.mem - 0.9)
        self.mem = torch.where(spike.detach() > 0, torch.zeros_like(self.mem), self.mem)
        return spike


class Options(nn.Module):
    """``[T, N, ...]`` with all that may differ."""

    def __init__(self, decay, threshold, steepness, reset, detach, strict, average):
        super().__init__()
        self.decay, self.threshold, self.steepness, self.reset = decay, threshold, steepness, reset
        self.detach, self.strict, self.average = detach, strict, average

    def spike(self, u):
        return Logistic.apply(u, self.steepness, self.strict)

    def forward(self, x):
        v, spikes = torch.zeros_like(x[0]), []
        for step in x:
            v = v + (step - v) * (1 - self.decay) if self.average else v * self.decay + step
            spike = self.spike(v - self.threshold)
            s = spike.detach() if self.detach else spike
            v = v * (1 - s) if self.reset == "zero" else v - s * self.threshold
            spikes.append(spike)
        return torch.stack(spikes)


class BatchFirst(nn.Module):
    """``[N, T, ...]``, the reset to zero not detached."""

    def __init__(self, tau=0.5, threshold=1.0, gamma=1.0):
        super().__init__()
        self.tau, self.threshold, self.gamma = tau, threshold, gamma

    def forward(self, x):
        mem, spikes = 0, []
        for t in range(x.shape[1]):
            mem = mem * self.tau + x[:, t]
            spike = Tent.apply(mem - self.threshold, self.gamma)
            mem = (1 - spike) * mem
            spikes.append(spike)
        return torch.stack(spikes, 1)


class SoftAfterDecay(nn.Module):
    """Subtracts after the decay of the next step."""

    def forward(self, x):
        v, spike, spikes = torch.zeros_like(x[0]), torch.zeros_like(x[0]), []
        for step in x:
            v = 0.9 * v + step - spike.detach() * 1.2
            spike = Tent.apply(v - 1.2, 0.5)
            spikes.append(spike)
        return torch.stack(spikes)


class SoftBeforeDecay(nn.Module):
    """Subtracts at once; detached or not."""

    def __init__(self, detach=True):
        super().__init__()
        self.detach = detach

    def forward(self, x):
        v, spikes = torch.zeros_like(x[0]), []
        for step in x:
            v = 0.8 * v + step
            spike = AtLeast.apply(v - 0.7)
            v = v - (spike.detach() if self.detach else spike) * 0.7
            spikes.append(spike)
        return torch.stack(spikes)


class TimeLast(nn.Module):
    """``[N, ..., T]``, the usual LIF of tau 2."""

    def forward(self, x):
        v, spikes = torch.zeros_like(x[..., 0]), []
        for step in x.unbind(-1):
            v = v + (step - v) / 2.0
            spike = AtLeast.apply(v - 1.0)
            v = v * (1 - spike)
            spikes.append(spike)
        return torch.stack(spikes, -1)


class Mixing(nn.Module):
    """The input weighted by what the decay leaves."""

    def forward(self, x):
        v, spikes = torch.zeros_like(x[0]), []
        for step in x:
            v = 0.7 * v + 0.3 * step
            spike = Tent.apply(v - 0.5, 0.5)
            v = v * (1 - spike.detach())
            spikes.append(spike)
        return torch.stack(spikes)


class SelfMem(nn.Module):
    """One step a call; forgets nothing by itself."""

    def __init__(self, gain=1.0):
        super().__init__()
        self.mem, self.gain = None, gain

    def forward(self, x):
        if self.mem is None:
            self.mem = torch.zeros_like(x)
        self.mem = 0.6 * self.mem + self.gain * x
        spike = AtLeast.apply(self.mem - 1.0)
        self.mem = self.mem * (1 - spike.detach())
        return spike


class SelfMemAndSpike(nn.Module):
    """One step a call; keeps the potential before the reset, and the spike."""

    def __init__(self):
        super().__init__()
        self.reset()

    def reset(self):
        self.mem = self.spike = 0.0

    def forward(self, x):
        self.mem = 0.5 * self.mem * (1 - self.spike) + x
        self.spike = Tent.apply(self.mem - 1.0, 1.0)
        return self.spike


class FromBelow(nn.Module):
    """One step a call; rests at, leaks towards and resets to a potential below zero."""

    def __init__(self):
        super().__init__()
        self.v = None

    def forward(self, x):
        if self.v is None:
            self.v = torch.full_like(x, -0.3)
        self.v = self.v + (x - (self.v + 0.3)) / 1.5
        spike = AtLeast.apply(self.v - 1.0)
        self.v = self.v * (1 - spike.detach()) - 0.3 * spike.detach()
        return spike


class Single(nn.Module):
    """Computes in float32, whatever it is given."""

    def forward(self, x):
        x = x.float()
        v, spikes = torch.zeros_like(x[0]), []
        for step in x:
            v = v * 0.9 + step
            spike = Lens.apply(v, 0.6, 0.35)
            v = v * (1 - spike)
            spikes.append(spike)
        return torch.stack(spikes)


class KeepsSequence(nn.Module):
    """``[T, N, ...]``, and the potential between calls."""

    def __init__(self):
        super().__init__()
        self.v = 0.0

    def forward(self, x):
        spikes = []
        for step in x:
            self.v = self.v * 0.9 + step
            spike = AtLeast.apply(self.v - 1.0)
            self.v = self.v - spike.detach()
            spikes.append(spike)
        return torch.stack(spikes)


class Explicit(nn.Module):
    """``(x, v) -> (spikes, v)``."""

    def forward(self, x, v=None):
        v = x if v is None else 0.5 * v + x
        spike = AtLeast.apply(v - 1.0)
        return spike, v * (1 - spike)


class Frozen(nn.Module):
    """A fixed threshold, kept as a parameter."""

    def __init__(self, learnt=False, entries=()):
        super().__init__()
        self.threshold = nn.Parameter(torch.ones(entries), requires_grad=learnt)

    def forward(self, x):
        v, spikes = torch.zeros_like(x[0]), []
        for step in x:
            v = 0.5 * v + step
            spike = AtLeast.apply(v - self.threshold)
            v = v * (1 - spike)
            spikes.append(spike)
        return torch.stack(spikes)
