"""What `fuse` gives back: a subclass, shared parameters, the same state_dict; what is changed afterwards counts."""

import copy
import sys
from pathlib import Path

import pytest
import torch
from spikingjelly.activation_based import layer, neuron, surrogate
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from network_case import STAGES, Looped, assert_same, images, reset

import snn_sparse as ss


@pytest.fixture
def pair():
    """A network and its fused twin, with parameters of their own."""
    plain = Looped()
    return plain, ss.fuse(copy.deepcopy(plain))


def stages(fast):
    return ss.explain(fast).stages


def test_a_subclass_that_shares_everything():
    plain, x = Looped(), images()
    state = {k: v.clone() for k, v in plain.state_dict().items()}
    fast = ss.fuse(plain, x)
    explanation = ss.explain(fast)
    assert explanation.stages == STAGES
    assert set(explanation.fused) == {name for names in STAGES for name in names}
    assert not explanation.left
    assert isinstance(fast, Looped)
    assert type(plain) is Looped
    for module, theirs in zip(list(fast.modules())[1:], list(plain.modules())[1:], strict=True):
        assert isinstance(module, type(theirs))
    assert list(fast.state_dict()) == list(state)
    assert all(torch.equal(v, state[k]) for k, v in fast.state_dict().items())  # verifying left no trace
    for a, b in ((fast.parameters(), plain.parameters()), (fast.buffers(), plain.buffers())):
        assert all(p is q for p, q in zip(a, b, strict=True))
    back = ss.unfuse(fast)
    assert [type(m) for m in back.modules()] == [type(m) for m in plain.modules()]
    assert back.conv.weight is plain.conv.weight
    reset(back, fast)
    assert_same(back.eval()(x), fast.eval()(x))


def test_wrong_arguments():
    for call, name in ((ss.fuse, "model"), (ss.unfuse, "model"), (ss.explain, "model")):
        with pytest.raises(TypeError, match=f"^{name} must"):
            call("vgg16")
    with pytest.raises(TypeError, match=r"^model must"):
        ss.explain(Looped())
    with pytest.raises(ValueError, match=r"^model has not been called"):
        ss.explain(ss.fuse(Looped()))
    for neurons in ({"lif": ss.NeuronSpec()}, {neuron.LIFNode: "lif"}):
        with pytest.raises(TypeError, match=r"^neurons must"):
            ss.fuse(Looped(), neurons=neurons)


def test_attributes_and_submodules_may_change(pair):
    plain, fast = pair
    x = images()
    for change in (
        lambda m: setattr(m, "timesteps", 4),
        lambda m: m.eval(),
        lambda m: setattr(m, "fc", nn.Linear(6, 4, bias=False)),
        lambda m: setattr(m, "gain", nn.Parameter(torch.full((4,), 3.0))),
        lambda m: m.lif.__dict__.update(v_threshold=0.5),
        lambda m: m.train(),
    ):
        fast(x)
        for model in pair:
            torch.manual_seed(0)
            change(model)
        plain.load_state_dict(fast.state_dict())
        reset(*pair)
        assert_same(fast(x), plain(x))
        assert stages(fast)


def test_parameters_from_elsewhere(pair):
    """``load_state_dict`` and ``functional_call`` count."""
    plain, fast = (m.eval() for m in pair)
    x = images()
    before = fast(x)
    other = Looped().state_dict()
    for model in pair:
        model.load_state_dict(other)
    reset(*pair)
    assert_same(fast(x), plain(x))
    values = {n: 1.5 * p.detach() for n, p in plain.named_parameters()}
    reset(*pair)
    found = torch.func.functional_call(fast, values, (x,))
    assert not torch.equal(found, before)
    reset(plain)
    assert_same(found, torch.func.functional_call(plain, values, (x,)))


def test_hooks(pair):
    _, fast = pair
    x, seen = images(), []
    fast(x)
    handles = [m.register_forward_hook(lambda _m, _x, y, n=n: seen.append((n, y))) for n, m in
               (("network", fast), ("conv2", fast.conv2))]  # fmt: skip
    reset(fast)
    y = fast(x)
    assert seen[-1][0] == "network"
    assert seen[-1][1] is y
    assert {n for n, _ in seen} == {"network", "conv2"}
    assert "hooks" in ss.explain(fast).left["conv2"]
    for handle in handles:
        handle.remove()
    reset(fast)
    del seen[:]
    fast(x)
    assert not seen
    assert stages(fast) == STAGES


def test_what_is_not_known_stays():
    """Neurons without an operator run as they were written, and are named."""
    for odd in (
        neuron.LIFNode(surrogate_function=surrogate.ATan(spiking=False), step_mode="m"),
        neuron.QIFNode(step_mode="m"),
        nn.Softplus(),
    ):
        plain = nn.Sequential(layer.Linear(3, 4, step_mode="m"), odd)
        fast, x = ss.fuse(copy.deepcopy(plain)), torch.randn(2, 3, 3)
        assert_same(fast(x), plain(x))
        assert "1" not in ss.explain(fast).fused
