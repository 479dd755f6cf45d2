"""A fused network under torch's graph tools: torch.compile and torch.export."""

import copy
import sys
from pathlib import Path

import pytest
import torch
from spikingjelly.activation_based import functional

sys.path.insert(0, str(Path(__file__).parents[1]))
from network_case import Looped, gradients, images, masked

import snn_sparse as ss


@pytest.fixture(autouse=True)
def _fresh_dynamo():
    torch.compiler.reset()


def compiled(model):
    return torch.compile(model, fullgraph=True, backend="aot_eager")


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def reset(run, model):
    """A call that forgets first, as training loops do; outside the compiled part."""

    def fresh(*inputs):
        functional.reset_net(model)
        return run(*inputs)

    return fresh


@pytest.mark.parametrize(("style", "known"), [("ours", True), ("loop", False)], ids=["called before", "never called"])
def test_compiles_into_one_graph(style, known):
    fast = ss.fuse(ss.build_model("vgg_small", 4, 2, 2) if style == "ours" else Looped())
    twin, x = copy.deepcopy(fast), images()
    if known:
        copy.deepcopy(fast)(x), fast(x)
        functional.reset_net(fast)
        twin = copy.deepcopy(fast)
    found = gradients(reset(compiled(fast), fast), fast, x)
    assert ss.explain(fast).stages
    assert_same(found, gradients(twin, twin, x))
    assert_same(dict(fast.named_buffers()), dict(twin.named_buffers()))


def test_what_changes_after_compiling_counts():
    """T, mode, shape and submodules: each makes another graph, without an eager call between."""
    plain = Looped()
    fast = ss.fuse(plain)
    run, x = reset(compiled(fast), fast), images()
    run(x)
    plain.load_state_dict({k: v.clone() for k, v in fast.state_dict().items()})
    plain = copy.deepcopy(plain)

    def check(x):
        plain.load_state_dict(fast.state_dict())
        functional.reset_net(plain)
        assert_same(run(x), plain(x))

    plain.timesteps = fast.timesteps = 3
    check(x)
    check(images(4))
    plain.eval(), fast.eval()
    fast.fc = torch.nn.Linear(6, 4, bias=False)
    plain.fc = copy.deepcopy(fast.fc)
    check(x)


def test_masked():
    fast = ss.fuse(Looped())
    run, x = reset(compiled(fast), fast), images()
    dense = {n: v.clone() for n, v in fast.state_dict().items()}
    for _ in range(2):  # a new mask, too
        fast.load_state_dict(dense)  # two masks one after the other leave hardly a weight
        mask = masked(fast)
        functional.reset_net(fast)
        twin = copy.deepcopy(fast)
        found = gradients(run, fast, x)
        assert_same(found, gradients(reset(twin, twin), twin, x))
        for name, keep in mask.items():
            assert not found[1][name][~keep].any()
            assert found[1][name][keep].any()


def test_the_state_of_neurons_goes_on():
    fast = ss.fuse(Looped()).eval()
    twin, run = copy.deepcopy(fast), compiled(fast)
    for _ in range(3):
        x = images()
        assert_same(run(x), twin(x))


def test_inside_another_compiled_function():
    fast, x = ss.fuse(ss.build_model("vgg_small", 4, 2, 2)), images()

    @torch.compile(fullgraph=True, backend="aot_eager")
    def loss_of(x, y):
        return ss.temporal_cross_entropy(fast(x * 0.5), y)

    y = torch.tensor([0, 1, 3])
    twin = copy.deepcopy(fast)
    assert_same(loss_of(x, y), ss.temporal_cross_entropy(twin(x * 0.5), y))


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "masked"])
@pytest.mark.parametrize("trained", [False, True], ids=["fresh", "trained"])
def test_exports(sparse, trained):
    fast, x = ss.fuse(ss.build_model("vgg_small", 4, 2, 2)), images()
    if sparse:
        masked(fast)
    if trained:
        optimizer = torch.optim.SGD(fast.parameters(), 0.1)
        for _ in range(2):
            fast(x).square().sum().backward()
            optimizer.step()
    fast.eval()
    if trained:
        fast(x)
    program = torch.export.export(fast, (x,))
    assert_same(program.module()(x), fast(x))
