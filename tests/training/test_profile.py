"""Profiles of whole networks: what they say, that they leave the network alone, and NeuroBench's own numbers."""

import json

import pytest
import snntorch
import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import nn

import snn_sparse as ss
from snn_sparse.training.profile_rows import PROFILE_HEADER, energy_text, profile_notes, profile_section, quantity


@pytest.fixture
def model():
    """A network that fires, 80 % of its weights pruned."""
    model = ss.build_model("vgg_small", 4, 2, 3, neuron_options={"v_threshold": 0.05})
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
    ss.prune_magnitude(model, ss.Mask.dense(model), 80, scope="local").apply_(model)
    return model


def outputs_of(model, kinds, run):
    """Outputs of modules of some kinds in one forward pass, by name."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, kinds):
            keep = lambda _m, _a, out, name=name: found.setdefault(name, []).append(out)  # noqa: E731
            module.register_forward_hook(keep)
    with torch.no_grad():
        run()
    for module in model.modules():
        module._forward_hooks.clear()
    return {name: torch.cat([v.reshape(-1) for v in values]) for name, values in found.items()}


def test_figures_of_a_published_network(model):
    x = torch.randn(5, 2, 9, 8)
    found = ss.profile_network(model, x)
    fired = outputs_of(model, ss.nn.Neuron, lambda: model.eval()(x))
    assert [n.name for n in found.neurons] == list(fired)
    for n in found.neurons:
        assert n.firing_rate == pytest.approx(100 * float(fired[n.name].mean()))
        assert n.outputs * 5 == fired[n.name].numel()
    every = torch.cat(list(fired.values()))
    assert 0 < every.mean() < 1
    assert found.activation_sparsity == pytest.approx(100 * float((every == 0).double().mean()))
    weights = [m.weight for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    zeros, size = sum(int((w == 0).sum()) for w in weights), sum(w.numel() for w in weights)
    assert found.connection_sparsity == pytest.approx(100 * zeros / size)
    assert (found.samples, found.timesteps) == (5, 3)
    assert [la.name for la in found.layers] == ["features.0", "features.4", "features.8", "classifier"]
    assert [la.neuron for la in found.layers] == ["features.2", "features.6", "features.10", None]
    assert [la.constant for la in found.layers] == [True, False, False, False]
    macs = [la.operations.macs for la in found.layers]
    assert macs[0] > 0 == sum(macs[1:])
    assert found.energy == pytest.approx(4.6 * found.operations.macs + 0.9 * found.operations.acs)


def test_a_constant_image_at_every_step_is_a_sequence_of_it(model):
    x = torch.randn(4, 2, 8, 8)
    once, every = ss.profile_network(model, x), ss.profile_network(model, x.expand(3, *x.shape))
    assert vars(every.operations) == pytest.approx(vars(once.every_step))
    assert every.operations == every.every_step
    assert (every.samples, every.timesteps) == (4, 3)
    assert not any(la.constant for la in every.layers)
    assert every.operations.macs == pytest.approx(3 * once.operations.macs)
    assert every.operations.acs == pytest.approx(once.operations.acs)


def test_one_timestep(model):
    model.timesteps = 1
    found = ss.profile_network(model, torch.randn(2, 2, 8, 8))
    assert found.timesteps == 1
    assert found.operations == found.every_step


def test_bytes(model):
    found = ss.profile_network(model, torch.randn(1, 2, 8, 8))
    tensors = [*model.parameters(), *model.buffers()]
    weights = [p for n, p in model.named_parameters() if "weight" in n and p.dim() > 1]
    live = sum(int((w != 0).sum()) for w in weights)
    assert found.footprint == sum(t.numel() * t.element_size() for t in tensors)
    dense, bits = sum(4 * w.numel() for w in weights), sum((w.numel() + 7) // 8 for w in weights)
    assert found.ticket_footprint == found.footprint - dense + 4 * live + bits


def test_a_mask_counts_as_if_it_were_applied(model):
    ss.Mask.remove_(model)
    nn.init.normal_(model.classifier.weight)
    before = {n: v.clone() for n, v in model.state_dict().items()}
    mask, x = ss.prune_magnitude(model, ss.Mask.dense(model), 60, scope="local"), torch.randn(3, 2, 8, 8)
    found = ss.profile_network(model, x, mask)
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())
    assert found.operations.acs < ss.profile_network(model, x).operations.acs
    mask.apply_(model)
    assert found == ss.profile_network(model, x)
    assert found.connection_sparsity == pytest.approx(mask.sparsity)


def test_fused_is_profiled_as_it_was_written(model):
    x = torch.randn(3, 2, 8, 8)
    fast = ss.fuse(model)
    fast.train()
    plain = ss.profile_network(model, x)
    assert ss.profile_network(fast, x) == plain
    assert all(m.training for m in fast.modules())


def test_batches_are_averaged(model):
    x, labels = torch.randn(7, 2, 8, 8), torch.zeros(7)
    whole = ss.profile_network(model, x)
    parts = ss.profile_network(model, zip(x.split(3), labels.split(3), strict=True))
    assert (parts.samples, parts.timesteps) == (7, 3)
    assert vars(parts.every_step) == pytest.approx(vars(whole.every_step))
    assert [n.firing_rate for n in parts.neurons] == pytest.approx([n.firing_rate for n in whole.neurons])
    for one, other in zip(whole.layers, parts.layers, strict=True):
        assert vars(one.operations) == pytest.approx(vars(other.operations))


class Loop(nn.Module):
    """A time loop over neurons that keep their state; the convolution runs once."""

    def __init__(self, kind):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.first, self.second = (self.make(kind), self.make(kind))
        self.pool, self.drop, self.fc = nn.MaxPool2d(2), nn.Dropout(0.5), nn.Linear(16, 3)

    def make(self, kind):
        if kind == "spikingjelly":
            return neuron.LIFNode(v_threshold=0.1)
        return snntorch.Leaky(beta=0.5, threshold=0.1, init_hidden=True)

    def forward(self, x):
        current, out = self.bn(self.conv(x)), 0
        for _ in range(4):
            out = out + self.second(self.fc(self.drop(self.pool(self.first(current)).flatten(1))))
        return out


@pytest.mark.parametrize("kind", ["spikingjelly", "snntorch"])
def test_networks_of_others(kind):
    model, x = Loop(kind), torch.randn(6, 1, 4, 4)
    found = ss.profile_network(model, x)
    assert (found.samples, found.timesteps) == (6, 4)
    assert [n.name for n in found.neurons] == ["first", "second"]
    conv, fc = found.layers
    assert (conv.constant, fc.constant) == (True, False)
    assert (conv.neuron, fc.neuron) == ("first", "second")
    assert fc.operations.dense == 4 * fc.weights
    assert found.every_step.macs == 4 * found.operations.macs > 0 < found.operations.acs


def test_sequences_of_spikingjelly():
    body = nn.Sequential(layer.Conv2d(2, 4, 3), neuron.LIFNode(v_threshold=0.1), layer.Conv2d(4, 4, 2))
    functional.set_step_mode(body, "m")
    found = ss.profile_network(body, torch.randn(5, 3, 2, 6, 6))
    assert (found.samples, found.timesteps) == (3, 5)
    assert found.layers[0].operations.dense == 5 * 4 * 4 * found.layers[0].weights
    assert found.operations == found.every_step


class Homemade(nn.Module):
    def forward(self, x):
        return (x > 0.1).float(), x


class Bipolar(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.fire, self.out, self.never = nn.Linear(5, 4), Homemade(), nn.Linear(4, 2), nn.Linear(2, 2)

    def forward(self, x):
        return self.out(self.fire(self.fc(x))[0])


def test_neurons_that_are_named():
    model, x = Bipolar(), torch.randn(8, 5)
    found = ss.profile_network(model, x, neurons=["fire"])
    assert [(n.name, n.outputs) for n in found.neurons] == [("fire", 4)]
    assert found.activation_sparsity == pytest.approx(100 - found.neurons[0].firing_rate)
    assert found.layers[-1].name == "never"
    assert vars(found.layers[-1].operations) == dict.fromkeys(vars(found.operations), 0)
    unnamed = ss.profile_network(model, x)
    assert (unnamed.activation_sparsity, unnamed.neurons) == (None, ())
    assert unnamed.operations == found.operations
    assert profile_section(unnamed.as_dict())[0][2] == "-"
    assert ss.profile_network(model, x.expand(3, 8, 5), neurons=["fire"], batch_axis=1).samples == 8


class HomemadeLoop(nn.Module):
    """Sequences ``[T, N, F]`` step by step through neurons that nobody knows."""

    def __init__(self):
        super().__init__()
        self.fc, self.fire, self.out = nn.Linear(5, 4), Homemade(), nn.Linear(4, 2)

    def forward(self, x):
        return self.out(sum(self.fire(self.fc(step))[0] for step in x))


@pytest.mark.parametrize("neurons", [[], ["fire"]])
def test_samples_of_a_loop_over_unknown_neurons(neurons):
    found = ss.profile_network(HomemadeLoop(), torch.randn(6, 3, 5), neurons=neurons)
    assert (found.samples, found.timesteps) == (3, 6)
    assert found.layers[0].operations.dense == 6 * 20
    assert found.every_step == found.operations
    assert not any(la.constant for la in found.layers)


def test_tables(model):
    found = ss.profile_network(model, torch.randn(2, 2, 8, 8)).as_dict()
    assert json.loads(json.dumps(found)) == found
    rows = profile_section(found)
    assert {len(row) for row in rows} == {len(PROFILE_HEADER)}
    assert [row[0] for row in rows] == ["features.0", "features.4", "features.8", "classifier", "network"]
    assert rows[-1][1] == f"{100 - found['connection_sparsity']:.2f} %"
    assert rows[-1][5] == energy_text(found["energy_pj"])
    assert "features.0 runs once" in profile_notes(found)[-1]
    assert len(profile_notes({**found, "layers": []})) == len(profile_notes(found)) - 1


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (7.25, "7.25"), (999.4, "999"), (999.6, "1 k"), (1234, "1.23 k"), (5e6, "5 M"), (2e15, "2000 T")],
)
def test_quantities(value, text):
    assert quantity(value) == text
    assert energy_text(1500) == "1.5 nJ"
