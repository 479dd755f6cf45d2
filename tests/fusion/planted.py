"""Two small networks to plant errors in, a loop and a merged one, and what is compared of them."""

import torch
from fusion.compiling import assert_same, gradients, outputs
from spikingjelly.activation_based import functional, neuron, surrogate
from torch import nn

VICTIM = 1.7  # tau of the neuron that is misread


def lif(tau):
    return neuron.LIFNode(tau=tau, surrogate_function=surrogate.ATan(), detach_reset=True)


class Loop(nn.Module):
    """Two layers in a loop over the steps of its input [T, N, C, H, W], the second with a residual."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1, self.sn1 = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), lif(2.0)
        self.conv2, self.bn2, self.sn2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), lif(VICTIM)
        self.drop, self.fc = nn.Dropout(0.0), nn.Linear(4 * 25, 5)

    def forward(self, x):
        out = []
        for t in range(len(x)):
            y = self.sn1(self.bn1(self.conv1(x[t])))
            y = self.sn2(self.bn2(self.conv2(y)) + y)
            out.append(self.fc(self.drop(y.flatten(1))))
        return torch.stack(out)


class Merged(Loop):
    """The same with one call of each layer on T * N samples."""

    def __init__(self):
        super().__init__()
        functional.set_step_mode(self, "m")

    def forward(self, x):
        outer = x.shape[:2]
        y = self.sn1(self.bn1(self.conv1(x.flatten(0, 1))).unflatten(0, outer))
        y = self.sn2((self.bn2(self.conv2(y.flatten(0, 1))) + y.flatten(0, 1)).unflatten(0, outer))
        return self.fc(self.drop(y.flatten(2)))


def results(model, x):
    """Outputs, gradients and buffers of one call in training."""
    x = x.clone().requires_grad_()
    found = outputs(model, (x,))
    grads = gradients(model, (x,), found)
    return found, grads, {n: b.double().clone() for n, b in model.named_buffers()}


def differs(a, b):
    try:
        for i, (actual, expected) in enumerate(zip(a, b, strict=True)):
            assert_same(actual, expected, 1e-7, str(i))
    except AssertionError:
        return True
    return False
