"""Neurons that people write themselves: cells with a state to pass, modules that remember, lines in the loop."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from zoo.network import Network, draw, forget, lively, nothing
from zoo.surrogates import FastSigmoid, Rectangle, Triangle


class LIFBoxParameters(NamedTuple):
    tau_mem_inv: float = 400.0
    v_leak: float = 0.0
    v_th: float = 0.5
    v_reset: float = 0.0
    alpha: float = 5.0


class LIFBoxState(NamedTuple):
    v: torch.Tensor


class LIFBoxCell(nn.Module):
    """As in norse: Euler steps of dt seconds, the state goes in and comes out."""

    def __init__(self, p=None, dt=0.001):
        super().__init__()
        self.p, self.dt = p or LIFBoxParameters(), dt

    def forward(self, x, state=None):
        p = self.p
        if state is None:
            state = LIFBoxState(v=torch.full_like(x, p.v_leak))
        v = state.v + self.dt * p.tau_mem_inv * ((p.v_leak - state.v) + x)
        z = FastSigmoid.apply(v - p.v_th, p.alpha)
        v = (1 - z) * v + z * p.v_reset
        return z, LIFBoxState(v=v)


class LICell(nn.Module):
    """A leaky integrator that never fires, as a readout."""

    def __init__(self, tau_mem_inv=200.0, dt=0.001):
        super().__init__()
        self.rate = tau_mem_inv * dt

    def forward(self, x, v=None):
        v = torch.zeros_like(x) if v is None else v
        v = v + self.rate * (x - v)
        return v, v


class SequentialState(nn.Sequential):
    """Passes each stateful cell its own state."""

    def forward(self, x, state=None):
        state = [None] * len(self) if state is None else list(state)
        for i, module in enumerate(self):
            if isinstance(module, (LIFBoxCell, LICell)):
                x, state[i] = module(x, state[i])
            else:
                x = module(x)
        return x, state


class NorseLike(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = SequentialState(
            nn.Conv2d(2, 6, 3), LIFBoxCell(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(6 * 9, 8), LIFBoxCell(),
            nn.Linear(8, 5, bias=False), LICell(),
        )  # fmt: skip

    def forward(self, x):
        state = None
        voltages = []
        for ts in range(x.shape[0]):
            out, state = self.model(x[ts], state)
            voltages.append(out)
        y, _ = torch.max(torch.stack(voltages), 0)
        return F.log_softmax(y, dim=1)


class LIF(nn.Module):
    """One step a call; the membrane potential is an attribute until ``reset_mem``."""

    def __init__(self, beta=0.8, threshold=1.0):
        super().__init__()
        self.beta, self.threshold = beta, threshold
        self.mem = None

    def reset_mem(self):
        self.mem = None

    def forward(self, x):
        if self.mem is None:
            self.mem = torch.zeros_like(x)
        self.mem = self.beta * self.mem + x
        spk = Rectangle.apply(self.mem - self.threshold)
        self.mem = self.mem - self.threshold * spk.detach()
        return spk


class RememberingNet(nn.Module):
    """Resets its own neurons at the start of each forward."""

    def __init__(self, timesteps=4):
        super().__init__()
        self.timesteps = timesteps
        self.block1 = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), LIF())
        self.block2 = nn.Sequential(nn.Conv2d(6, 8, 3, stride=2), nn.BatchNorm2d(8), LIF(0.5))
        self.fc = nn.Linear(8 * 9, 5)

    def forward(self, x):
        for m in self.modules():
            if isinstance(m, LIF):
                m.reset_mem()
        out = 0.0
        for _ in range(self.timesteps):
            out = out + self.fc(self.block2(self.block1(x)).flatten(1))
        return out


class InlineNet(nn.Module):
    """No module of neurons at all: their lines stand in the loop."""

    def __init__(self, T=4):
        super().__init__()
        self.T = T
        self.conv1, self.bn1 = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.fc = nn.Linear(8 * 16, 5)

    def forward(self, x):
        mem1 = mem2 = 0.0
        out = []
        for t in range(self.T):
            mem1 = mem1 * 0.5 + self.bn1(self.conv1(x[t]))
            s1 = Triangle.apply(mem1 - 1.0, 1.0)
            mem1 = mem1 - s1
            mem2 = mem2 * 0.5 + self.conv2(s1)
            s2 = Triangle.apply(mem2 - 1.0, 1.0)
            mem2 = mem2 - s2
            out.append(self.fc(s2.flatten(1)))
        return torch.stack(out)


class HelperNet(nn.Module):
    """A function ``mem_update(layer, x, mem, spike)`` does layer and neuron (STBP)."""

    def __init__(self, T=4):
        super().__init__()
        self.T = T
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.fc1, self.fc2 = nn.Linear(6 * 4, 10), nn.Linear(10, 5)

    @staticmethod
    def mem_update(layer, x, mem, spike, act):
        mem = mem * 0.2 * (1.0 - spike) + layer(x)
        return mem, act(mem)

    def forward(self, x):
        n = x.size(0)
        c1_mem = c1_spike = x.new_zeros(n, 6, 8, 8)
        c2_mem = c2_spike = x.new_zeros(n, 6, 4, 4)
        h1_mem = h1_spike = h1_sum = x.new_zeros(n, 10)
        for _step in range(self.T):
            c1_mem, c1_spike = self.mem_update(self.conv1, x, c1_mem, c1_spike, lambda v: Rectangle.apply(v - 0.5))
            pooled = F.avg_pool2d(c1_spike, 2)
            c2_mem, c2_spike = self.mem_update(self.conv2, pooled, c2_mem, c2_spike, lambda v: Rectangle.apply(v - 0.5))
            flat = F.avg_pool2d(c2_spike, 2).view(n, -1)
            h1_mem, h1_spike = self.mem_update(self.fc1, flat, h1_mem, h1_spike, lambda v: Rectangle.apply(v - 0.5))
            h1_sum = h1_sum + h1_spike
        return self.fc2(h1_sum / self.T)


class Recurrent(nn.Module):
    """Spikes of the step before come back through a convolution."""

    def __init__(self):
        super().__init__()
        self.stem, self.lif_in = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6)), LIF()
        self.ff, self.feedback, self.lif_rec = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1), LIF()
        self.conv, self.lif_out = nn.Conv2d(6, 4, 3, stride=2), LIF()
        self.fc = nn.Linear(4 * 9, 5)

    def forward(self, x):
        s = torch.zeros(x.shape[1], 6, 8, 8, dtype=x.dtype, device=x.device)
        y = 0
        for frame in x:
            s = self.lif_rec(self.ff(self.lif_in(self.stem(frame))) + self.feedback(s))
            y = y + self.fc(self.lif_out(self.conv(s)).flatten(1))
        return y / len(x)


def _network(name, style, build, inputs, neurons, fusible=None, reset=nothing):
    fusible = neurons if fusible is None else fusible
    return Network(name, style, lambda: lively(build()), inputs, neurons, fusible, reset=reset)


FED_BACK = "spikes of the step before fed back through a convolution"

NETWORKS = (
    _network("norse_like", "norse: cells with explicit state, leaky readout", NorseLike, draw(5, 3, 2, 8, 8), 2),
    _network("self_mem", "home-made cell with self.mem, reset inside forward", RememberingNet, draw(3, 3, 8, 8), 2),
    _network("inline", "the neuron's lines in the loop, torch.autograd.Function", InlineNet, draw(4, 3, 2, 8, 8), 2),
    _network("inline_helper", "STBP: mem_update(layer, x, mem, spike), sums of spikes", HelperNet, draw(3, 1, 8, 8), 3),
    _network("recurrent", FED_BACK, Recurrent, draw(4, 3, 2, 8, 8), 3, 2, reset=forget),
)
