"""Small networks, written as people write them, for tests of fused networks."""

import torch
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn

import snn_sparse as ss

# the modules of each stage of Looped
STAGES = (("conv", "bn", "lif"), ("conv2", "bn2", "lif2"), ("fc",))


class Looped(nn.Module):
    """A loop over time around single-step layers of SpikingJelly; a parameter and a buffer of its own."""

    def __init__(self, timesteps=2):
        super().__init__()
        self.timesteps = timesteps
        self.conv, self.bn = layer.Conv2d(2, 6, 3, padding=1), layer.BatchNorm2d(6)
        self.lif = neuron.LIFNode(surrogate_function=surrogate.ATan(), detach_reset=True)
        self.conv2, self.bn2 = layer.Conv2d(6, 6, 3, padding=1, bias=False), layer.BatchNorm2d(6)
        self.lif2 = neuron.IFNode(v_threshold=0.6, surrogate_function=surrogate.Sigmoid(2.0))
        self.fc = nn.Linear(6, 4)
        self.gain = nn.Parameter(torch.ones(4))
        self.register_buffer("shift", torch.zeros(4))

    def forward(self, x):
        out = 0
        for _ in range(self.timesteps):
            spikes = self.lif2(self.bn2(self.conv2(self.lif(self.bn(self.conv(x))))))
            out = out + self.fc(spikes.mean((2, 3))) * self.gain + self.shift
        return out / self.timesteps


def masked(model, density=0.3):
    """A random mask, applied."""
    mask = ss.Mask({n: torch.rand(p.shape) < density for n, p in ss.tickets.prunable(model).items()})
    mask.apply_(model)
    return mask


def images(*lead, dtype=torch.float32, generator=None):
    generator = None if generator is None else torch.Generator().manual_seed(generator)
    return 2 * torch.randn(*(lead or (3,)), 2, 8, 9, dtype=dtype, generator=generator)


def gradients(run, model, *inputs):
    """Output and gradients."""
    model.zero_grad()
    out = run(*inputs)
    (out.float() * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum().backward()
    return out.detach(), {n: p.grad.clone() for n, p in model.named_parameters()}


def assert_same(found, expected):
    """Equal within the rounding of float32."""
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def reset(*models):
    """Put all neurons to rest, as SpikingJelly does."""
    for model in models:
        functional.reset_net(model)
