"""Ways of writing a network that public repositories have: captured, fused, and the same results."""

import copy

import pytest
import torch
import torch.nn.functional as F
from fusion.wild import Spike
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn

import snn_sparse as ss
from snn_sparse.fusion.repeatable import Repeatable, in_double

T = 3


class Steep(Spike):
    """Inherits what it computes, and learns otherwise."""

    @staticmethod
    def backward(ctx, gradient):
        (u,) = ctx.saved_tensors
        return gradient * 2 * (u.abs() < 0.25).float()


spike, steep = Spike.apply, Steep.apply  # bound long before anybody looks


class Sequence(nn.Module):
    """Leaky neurons over all timesteps; ``axis`` is that of time."""

    def __init__(self, axis=0):
        super().__init__()
        self.axis = axis

    def forward(self, x):
        v, fired = 0.0, torch.zeros(())
        out = torch.zeros_like(x)
        place = (slice(None),) * (self.axis % x.dim())
        for t in range(x.shape[self.axis]):
            v = v * 0.5 * (1 - fired) + x[(*place, t)]
            fired = spike(v - 1.0)
            out[(*place, t)] = fired
        return out


class StaticInput(nn.Module):
    """Writes into its input, which becomes a sequence."""

    def __init__(self):
        super().__init__()
        self.conv, self.neuron = nn.Conv2d(3, 4, 3, padding=1), Sequence(1)
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        x.unsqueeze_(1)
        x = x.repeat(1, T, 1, 1, 1)
        y = self.conv(x.flatten(0, 1)).unflatten(0, (-1, T))
        return self.head(self.neuron(y).mean((3, 4)))


class TimeLast(nn.Module):
    """Time is the last axis; each layer is called once more, for its shape; one neuron stands behind all."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc, self.neuron = nn.Conv2d(3, 4, 3), nn.Linear(4 * 36, 5), Sequence(-1)

    def steps(self, run, x):
        out = torch.zeros((*run(x[..., 0]).shape, T))
        for t in range(T):
            out[..., t] = run(x[..., t])
        return out

    def forward(self, x):
        x = self.neuron(4 * self.steps(self.conv, x))
        x = 4 * self.steps(self.fc, x.flatten(1, 3))
        return self.neuron(x).sum(-1) / T


class OwnConvolution(nn.Conv2d):
    """A convolution of the author's own, with standardized weights, that loops over time."""

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return torch.stack([F.conv2d(x[t], weight, self.bias, self.stride, self.padding) for t in range(len(x))])


class OwnLayers(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.neuron, self.second = OwnConvolution(3, 4, 3, padding=1), Sequence(), OwnConvolution(4, 5, 8)

    def forward(self, x):
        return self.second(self.neuron(self.conv(x))).flatten(2)


class Loop(nn.Module):
    """SpikingJelly's single-step neurons in a loop."""

    def __init__(self):
        super().__init__()
        self.conv, self.lif = nn.Conv2d(3, 4, 3, padding=1), node()
        self.fc, self.out = nn.Linear(4 * 64, 5), node()

    def step(self, x):
        return self.out(self.fc(self.lif(self.conv(x)).flatten(1)))

    def forward(self, x):
        return torch.stack([self.step(x[t]) for t in range(len(x))])


class Feedback(Loop):
    """Keeps what it computed at the last step, from zero on."""

    def forward(self, x):
        self.last, outputs = 0.0, []
        for t in range(len(x)):
            outputs.append(self.step(x[t]) + 0.5 * self.last)
            self.last = outputs[-1]
            self.trace = [self.last, {"mean": self.last.mean()}]
        return torch.stack(outputs)


class WithoutGradient(Loop):
    """Part of it is computed under ``no_grad``."""

    def forward(self, x):
        with torch.no_grad():
            scale = 1 + self.fc.weight.abs().mean() * x.mean()
            fixed = self.conv(x[0]).mean()
        return super().forward(x) * scale + fixed


class Copied(Loop):
    """Copies values into a tensor of its own, and drops paths at random."""

    def forward(self, x):
        y = super().forward(x)
        total = torch.zeros_like(y)
        total.copy_(y * 2)
        keep = torch.zeros(1, x.shape[1], 1).bernoulli_(0.5)
        keep.div_(0.5)
        return total * keep


class PaddedNorm(Loop):
    """Pads with what a batch norm makes of zeros, by running statistics that it has just updated."""

    def __init__(self):
        super().__init__()
        self.bn, self.second = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3)

    def forward(self, x):
        y = self.bn(self.conv(x.flatten(0, 1)))
        edge = self.bn.bias.detach() - self.bn.running_mean / (self.bn.running_var + self.bn.eps).sqrt()
        y = F.pad(y, [1] * 4) + F.pad(torch.zeros_like(y), [1] * 4, value=1.0) * edge.view(1, -1, 1, 1)
        y = self.second(y).unflatten(0, x.shape[:2])
        return torch.stack([self.out(self.fc(self.lif(y[t]).flatten(1))) for t in range(len(x))])


