"""Profiling leaves a network as it was, refuses what it cannot count, and agrees with NeuroBench."""

import pytest
import snntorch
import torch
from spikingjelly.activation_based import neuron
from torch import nn
from torch.nn.utils import prune

import snn_sparse as ss


class Stateful(nn.Module):
    """Everything that a forward pass may move: neuron states, buffers in place, attributes, random numbers, hooks."""

    def __init__(self, fails=False):
        super().__init__()
        self.fails, self.calls, self.trace = fails, 0, []
        self.fc, self.bn, self.lif = nn.Linear(4, 3), nn.BatchNorm1d(3), neuron.LIFNode(v_threshold=0.1)
        self.leaky = snntorch.Leaky(beta=0.5, threshold=0.1, init_hidden=True)
        self.register_buffer("seen", torch.zeros(3))
        self.potential = torch.zeros(3)

    def forward(self, x):
        self.calls += 1
        self.trace.append(self.calls)
        y = self.lif(self.bn(self.fc(x)) + torch.randn(3))
        self.seen += y.detach().sum(0)
        self.potential.add_(y.detach().mean(0))
        if self.fails:
            raise RuntimeError("the network fails")
        return self.leaky(y)


def everything(model):
    attributes = (model.calls, list(model.trace), [m.training for m in model.modules()])
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    tensors = {**model.state_dict(), "v": model.lif.v, "mem": model.leaky.mem, "potential": model.potential}
    return attributes, hooks, {n: v.clone() for n, v in tensors.items()}


@pytest.mark.parametrize("fails", [False, True])
def test_the_network_is_left_as_it_was(fails):
    model = Stateful()
    model(torch.randn(5, 4)).sum().backward()
    model.fails = fails
    inputs = [torch.randn(2, 4), torch.randn(3, 4)]
    model.bn.eval()
    model.fc.register_forward_hook(lambda *_: None)
    *before, tensors = everything(model)
    mask = {"fc.weight": torch.rand(3, 4) < 0.5}
    potential, numbers = model.lif.v, torch.random.get_rng_state()
    if fails:
        with pytest.raises(RuntimeError, match="the network fails"):
            ss.profile_network(model, inputs, mask)
    else:
        assert ss.profile_network(model, inputs, mask).samples == 5
    assert torch.equal(numbers, torch.random.get_rng_state())
    *after, then = everything(model)
    assert before == after
    assert then.keys() == tensors.keys()
    assert all(torch.equal(v, tensors[n]) for n, v in then.items())
    assert model.lif.v is potential


def test_neurons_start_from_rest():
    model, x = Stateful(), torch.randn(5, 4)
    torch.nn.init.zeros_(model.bn.weight)
    model.forward = lambda x: model.lif(model.bn(model.fc(x)))
    rested = ss.profile_network(model, x)
    model.lif.v = torch.full((7, 3), 50.0)  # of another batch: it would fire, or fail
    assert ss.profile_network(model, x).neurons == rested.neurons


def test_a_backward_pass_to_come_still_runs():
    model, x = Stateful(), torch.randn(5, 4)
    model(x)
    loss = model.lif.v.sum()
    ss.profile_network(model, x)
    loss.backward()
    assert model.fc.weight.grad is not None


def test_weights_under_torchs_own_pruning():
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    prune.random_unstructured(model[0], "weight", 0.5)
    found = ss.profile_network(model, torch.randn(3, 6))
    assert (found.layers[0].weights, found.layers[0].live) == (30, 15)
    assert found.operations.macs <= found.operations.dense - 15


def small():
    return nn.Sequential(nn.Linear(3, 2), nn.ReLU())


