"""snnTorch: explicit membrane potentials, hidden state; both resets. Imports snnTorch."""

import snntorch as snn
import torch
import torch.nn.functional as F
from snntorch import surrogate, utils
from torch import nn

from zoo.network import Network, draw, forget, lively
from zoo.surrogates import FastSigmoid


class Explicit(nn.Module):
    """Linear layers; ``spk, mem = lif(cur, mem)``; records of the last layer."""

    def __init__(self, reset_mechanism):
        super().__init__()
        leaky = {"beta": 0.9, "reset_mechanism": reset_mechanism, "spike_grad": surrogate.fast_sigmoid(slope=5)}
        self.fc1 = nn.Linear(20, 12)
        self.lif1 = snn.Leaky(**leaky)
        self.fc2 = nn.Linear(12, 5)
        self.lif2 = snn.Leaky(**leaky)

    def forward(self, x):
        mem1 = self.lif1.init_leaky()
        mem2 = self.lif2.init_leaky()
        spk2_rec, mem2_rec = [], []
        for step in range(x.size(0)):
            cur1 = self.fc1(x[step])
            spk1, mem1 = self.lif1(cur1, mem1)
            cur2 = self.fc2(spk1)
            spk2, mem2 = self.lif2(cur2, mem2)
            spk2_rec.append(spk2)
            mem2_rec.append(mem2)
        return torch.stack(spk2_rec, dim=0), torch.stack(mem2_rec, dim=0)


class ExplicitConv(nn.Module):
    """Convolutions and pools before the neurons, a static image at each step."""

    def __init__(self, num_steps=4):
        super().__init__()
        self.num_steps = num_steps
        grad = FastSigmoid.apply
        self.conv1 = nn.Conv2d(1, 5, 3, padding=1)
        self.lif1 = snn.Leaky(beta=0.5, spike_grad=grad)
        self.conv2 = nn.Conv2d(5, 7, 3, padding=1)
        self.lif2 = snn.Leaky(beta=0.5, threshold=0.8, spike_grad=grad)
        self.fc1 = nn.Linear(7 * 4, 5)
        self.lif3 = snn.Leaky(beta=0.5, spike_grad=grad)

    def forward(self, x):
        mem1, mem2, mem3 = self.lif1.reset_mem(), self.lif2.reset_mem(), self.lif3.reset_mem()
        spk3_rec, mem3_rec = [], []
        for _step in range(self.num_steps):
            cur1 = F.max_pool2d(self.conv1(x), 2)
            spk1, mem1 = self.lif1(cur1, mem1)
            cur2 = F.max_pool2d(self.conv2(spk1), 2)
            spk2, mem2 = self.lif2(cur2, mem2)
            cur3 = self.fc1(spk2.flatten(1))
            spk3, mem3 = self.lif3(cur3, mem3)
            spk3_rec.append(spk3)
            mem3_rec.append(mem3)
        return torch.stack(spk3_rec), torch.stack(mem3_rec)


class Hidden(nn.Module):
    """An ``nn.Sequential`` whose neurons hide their state; the last one shows it."""

    def __init__(self, reset_mechanism, own_reset):
        super().__init__()
        grad = surrogate.atan() if own_reset else FastSigmoid.apply
        leaky = {"beta": 0.7, "reset_mechanism": reset_mechanism, "spike_grad": grad}
        self.own_reset = own_reset
        self.net = nn.Sequential(
            nn.Conv2d(2, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.MaxPool2d(2),
            snn.Leaky(threshold=2.0, init_hidden=True, **leaky),
            nn.Flatten(),
            nn.Linear(6 * 16, 5),
            snn.Leaky(init_hidden=True, output=True, **leaky),
        )

    def forward(self, data):
        if self.own_reset:
            utils.reset(self.net)
        spk_rec, mem_rec = [], []
        for step in range(data.size(0)):
            spk_out, mem_out = self.net(data[step])
            spk_rec.append(spk_out)
            mem_rec.append(mem_out)
        return torch.stack(spk_rec), torch.stack(mem_rec)


class SynapticNet(nn.Module):
    """Second-order neurons: a synaptic current and a membrane potential."""

    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(20, 12)
        self.lif1 = snn.Synaptic(alpha=0.7, beta=0.8, spike_grad=surrogate.fast_sigmoid(slope=5))
        self.fc2 = nn.Linear(12, 5)

    def forward(self, x):
        syn1, mem1 = self.lif1.init_synaptic()
        out = []
        for step in range(x.size(0)):
            spk1, syn1, mem1 = self.lif1(self.fc1(x[step]), syn1, mem1)
            out.append(self.fc2(spk1))
        return torch.stack(out).sum(0)


def _network(name, style, build, inputs, neurons, fusible=None, **others):
    fusible = neurons if fusible is None else fusible
    return Network(name, f"snnTorch: {style}", lambda: lively(build()), inputs, neurons, fusible, **others)


VECTORS, FRAMES = draw(5, 3, 20), draw(5, 3, 2, 8, 8)
F32 = {"float64": False}
OWN = "explicit state, convolutions, static image, own surrogate"
NETWORKS = (
    _network("snn_explicit", "explicit state, subtraction", lambda: Explicit("subtract"), VECTORS, 2, **F32),
    _network("snn_explicit_zero", "explicit state, reset to zero", lambda: Explicit("zero"), VECTORS, 2, **F32),
    _network("snn_explicit_conv", OWN, ExplicitConv, draw(3, 1, 8, 8), 3),
    _network("snn_hidden", "hidden state", lambda: Hidden("subtract", False), FRAMES, 2, reset=forget),
    _network("snn_hidden_zero", "hidden state, reset in forward", lambda: Hidden("zero", True), FRAMES, 2, **F32),
    _network("snn_synaptic", "second-order neuron, left alone", SynapticNet, VECTORS, 1, 0, **F32),
)
