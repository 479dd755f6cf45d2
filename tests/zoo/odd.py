"""Networks a compiler should leave alone, wholly or in part: other dynamics, control flow on data, side effects."""

import random

import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn

from zoo.network import Network, draw, lively
from zoo.surrogates import Rectangle


class MixedNodes(nn.Module):
    """A LIF layer, then one of another kind, multi-step."""

    def __init__(self, odd):
        super().__init__()
        self.net = nn.Sequential(
            layer.Conv2d(2, 6, 3, padding=1, bias=False),
            layer.BatchNorm2d(6),
            neuron.LIFNode(tau=2.0, surrogate_function=surrogate.ATan()),
            layer.Conv2d(6, 6, 3, stride=2, padding=1, bias=False),
            layer.BatchNorm2d(6),
            odd,
            layer.Flatten(),
            layer.Linear(6 * 16, 5),
        )
        functional.set_step_mode(self, "m")

    def forward(self, x):
        return self.net(x).mean(0)


class AdaptiveLIF(nn.Module):
    """A home-made neuron whose threshold rises with its own spikes."""

    def __init__(self, rho=0.9, strength=0.8):
        super().__init__()
        self.rho, self.strength = rho, strength

    def forward(self, x):
        mem, trace, spikes = 0.0, torch.zeros_like(x[0]), []
        for t in range(x.shape[0]):
            mem = 0.8 * mem + x[t]
            spike = Rectangle.apply(mem - 1.0 - self.strength * trace)
            trace = self.rho * trace + (1 - self.rho) * spike
            mem = mem * (1 - spike)
            spikes.append(spike)
        return torch.stack(spikes)


class Squaring(neuron.LIFNode):
    """A subclass with dynamics of its own: the input is squared, its sign kept."""

    def single_step_functional_forward(self, inputs, states, **kwargs):
        return super().single_step_functional_forward((inputs[0] * inputs[0].abs(),), states, **kwargs)

    def multi_step_forward(self, x_seq, *args, **kwargs):
        return torch.stack([self.single_step_forward(x) for x in x_seq])


def lif():
    return neuron.LIFNode(tau=4 / 3, surrogate_function=surrogate.ATan(), detach_reset=True)


class Loop(nn.Module):
    """A plain loop network; subclasses do something in it that no graph can hold."""

    def __init__(self, T=4):
        super().__init__()
        self.T = T
        self.conv1, self.bn1, self.sn1 = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), lif()
        self.conv2, self.bn2, self.sn2 = nn.Conv2d(6, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), lif()
        self.fc = nn.Linear(6 * 16, 5)

    def step(self, x):
        x = self.sn1(self.bn1(self.conv1(x)))
        return self.fc(self.sn2(self.bn2(self.conv2(x))).flatten(1))


class DataIf(Loop):
    """Bright batches are centred."""

    def forward(self, x):
        if x.mean() > 0:
            x = x - x.mean()
        return sum(self.step(x) for _ in range(self.T)) / self.T


class RandomDepth(Loop):
    """Python's random numbers choose the number of steps."""

    def forward(self, x):
        steps = self.T if random.random() < 0.5 else self.T - 1
        return sum(self.step(x) for _ in range(steps)) / steps


class SideEffects(Loop):
    """Counts its calls and keeps its last input."""

    def __init__(self):
        super().__init__()
        self.counter, self.last = 0, None

    def forward(self, x):
        self.counter += 1
        self.last = x
        return sum(self.step(x) for _ in range(self.T)) / self.T


class EarlyExit(Loop):
    """Stops once it is confident enough."""

    def forward(self, x):
        total = 0.0
        for t in range(self.T):
            total = total + self.step(x)
            if t and torch.softmax(total / (t + 1), 1).amax(1).min().item() > 0.5:
                break
        return total / (t + 1)


def _mixed(name, style, odd, fusible=1, reset=functional.reset_net):
    build = lambda: lively(MixedNodes(odd()))  # noqa: E731
    return Network(name, style, build, draw(4, 3, 2, 8, 8), 2, fusible, reset=reset)


def _wild(name, style, build):
    inputs, reset = draw(3, 3, 8, 8), functional.reset_net
    return Network(name, style, lambda: lively(build()), inputs, 2, 0, captured=False, reset=reset)


def qif():
    return neuron.QIFNode(surrogate_function=surrogate.ATan())


def eif():
    return neuron.EIFNode(surrogate_function=surrogate.ATan())


def izhikevich():
    return neuron.IzhikevichNode(a=0.1, b=0.2, surrogate_function=surrogate.ATan())


NETWORKS = (
    _mixed("qif", "quadratic integrate-and-fire, left alone", qif),
    _mixed("eif", "exponential integrate-and-fire, left alone", eif),
    _mixed("izhikevich", "Izhikevich neurons, left alone", izhikevich),
    _mixed("adaptive", "home-made neuron with an adaptive threshold, left alone", AdaptiveLIF),
    _mixed("own_dynamics", "subclass of LIFNode that changes its dynamics, left alone", Squaring),
    _wild("data_if", "control flow on data", DataIf),
    _wild("random_steps", "a random number drawn in Python", RandomDepth),
    _wild("side_effects", "side effects on attributes", SideEffects),
    _wild("early_exit", "early exit on confidence", EarlyExit),
)
