"""Networks to NIR and back: the same outputs, through a file too; what NIR cannot express is refused by name."""

import copy
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

nir = pytest.importorskip("nir")
sys.path.insert(0, str(Path(__file__).parent))
from nir_case import NETWORKS, SIZE_MISTAKEN, N, T, made, through_file  # noqa: E402

import snn_sparse as ss  # noqa: E402


@pytest.mark.parametrize("name", NETWORKS)
def test_there_and_back(tmp_path, name):
    model, x = made(name)
    wanted = model(x)
    before = copy.deepcopy(model.state_dict())
    graph = ss.to_nir(model.train(), x)
    assert model.training
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    path = through_file(graph, tmp_path)
    for source in (graph, path, str(path)):
        network = ss.from_nir(source, timesteps=T)
        assert wanted.std() > 0
        torch.testing.assert_close(network(x), wanted, rtol=0, atol=1e-10)
    if name != "written in place":  # it calls a layer twice
        assert network.state_dict().keys() <= before.keys() | {n.replace("weight", "bias") for n in before}
    constant = x[:1].expand(T, *x.shape[1:])
    torch.testing.assert_close(network(x[0]), network(constant), rtol=0, atol=1e-10)
    read = nir.read(path, type_check=name not in SIZE_MISTAKEN)
    assert sorted(read.nodes) == sorted(graph.nodes)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_from_nir_is_described_the_same_again(name):
    model, x = made(name)
    graph = ss.to_nir(model, x)
    again = ss.to_nir(ss.from_nir(graph), x)
    assert sorted(again.edges) == sorted(graph.edges)
    for node, other in ((graph.nodes[n], again.nodes[n]) for n in graph.nodes):
        assert type(node) is type(other)
        for key, value in node.to_dict().items():
            assert (
                key in ("type", "metadata")
                or (value == other.to_dict()[key]) is True
                or ((value == other.to_dict()[key]).all())
            ), key


def test_weights_keep_their_zeros_and_names():
    model = nn.Sequential(ss.nn.Conv2d(2, 4, 3), ss.nn.BatchNorm2d(4), ss.nn.LIF(), nn.Flatten(2), nn.Linear(64, 3))
    mask = ss.Mask({n: torch.rand(p.shape) < 0.3 for n, p in ss.tickets.prunable(model).items()})
    mask.apply_(model)
    network = ss.from_nir(ss.to_nir(model, torch.randn(2, 2, 2, 6, 6)))
    assert network.get_parameter("0.weight").dtype == torch.float32
    assert ss.Mask.from_zeros(network).equal(mask)


def test_what_comes_from_nir_trains_and_fuses():
    model, x = made("small")
    network = ss.from_nir(ss.to_nir(model, x), surrogate="sigmoid")
    assert network.get_submodule("2").spec.surrogate == "sigmoid"
    network(x).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in network.parameters())
    torch.testing.assert_close(ss.fuse(network)(x), network(x), rtol=0, atol=1e-10)
    torch.testing.assert_close(copy.deepcopy(network)(x), network(x), rtol=0, atol=1e-10)


class Function(nn.Module):
    def __init__(self, function, layer=None):
        super().__init__()
        self.function, self.layer = function, layer or nn.Linear(4, 4)

    def forward(self, x):
        return self.function(self.layer, x)


