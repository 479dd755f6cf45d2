"""Graphs of NIR made by hand: what they compute by NIR's formulas, odd names, and what is refused."""

from itertools import pairwise

import numpy as np
import pytest
import torch

nir = pytest.importorskip("nir")

import snn_sparse as ss  # noqa: E402


def full(shape, **values):
    return {name: np.full(shape, float(value)) for name, value in values.items()}


def lif(shape=3, **values):
    return nir.LIF(**full(shape, **{"tau": 2, "r": 1, "v_leak": 0, "v_threshold": 1, "v_reset": 0, **values}))


def graph_of(*nodes, shape=(3,)):
    output = nir.Output({"output": np.array([1])})
    names = ["input", *(f"node{i}" for i in range(len(nodes))), "output"]
    everything = dict(zip(names, [nir.Input({"input": np.array(shape)}), *nodes, output], strict=True))
    edges = list(pairwise(names))
    return nir.NIRGraph(everything, edges, type_check=False)


def euler(node, x, dt):
    """NIR's formula of a neuron, one explicit Euler step a timestep."""
    v, spikes = np.array(np.broadcast_to(node.v_reset, x.shape[1:])), []
    for x_t in x:
        slope = node.r * x_t if isinstance(node, nir.IF) else ((node.v_leak - v) + node.r * x_t) / node.tau
        v = v + dt * slope
        spikes.append((v > node.v_threshold).astype(float))
        v = np.where(spikes[-1] > 0, node.v_reset, v)
    return np.stack(spikes)


@pytest.mark.parametrize("dt", [1.0, 0.25, 1e-4])
@pytest.mark.parametrize("kind", ["lif", "lif of undivided input", "if"])
def test_a_neuron_is_an_euler_step(kind, dt):
    tau, firing = 1 + 3 * torch.rand(()).item(), {"v_threshold": 0.7, "v_reset": -0.3}
    if kind == "if":
        node = nir.IF(**full(3, r=1 / dt, **firing))
    else:
        node = lif(tau=tau * dt, r=1 if kind == "lif" else tau, v_leak=-0.3, **firing)
    x = 3 * torch.randn(20, 4, 3, dtype=torch.float64)
    found = ss.from_nir(graph_of(node), dt=dt)(x)
    assert 0 < found.mean() < 1
    assert np.array_equal(found.numpy(), euler(node, x.numpy(), dt))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_graph_by_hand(tmp_path, dtype):
    rng = np.random.default_rng(int(torch.randint(2**31, ())))
    conv = rng.normal(size=(4, 2, 3, 3)).astype(dtype), rng.normal(size=4).astype(dtype)
    affine, linear = rng.normal(size=(5, 16)).astype(dtype), rng.normal(size=(3, 5)).astype(dtype)
    bias = rng.normal(size=5).astype(dtype)
    graph = nir.NIRGraph.from_list(
        nir.Input({"input": np.array([2, 6, 6])}),
        nir.Conv2d((6, 6), conv[0], 1, 0, 1, 1, conv[1]),
        lif((4, 4, 4)),
        nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
        nir.Flatten({"input": np.array([4, 2, 2])}, 0, -1),
        nir.Affine(affine, bias),
        nir.IF(**full(5, r=1, v_threshold=2, v_reset=0)),
        nir.Linear(linear),
    )
    nir.write(tmp_path / "hand.nir", graph)
    network = ss.from_nir(tmp_path / "hand.nir", timesteps=6)
    assert {p.dtype for p in network.parameters()} == {torch.from_numpy(affine).dtype}
    x = torch.randn(6, 2, 2, 6, 6, dtype=torch.from_numpy(affine).dtype)
    y = torch.nn.functional.conv2d(x.flatten(0, 1), *map(torch.from_numpy, conv)).unflatten(0, (6, 2))
    s = euler(graph.nodes["lif"], y.numpy(), 1.0).reshape(6, 2, 4, 2, 2, 2, 2).sum((4, 6)).reshape(6, 2, 16)
    s = euler(graph.nodes["if"], s @ affine.T + bias, 1.0)
    torch.testing.assert_close(network(x).detach().double(), torch.from_numpy(s @ linear.T).double(), rtol=0, atol=1e-4)


def test_outputs_of_several_nodes_are_added():
    weights = {name: torch.randn(3, 3).numpy() for name in ("a", "b", "c")}
    nodes = {"in": nir.Input({"input": np.array([3])}), "out": nir.Output({"output": np.array([3])})}
    nodes |= {name: nir.Linear(w) for name, w in weights.items()}
    edges = [("c", "out"), ("b", "out"), ("in", "b"), ("a", "c"), ("b", "c"), ("in", "a"), ("in", "c")]
    x = torch.randn(2, 4, 3)
    a, b = (x @ torch.from_numpy(weights[n]).T for n in "ab")
    wanted = b + (a + b + x) @ torch.from_numpy(weights["c"]).T
    torch.testing.assert_close(ss.from_nir(nir.NIRGraph(nodes, edges))(x), wanted)