X = torch.ones(2, 3)
WRONG = [
    (("net", X), {}, TypeError, "model must be"),
    ((small(), None), {}, TypeError, "x_or_batches must be"),
    ((small(), [X.numpy()]), {}, TypeError, "x_or_batches must hold tensors"),
    ((small(), [()]), {}, TypeError, "x_or_batches must hold tensors"),
    ((small(), []), {}, ValueError, "x_or_batches holds no sample"),
    ((small(), X[:0]), {}, ValueError, "x_or_batches holds no sample"),
    ((small(), X), {"neurons": ["2"]}, ValueError, "neurons names '2'"),
    ((small(), X), {"batch_axis": 2}, ValueError, "batch_axis must be"),
    ((small(), X, {"1.weight": X.bool()}), {}, ValueError, "mask names '1.weight'"),
    ((small(), X, {"0.weight": X}), {}, TypeError, "mask '0.weight' must be a bool"),
    ((small(), X, {"0.weight": X[:1].bool()}), {}, ValueError, r"mask '0.weight' must be \(2, 3\)"),
    ((nn.ReLU(), X), {}, ValueError, "no convolution or linear layer"),
    ((nn.Linear(4, 2), X), {}, RuntimeError, "mat1 and mat2 shapes cannot be multiplied"),
    ((nn.Conv2d(3, 2, 1), X), {}, RuntimeError, "Expected 3D"),
    ((ss.nn.Stage(nn.Conv2d(1, 1, 1)), X), {}, ValueError, "has a Stage"),
]


@pytest.mark.parametrize(("args", "options", "error", "message"), WRONG, ids=[w[3] for w in WRONG])
def test_wrong_arguments(args, options, error, message):
    with pytest.raises(error, match=message):
        ss.profile_network(*args, **options)


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, x):
        return nn.functional.linear(x, self.fc.weight)


def test_layers_that_are_not_called_as_modules_are_told():
    with pytest.raises(ValueError, match="calls no convolution or linear layer as a module"):
        ss.profile_network(Functional(), X)


class Unrolled(nn.Module):
    """snnTorch's way: one timestep a call, spikes and potential out; ``forward`` here takes ``[N, T, F]``."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return torch.stack([self.net(x[:, t])[0] for t in range(x.shape[1])])


class Step(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fire = nn.Conv1d(1, 4, 3), snntorch.Leaky(beta=0.7, threshold=0.3, init_hidden=True)
        self.flat, self.fc = nn.Flatten(), nn.Linear(24, 5)
        self.last = snntorch.Leaky(beta=0.7, threshold=0.3, init_hidden=True, output=True)

    def forward(self, x):
        return self.last(self.fc(self.flat(self.fire(self.conv(x.unsqueeze(1))))))


def neurobench(model, x, kinds):
    """NeuroBench's own answers."""
    nb = pytest.importorskip("neurobench.models")
    from neurobench.metrics import static, workload

    snn = isinstance(model, Step)
    wrapped = nb.SNNTorchModel(model) if snn else nb.TorchModel(model)
    for kind in kinds:
        wrapped.add_activation_module(kind)
    wrapped.register_hooks()
    with torch.no_grad():
        out = wrapped(x)
    operations = workload.SynapticOperations()(wrapped, out, (x, None))
    active = workload.ActivationSparsity()(wrapped, out, (x, None))
    wrapped.cleanup_hooks()
    return operations, active, static.Footprint()(wrapped), static.ConnectionSparsity()(wrapped)


@pytest.mark.parametrize("kind", ["published", "snntorch", "relu"])
def test_neurobench_agrees(kind):
    if kind == "snntorch":
        net, x = Step(), torch.randn(3, 6, 8)
        model = Unrolled(net)
    else:
        model = net = ss.build_model("vgg_small", 3, 1, 3, neuron="relu" if kind == "relu" else "lif")
        x = torch.randn(3, 1, 9, 10)
    ss.magnitude_mask(net, percent=70).apply_(net)
    found = ss.profile_network(model, x)
    operations, active, size, sparsity = neurobench(net.eval(), x, [ss.nn.Neuron])
    names = {"Dense": "dense", "Effective_MACs": "macs", "Effective_ACs": "acs"}
    for theirs, ours in names.items():
        assert float(operations[theirs]) == pytest.approx(getattr(found.operations, ours))
    assert found.activation_sparsity == pytest.approx(100 * active)
    assert found.connection_sparsity == pytest.approx(100 * sparsity, abs=0.01)
    assert found.footprint == pytest.approx(size, abs=4 * 400)  # theirs has the potentials that the run left
    if kind != "snntorch":
        assert found.footprint == size