REFUSED = {
    "max-pool": (lambda: nn.Sequential(ss.nn.MaxPool2d(2)), r"layer '0' \(MaxPool2d\)"),
    "published": (lambda: ss.build_model("vgg_small", 4, 2, 2), r"layer 'features\.3' \(MaxPool2d\)"),
    "soft reset": (lambda: nn.Sequential(ss.nn.LIF(v_reset=None)), r"layer '0': it has no soft reset"),
    "activation": (lambda: nn.Sequential(nn.Sequential(nn.ReLU())), r"layer '0\.0' \(ReLU\)"),
    "norm first": (lambda: nn.Sequential(ss.nn.BatchNorm2d(2), ss.nn.Conv2d(2, 2, 1)), "layer '0': a batch norm goes"),
    "norm after neuron": (lambda: nn.Sequential(ss.nn.LIF(), ss.nn.BatchNorm2d(2)), "layer '1': a batch norm goes"),
    "norm without statistics": (
        lambda: nn.Sequential(ss.nn.Conv2d(2, 2, 1), ss.nn.BatchNorm2d(2, track_running_stats=False)),
        "layer '1': a batch norm without running statistics",
    ),
    "padding mode": (lambda: nn.Sequential(ss.nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular")), "'circular'"),
    "ceil mode": (lambda: nn.Sequential(ss.nn.AvgPool2d(4, ceil_mode=True)), "layer '0': ceil_mode"),
    "padding left out": (lambda: nn.Sequential(ss.nn.AvgPool2d(2, padding=1, count_include_pad=False)), "layer '0'"),
    "divisor": (lambda: nn.Sequential(ss.nn.AvgPool2d(2, divisor_override=3)), "layer '0': .* divisor_override"),
    "linear over channels": (
        lambda: nn.Sequential(nn.Linear(6, 2)),
        r"layer '0': its input has shape \(3, 2, 2, 6, 6\)",
    ),
    "T and N flattened away": (lambda: nn.Sequential(nn.Flatten(1)), "'0': T and N"),
    "neuron over merged T and N": (lambda: nn.Sequential(nn.Flatten(0, 1), ss.nn.LIF()), "layer '1'"),
    "function": (lambda: Function(lambda f, x: x.relu()), r"NIR cannot express 'relu'"),
    "product": (lambda: Function(lambda f, x: x * x), r"'mul': it takes 2 tensors"),
    "constant added": (lambda: Function(lambda f, x: x + 1), "'add'.*only two outputs"),
    "parameter added": (lambda: Function(lambda f, x: x + f.weight[:, :1], nn.Linear(6, 6)), "does not come from"),
    "added twice": (lambda: Function(lambda f, x: x + x), "twice the output of 'input'"),
    "scaled addition": (lambda: Function(lambda f, x: torch.add(x, f(x), alpha=2), nn.Identity()), "only two outputs"),
    "steps": (
        lambda: Function(lambda f, x: torch.stack([f(y) for y in x], 0), ss.nn.IF()),
        r"'unbind'|'__getitem__'|T and N",
    ),
    "mean over channels": (lambda: Function(lambda f, x: x.mean(2)), "only whole maps"),
    "mean over time": (lambda: Function(lambda f, x: x.mean(0)), "'mean': T and N"),
    "axes swapped": (lambda: Function(lambda f, x: x.transpose(3, 4)), "'transpose'"),
    "reshaped otherwise": (lambda: Function(lambda f, x: x.reshape(3, 2, 3, 24)), r"'reshape'.* no flattening"),
    "norm of a shared output": (
        lambda: Function(
            lambda f, x: f[1](y := f[0](x)) + y, nn.ModuleList([ss.nn.Conv2d(2, 2, 1), ss.nn.BatchNorm2d(2)])
        ),
        r"layer 'layer\.1': a batch norm goes",
    ),
    "initial potential": (lambda: Function(lambda f, x: f(x, x[0]), ss.nn.LIF()), "'__getitem__': T and N"),
    "two outputs": (lambda: Function(lambda f, x: (x, x)), "model must return one tensor"),
    "constant output": (lambda: Function(lambda f, x: torch.ones(3)), "model must return one tensor"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_nir_cannot_express_is_named(name):
    make, message = REFUSED[name]
    size = 8 if name == "published" else 6
    with pytest.raises(ValueError, match=message):
        ss.to_nir(make(), torch.randn(3, 2, 2, size, size))


def test_wrong_arguments():
    model, x = made("small")
    with pytest.raises(TypeError, match="model must be"):
        ss.to_nir("model", x)
    for example in (None, x[0, 0, 0], x[:, :1], x[:0]):
        with pytest.raises(ValueError, match="example must be a sequence"):
            ss.to_nir(model, example)
    for dt in (0, -1.0, float("inf"), "1"):
        with pytest.raises(ValueError, match="dt must be"):
            ss.to_nir(model, x, dt=dt)
        with pytest.raises(ValueError, match="dt must be"):
            ss.from_nir(ss.to_nir(model, x), dt=dt)
    for timesteps in (0, True, 2.0):
        with pytest.raises(ValueError, match="timesteps must be"):
            ss.from_nir(ss.to_nir(model, x), timesteps)
    network = ss.from_nir(ss.to_nir(model, x))
    for wrong in (x[0], x[..., :5], x[0, 0]):
        with pytest.raises(ValueError, match="x must be"):
            network(wrong)


def test_without_the_package(monkeypatch):
    model, x = made("small")
    graph = ss.to_nir(model, x)
    monkeypatch.setitem(sys.modules, "nir", None)
    for call in (lambda: ss.to_nir(model, x), lambda: ss.from_nir(graph)):
        with pytest.raises(ImportError, match=r"pip install 'snn_sparse\[nir\]'"):
            call()


@pytest.mark.parametrize("dt", [1.0, 1e-4])
@pytest.mark.parametrize(
    "name", ["small", "T and N merged", "1d", "lif", "lif of undivided input", "parametric lif", "if"]
)
def test_spikingjelly_reads_the_same_network(name, dt, tmp_path):
    pytest.importorskip("nirtorch")
    from spikingjelly.activation_based.nir_exchange.from_nir import import_from_nir

    model, x = made(name)
    graph = nir.read(through_file(ss.to_nir(model, x, dt=dt), tmp_path))
    theirs = import_from_nir(graph, dt=dt, dtype=torch.float64, step_mode="m")
    torch.testing.assert_close(theirs(x)[0], model(x), rtol=0, atol=1e-9)


@pytest.mark.parametrize("decay_input", [True, False])
def test_a_network_of_spikingjelly_is_read(decay_input):
    pytest.importorskip("nirtorch")
    from spikingjelly.activation_based import layer, neuron
    from spikingjelly.activation_based.nir_exchange.to_nir import export_to_nir

    theirs = nn.Sequential(
        layer.Conv2d(2, 4, 3, step_mode="m"),
        neuron.LIFNode(1.7, decay_input, v_threshold=0.5, v_reset=-0.1, step_mode="m"),
        layer.AvgPool2d(2, step_mode="m"),
        layer.Flatten(step_mode="m"),
        layer.Linear(16, 40, step_mode="m"),
        neuron.IFNode(0.3, step_mode="m"),
    ).double()
    x = 2 * torch.randn(T, N, 2, 6, 6, dtype=torch.float64)
    graph = export_to_nir(theirs, x, dt=1e-4)
    wanted = theirs(x)
    assert 0 < wanted.mean() < 1
    torch.testing.assert_close(ss.from_nir(graph, dt=1e-4)(x), wanted, rtol=0, atol=1e-9)


def test_a_fused_network_is_described_as_what_it_was():
    model = nn.Sequential(ss.nn.Conv2d(2, 3, 3), ss.nn.LIF(), nn.Flatten(2), nn.Linear(48, 4)).double()
    x = torch.randn(3, 2, 2, 6, 6, dtype=torch.float64) * 3
    again = ss.from_nir(ss.to_nir(ss.fuse(model, x), x)).double()
    torch.testing.assert_close(again(x), model(x), rtol=1e-6, atol=1e-6)
