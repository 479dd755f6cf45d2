"""Modules that are no neurons of ours, some of them nearly."""

import random

import numpy as np
import torch
from homemade_case import SoftBeforeDecay
from spike_case import AtLeast
from torch import nn


class Adaptive(nn.Module):
    """The threshold rises with each spike."""

    def forward(self, x):
        v, threshold, spikes = torch.zeros_like(x[0]), torch.ones_like(x[0]), []
        for step in x:
            v = 0.9 * v + step
            spike = AtLeast.apply(v - threshold)
            v, threshold = v * (1 - spike.detach()), threshold + 0.1 * spike.detach()
            spikes.append(spike)
        return torch.stack(spikes)


class RarelyAdaptive(nn.Module):
    """The threshold rises with the third spike in a row only: two steps do not show it."""

    def forward(self, x):
        v, row, spikes = torch.zeros_like(x[0]), torch.zeros_like(x[0]), []
        for step in x:
            v = 0.5 * v + step
            spike = AtLeast.apply(v - 1 - (row >= 2).to(v))
            v, row = v * (1 - spike.detach()), (row + 1) * spike.detach()
            spikes.append(spike)
        return torch.stack(spikes)


class TwoStates(nn.Module):
    """A synapse before the membrane."""

    def forward(self, x):
        v, current, spikes = torch.zeros_like(x[0]), torch.zeros_like(x[0]), []
        for step in x:
            current = 0.5 * current + step
            v = 0.9 * v + current
            spike = AtLeast.apply(v - 1)
            v = v * (1 - spike.detach())
            spikes.append(spike)
        return torch.stack(spikes)


class NotCausal(nn.Module):
    """Looks at the last input first."""

    def forward(self, x):
        return SoftBeforeDecay()(0.5 * x.flip(0) + x)


class Quadratic(nn.Module):
    """QIF."""

    def forward(self, x):
        v, spikes = torch.zeros_like(x[0]), []
        for step in x:
            v = v + 0.5 * (v * (v - 0.8) + step)
            spike = AtLeast.apply(v - 1)
            v = v * (1 - spike.detach())
            spikes.append(spike)
        return torch.stack(spikes)


class NoMemory(nn.Module):
    """A spike, but no neuron."""

    def forward(self, x):
        return AtLeast.apply(x - 1)


class Neighbours(nn.Module):
    """Only the neuron with the largest potential spikes."""

    def forward(self, x):
        spikes = SoftBeforeDecay()(x)
        return spikes * (x == x.amax(-1, keepdim=True))


class OnePlace(nn.Module):
    """Only the first neuron of a row hears."""

    def forward(self, x):
        deaf = torch.ones(x.shape[-1]).to(x)
        deaf[1:] = 0
        return SoftBeforeDecay()(x * deaf)


class Noisy(nn.Module):
    """Draws random numbers, of three libraries."""

    def forward(self, x):
        return SoftBeforeDecay()(x + torch.rand_like(x) + random.random() + np.random.rand())  # noqa: NPY002


class Rectifier(nn.Module):
    def forward(self, x):
        return torch.relu(x)


class Raises(nn.Module):
    def forward(self, x):
        print("to be or not to be")
        raise RuntimeError("not\nto be")


class NoGradient(nn.Module):
    def forward(self, x):
        v, spikes = torch.zeros_like(x[0]), []
        for step in x:
            v = 0.5 * v + step
            spike = (v > 1).to(v)
            v = v * (1 - spike)
            spikes.append(spike)
        return torch.stack(spikes)


class Attention(nn.Module):
    def forward(self, x):
        return torch.softmax(x @ x.transpose(-1, -2), -1) @ x