class Surrogates(nn.Module):
    """Neurons written out in the loop, with autograd functions that inherit."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * 64, 5)

    def forward(self, x):
        v = w = 0.0
        for t in range(len(x)):
            v = 0.5 * v + self.conv(x[t])
            s = spike(v - 1.0)
            v = v - s
            w = 0.5 * w + self.fc(s.flatten(1))
            w = w - steep(w - 0.5)
        return w


class MultiStep(nn.Module):
    """SpikingJelly's layers on sequences, those that mean something else among them."""

    def __init__(self):
        super().__init__()
        self.conv, self.lif = layer.WSConv2d(3, 4, 3, padding=1), node()
        self.bn = layer.ThresholdDependentBatchNorm2d(1.0, 1.0, 4)
        self.fc, self.norm, self.out = layer.Linear(4 * 64, 5), layer.BatchNorm1d(5), node()
        functional.set_step_mode(self, "m")

    def forward(self, x):
        x = self.lif(self.bn(self.conv(x)))
        return self.out(self.norm(self.fc(x.flatten(2))))


def node():
    return neuron.LIFNode(tau=2.0, v_threshold=0.3, surrogate_function=surrogate.ATan(), detach_reset=True)


IMAGES, FRAMES = (2, 3, 8, 8), (T, 2, 3, 8, 8)
STYLES = {  # network, shape of its input, neurons fused
    "static_input": (StaticInput, IMAGES, 1),
    "time_last": (TimeLast, (*IMAGES, T), 1),
    "own_convolution": (OwnLayers, FRAMES, 1),
    "feedback": (Feedback, FRAMES, 2),
    "without_gradient": (WithoutGradient, FRAMES, 2),
    "padded_norm": (PaddedNorm, FRAMES, 2),
    "copied": (Copied, FRAMES, 2),
    "surrogates": (Surrogates, FRAMES, 0),
    "multi_step": (MultiStep, FRAMES, 2),
}


def gradients(model, x, weight):
    functional.reset_net(model)
    leaf = x.clone().requires_grad_()
    with in_double(True), Repeatable():
        y = model(leaf.clone())
        wanted = dict(model.named_parameters()) | {"x": leaf}
        found = torch.autograd.grad((y * weight.expand_as(y)).sum(), list(wanted.values()), allow_unused=True)
    return y, dict(zip(wanted, found, strict=True))


@pytest.mark.parametrize("name", STYLES)
def test_same_results(name):
    make, shape, neurons = STYLES[name]
    torch.manual_seed(7)
    model = make().double()
    x, weight = torch.rand(shape, dtype=torch.float64) * 2, torch.randn(5, dtype=torch.float64)
    fused = ss.fuse(copy.deepcopy(model))
    for _ in range(2):
        expected, wanted = gradients(model, x, weight)
        actual, found = gradients(fused, x, weight)
        assert bool(expected.any())
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)
        for key, gradient in wanted.items():
            if gradient is None:
                assert found[key] is None or not found[key].any(), key
            else:
                torch.testing.assert_close(found[key], gradient, rtol=1e-7, atol=1e-9, msg=key)
    explanation = ss.explain(fused)
    assert explanation.stages, str(explanation)
    kinds = {n: m for n, m in model.named_modules() if isinstance(m, (Sequence, neuron.LIFNode))}
    assert len(kinds.keys() & set(explanation.fused)) == neurons


def test_tensors_left_in_attributes():
    torch.manual_seed(3)
    model = Feedback()
    fused, x = ss.fuse(copy.deepcopy(model)), torch.rand(FRAMES) * 2
    for scale in (1.0, 0.5):
        functional.reset_net(model), functional.reset_net(fused)
        model(x * scale), fused(x * scale)
        torch.testing.assert_close(fused.last, model.last, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(fused.trace[1]["mean"], model.trace[1]["mean"], rtol=1e-5, atol=1e-6)
        assert fused.last.requires_grad


class Counting(Loop):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


class Remembering(Loop):
    def forward(self, x):
        y = super().forward(x)
        y = y + self.before if hasattr(self, "before") else y
        self.before = y
        return y


@pytest.mark.parametrize(("make", "attribute"), [(Counting, "calls"), (Remembering, "before")])
def test_what_an_earlier_call_left_is_not_captured(make, attribute):
    torch.manual_seed(3)
    model = make()
    fused, x = ss.fuse(copy.deepcopy(model)), torch.rand(FRAMES) * 2
    for _ in range(3):
        functional.reset_net(model), functional.reset_net(fused)
        torch.testing.assert_close(fused(x), model(x))
    assert f"an earlier call left in the attribute {attribute}" in ss.explain(fused).left[""]
    torch.testing.assert_close(torch.as_tensor(getattr(fused, attribute)), torch.as_tensor(getattr(model, attribute)))


def test_input_stays_as_it_was():
    fused, x = ss.fuse(StaticInput()), torch.rand(IMAGES)
    before = x.clone()
    assert torch.equal(fused(x), fused(x))
    assert torch.equal(x, before)