ODD = [
    "a",
    "a.b",
    "a.b.c",
    "a_b",
    "forward",
    "class",
    "__class__",
    "timesteps",
    "0",
    "training.x",
    "sources",
    "..",
    "é ü",
]
ODD += ['x"); raise SystemExit("', "weight", "type", "_modules", "a b", "a/b"]


def test_nodes_of_any_name():
    names = ["in", *ODD, "output"]
    weights = [torch.randn(3, 3, dtype=torch.float64).numpy() for _ in ODD]
    nodes = [nir.Input({"input": np.array([3])}), *map(nir.Linear, weights), nir.Output({"output": np.array([3])})]
    graph = nir.NIRGraph(dict(zip(names, nodes, strict=True)), list(pairwise(names)))
    network = ss.from_nir(graph)
    wanted = x = torch.randn(2, 4, 3, dtype=torch.float64)
    for weight in weights:
        wanted = wanted @ torch.from_numpy(weight).T
    torch.testing.assert_close(network(x), wanted)
    assert len(network.state_dict()) == len(ODD)
    torch.testing.assert_close(ss.from_nir(ss.to_nir(network, x))(x), wanted)


def conv(**options):
    given = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, "bias": np.zeros(4), **options}
    return nir.Conv2d((6, 6), given.pop("weight", np.zeros((4, 2, 3, 3))), **given)


def cuba():
    return nir.CubaLIF(**full(3, tau_syn=2, tau_mem=2, r=1, v_leak=0, v_threshold=1, v_reset=0))


REFUSED = {
    "synaptic current": (cuba(), "'node0' is a CubaLIF"),
    "leak without spikes": (nir.LI(**full(3, tau=2, r=1, v_leak=0)), "'node0' is a LI"),
    "threshold": (nir.Threshold(np.ones(3)), "'node0' is a Threshold"),
    "scale": (nir.Scale(np.ones(3)), "'node0' is a Scale"),
    "graph": (graph_of(lif()), "'node0' is a NIRGraph"),
    "another r": (lif(r=3), "r of node 'node0' must be 1 or tau / dt = 2, got 3"),
    "another r of IF": (nir.IF(**full(3, r=2, v_threshold=1, v_reset=0)), "r of node 'node0' must be 1 / dt = 1"),
    "another leak": (lif(v_leak=0.5), "v_leak of node 'node0' must be its v_reset"),
    "short tau": (lif(tau=0.5), "tau of node 'node0' must be at least dt"),
    "nan": (lif(v_threshold=np.nan), "v_threshold of node 'node0' must be one finite number"),
    "thresholds that differ": (
        nir.IF(np.ones(3), np.array([1.0, 2, 3]), np.zeros(3)),
        "v_threshold of node 'node0' must be one finite number",
    ),
    "weight of three axes": (nir.Linear(np.ones((2, 3, 3))), "weight of node 'node0' must have two axes"),
    "bias of another size": (
        nir.Affine(np.ones((2, 3)), np.ones(3)),
        r"bias of node 'node0' must be \(2,\), got \(3,\)",
    ),
    "kernel of three axes": (conv(weight=np.zeros((4, 2, 3))), "weight of node 'node0' must have 4 axes"),
    "groups that do not divide": (conv(groups=3), "node 'node0' is no convolution"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_nodes_that_are_refused(name):
    node, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        ss.from_nir(graph_of(node))


def changed(**changes):
    graph = graph_of(nir.Linear(np.eye(3)), lif())
    for name, value in changes.items():
        setattr(graph, name, value(getattr(graph, name)))
    return graph


STRUCTURES = {
    "cycle": (changed(edges=lambda e: [*e, ("node1", "node0")]), "cycle through 'node[01]'"),
    "no input": (changed(nodes=lambda n: {k: v for k, v in n.items() if k != "input"}), "one Input node, got 0"),
    "two outputs": (
        changed(nodes=lambda n: {**n, "other": nir.Output({"output": np.array([3])})}),
        "one Output node, got 2",
    ),
    "unknown node": (changed(edges=lambda e: [*e, ("node0", "node7")]), "a node 'node7' that the graph does not have"),
    "edge to the input": (changed(edges=lambda e: [*e, ("node0", "input")]), "leads to the input node"),
    "node alone": (changed(nodes=lambda n: {**n, "alone": lif()}), "no edge leads to node 'alone'"),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_structures_that_are_refused(name):
    graph, message = STRUCTURES[name]
    with pytest.raises(ValueError, match=message):
        ss.from_nir(graph)


def test_files_that_are_no_graph(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.nir"):
        ss.from_nir(tmp_path / "none.nir")
    (tmp_path / "text.nir").write_text("no graph")
    with pytest.raises(ValueError, match=r"text\.nir is no file of a NIR graph"):
        ss.from_nir(tmp_path / "text.nir")
    nir.write(tmp_path / "cut.nir", graph_of(lif()))
    (tmp_path / "cut.nir").write_bytes((tmp_path / "cut.nir").read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"cut\.nir is no file of a NIR graph"):
        ss.from_nir(tmp_path / "cut.nir")
    with pytest.raises(TypeError, match="graph must be"):
        ss.from_nir(lif())
