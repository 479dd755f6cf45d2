"""The plain definition against SpikingJelly's modules, finite differences of the smooth path, and by property."""

import itertools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from snn_sparse import ops
from snn_sparse.nn import IF, LIF, Leaky, ParametricLIF
from snn_sparse.ops.neuron import reference
from snn_sparse.ops.neuron.surrogate import surrogate_of
from snn_sparse.specs import BatchNormSpec, NeuronSpec

SURROGATES = [ops.ATan(2.0), ops.Sigmoid(4.0), ops.PiecewiseQuadratic(1.3), ops.Rectangle(1.1), ops.Erf(1.4)]
SURROGATES += [ops.FastSigmoid(3.0, 1.5), ops.Triangle(0.7), ops.ATan(3.0, 0.8)]


def spikingjelly_surrogate(s):
    from spikingjelly.activation_based import surrogate

    kinds = {"atan": "ATan", "sigmoid": "Sigmoid", "piecewise_quadratic": "PiecewiseQuadratic"}
    kinds |= {"rectangle": "Rect", "erf": "Erf", "fast_sigmoid": "SoftSign"}  # the last one is half alpha high
    return getattr(surrogate, kinds[s.kind])(alpha=s.alpha)


CASES = [
    case
    for case in itertools.product(
        ["lif", "if", "plif"], [0.0, None, -0.2], [True, False], [True, False], SURROGATES[:6]
    )
    if case[0] != "if" or case[3]  # IF has no decay
]


@pytest.mark.parametrize(("kind", "v_reset", "detach", "decay", "surrogate"), CASES)
def test_agrees_with_spikingjelly(kind, v_reset, detach, decay, surrogate):
    from spikingjelly.activation_based import neuron

    common = {"v_threshold": 0.9, "v_reset": v_reset, "detach_reset": detach}
    theirs_common = {**common, "surrogate_function": spikingjelly_surrogate(surrogate), "step_mode": "m"}
    if kind == "lif":
        ours = LIF(tau=1.7, decay_input=decay, surrogate=surrogate, **common)
        theirs = neuron.LIFNode(tau=1.7, decay_input=decay, **theirs_common)
    elif kind == "if":
        ours = IF(surrogate=surrogate, **common)
        theirs = neuron.IFNode(**theirs_common)
    else:
        ours = ParametricLIF(init_tau=1.7, decay_input=decay, surrogate=surrogate, **common).double()
        theirs = neuron.ParametricLIFNode(init_tau=1.7, decay_input=decay, **theirs_common).double()
        theirs.load_state_dict(ours.state_dict(), strict=True)
    x = (torch.randn(6, 3, 5, dtype=torch.float64) * 1.5 + 0.4).requires_grad_()
    weight = torch.randn(6, 3, 5, dtype=torch.float64)
    results = []
    for module in (ours, theirs):
        x.grad = None
        spikes = module(x)
        (spikes * weight).sum().backward()
        results.append((spikes.detach(), x.grad, [p.grad for p in module.parameters()]))
    torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-11)
    assert 0 < results[0][0].mean() < 1


class Smooth:
    """Stands in for a surrogate: its spike is the primitive, so that the path is smooth."""

    def __init__(self, surrogate):
        self.surrogate = surrogate

    def spike(self, u, strict):
        return self.surrogate.primitive(u)


@pytest.mark.parametrize("surrogate", SURROGATES, ids=lambda s: s.kind)
def test_surrogate_is_the_derivative_of_its_primitive(surrogate):
    u = torch.randn(200, dtype=torch.float64) * 2
    eps = 1e-6
    numeric = (surrogate.primitive(u + eps) - surrogate.primitive(u - eps)) / (2 * eps)
    torch.testing.assert_close(surrogate.gradient(u), numeric, rtol=1e-5, atol=1e-6)
    assert surrogate.gradient(torch.zeros(())) == pytest.approx(surrogate.peak)
    u[:20] = 0
    assert torch.equal(surrogate.spike(u, strict=True), (u > 0).double())
    spikes = surrogate.spike(u.requires_grad_())
    assert torch.equal(spikes, (u >= 0).double())
    spikes.sum().backward()
    torch.testing.assert_close(u.grad, surrogate.gradient(u.detach()))


@pytest.mark.parametrize("surrogate", SURROGATES, ids=lambda s: s.kind)
@pytest.mark.parametrize("v_reset", [0.0, None, 0.3])
@pytest.mark.parametrize("kind", ["lif", "lif undecayed", "if", "plif", "plif undecayed", "leaky", "leaky learnt"])
def test_backward_is_the_gradient_of_the_smooth_path(monkeypatch, kind, v_reset, surrogate):
    """Finite differences of the whole recurrence, the reset included, with the step replaced by its primitive."""
    name, _, how = kind.partition(" ")
    shape = surrogate.kind, surrogate.alpha, surrogate.height
    spec = NeuronSpec(name, 1.6, how != "undecayed", 0.8, v_reset, False, *shape, decay=0.7)
    assert surrogate_of(spec) == surrogate
    check_smooth_path(monkeypatch, spec, name == "plif" or how == "learnt")


@pytest.mark.parametrize("surrogate", SURROGATES, ids=lambda s: s.kind)
@pytest.mark.parametrize("learnt", [False, True])
def test_backward_of_a_late_reset(monkeypatch, learnt, surrogate):
    """The subtraction is a constant, wherever no potential is on the threshold."""
    shape = {"surrogate": surrogate.kind, "alpha": surrogate.alpha, "height": surrogate.height}
    spec = NeuronSpec("leaky", v_threshold=0.8, v_reset=None, decay=0.7, late_reset=True, **shape)
    check_smooth_path(monkeypatch, spec, learnt)


def check_smooth_path(monkeypatch, spec, learnt):
    monkeypatch.setattr(reference, "surrogate_of", lambda spec: Smooth(surrogate_of(spec)))
    x, v = (torch.randn(*s, 2, 3, dtype=torch.float64, requires_grad=True) for s in ((4,), ()))
    rate = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)

    def run(x, v, rate=None):
        return ops.plain_neuron(x, spec, rate=rate, v=v)

    assert torch.autograd.gradcheck(run, (x, v, rate) if learnt else (x, v), eps=1e-6, atol=1e-5, rtol=1e-4)


def lif_by_hand(x, grad_spikes, tau, v_threshold, v_reset, surrogate):
    """Back-propagation through time, derived by hand for the detached hard reset, in numpy-like loops."""
    timesteps = len(x)
    v, h, s = torch.full_like(x[0], v_reset), [], []
    for t in range(timesteps):
        h.append(v + (x[t] - (v - v_reset)) / tau)
        s.append((h[t] >= v_threshold).to(x.dtype))
        v = torch.where(s[t] > 0, torch.full_like(v, v_reset), h[t])
    grad_x, grad_v = torch.zeros_like(x), torch.zeros_like(x[0])
    for t in reversed(range(timesteps)):
        grad_h = grad_spikes[t] * surrogate.gradient(h[t] - v_threshold) + grad_v * (1 - s[t])
        grad_x[t] = grad_h / tau
        grad_v = grad_h * (1 - 1 / tau)
    return torch.stack(s), grad_x


@settings(max_examples=40, deadline=None)
@given(
    timesteps=st.integers(1, 9),
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    tau=st.floats(1.0, 8.0),
    v_reset=st.sampled_from([0.0, -0.5, 0.25]),
    surrogate=st.sampled_from(SURROGATES),
    seed=st.integers(0, 2**31),
)
def test_detached_lif_against_a_derivation_by_hand(timesteps, shape, tau, v_reset, surrogate, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(timesteps, *shape, generator=generator, dtype=torch.float64) * 2
    grad = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    spikes, expected = lif_by_hand(x, grad, tau, 1.0, v_reset, surrogate)
    x = x.transpose(-1, 0).contiguous().transpose(-1, 0).requires_grad_()  # non-contiguous
    shape = {"surrogate": surrogate.kind, "alpha": surrogate.alpha, "height": surrogate.height}
    spec = NeuronSpec(tau=tau, v_reset=v_reset, **shape)
    actual, _ = ops.plain_neuron(x, spec)
    assert torch.equal(actual, spikes)
    actual.backward(grad)
    torch.testing.assert_close(x.grad, expected, rtol=1e-9, atol=1e-12)


def test_a_sequence_may_be_cut_in_two():
    x = torch.randn(7, 4, 3)
    spec = NeuronSpec(v_reset=-0.1)
    whole, end = ops.plain_neuron(x, spec)
    first, v = ops.plain_neuron(x[:3], spec)
    second, v = ops.plain_neuron(x[3:], spec, v=v)
    assert torch.equal(torch.cat([first, second]), whole)
    assert torch.equal(v, end)


def test_constant_input_at_the_threshold_spikes():
    """tau = 1 forgets everything: the neuron spikes exactly where the input reaches the threshold."""
    x = torch.tensor([0.5, 1.0, 1.5]).expand(3, 3)
    assert torch.equal(LIF(tau=1.0)(x), (x >= 1).float())
    assert torch.equal(LIF(tau=1.0, strict=True)(x), (x > 1).float())


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: LIF(tau=0.5), "tau"),
        (lambda: LIF(tau=float("nan")), "tau"),
        (lambda: ParametricLIF(init_tau=1.0), "init_tau"),
        (lambda: LIF(v_threshold=float("inf")), "v_threshold"),
        (lambda: IF(v_reset=float("nan")), "v_reset"),
        (lambda: IF(surrogate="heaviside"), "surrogate"),
        (lambda: ops.ATan(0.0), "alpha"),
        (lambda: ops.Erf(1.0, -0.5), "height"),
        (lambda: Leaky(1.1), "beta"),
        (lambda: Leaky(None), "beta"),
        (lambda: Leaky(late_reset=True, v_reset=0.0), "late_reset"),
        (lambda: LIF()(torch.zeros(0, 2)), "x must"),
        (lambda: LIF()(torch.zeros(3)), "x must"),
        (lambda: LIF()(torch.zeros(3, 2), torch.zeros(3)), "v must"),
        (lambda: ops.plain_neuron(torch.zeros(3, 2), NeuronSpec("plif"), rate=torch.zeros(2)), "rate must"),
        (lambda: ops.plain_neuron(torch.zeros(3, 2), NeuronSpec("plif")), "rate must"),
        (lambda: ops.plain_neuron(torch.zeros(3, 2), NeuronSpec(), rate=torch.zeros(1)), "rate must"),
        (lambda: ops.plain_neuron(torch.zeros(3, 2), NeuronSpec("leaky"), rate=torch.zeros(2)), "rate must"),
    ],
)
def test_wrong_arguments(make, named):
    with pytest.raises(ValueError, match=named):
        make()


def test_wrong_types():
    with pytest.raises(TypeError, match="x must"):
        LIF()(torch.zeros(3, 2, dtype=torch.int32))
    with pytest.raises(TypeError, match="surrogate"):
        LIF(surrogate=3)
    with pytest.raises(TypeError, match="x must"):
        ops.plain_neuron([1.0], NeuronSpec())


def test_surrogates_by_name_and_record():
    for kind, surrogate in ops.SURROGATES.items():
        made = ops.as_surrogate(kind)
        assert made == surrogate()
        for other in (surrogate(made.alpha + 0.5), surrogate(made.alpha, 0.3)):
            assert ops.as_surrogate(ops.surrogate_config(other)) == other == ops.as_surrogate(other)
        assert surrogate_of(NeuronSpec(surrogate=kind, alpha=0.7)) == surrogate(0.7)
    with pytest.raises(ValueError, match=r"'step'.*atan"):
        ops.as_surrogate({"kind": "step"})
    with pytest.raises(TypeError, match="surrogate must be a name"):
        ops.as_surrogate({})


@pytest.mark.parametrize("make", [LIF, IF, ParametricLIF, Leaky])
def test_a_layer_is_its_specification(make):
    layer = make(v_threshold=0.8, v_reset=None, surrogate=ops.Triangle(0.7), detach_reset=False, strict=True)
    assert layer.spec.strict
    x, v = torch.randn(5, 2, 3), torch.randn(2, 3)
    spikes, end = ops.plain_neuron(x, layer.spec, rate=layer.rate(), v=v)
    assert (layer.spec.surrogate, layer.spec.alpha, layer.spec.v_rest) == ("triangle", 0.7, 0.0)
    assert torch.equal(layer(x, v), spikes)
    assert torch.equal(layer.sequence(x, v)[1], end)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_dtype_stays(dtype):
    spikes, v = ops.plain_neuron(torch.randn(3, 2, dtype=dtype), NeuronSpec())
    assert (spikes.dtype, v.dtype) == (dtype, dtype)


def test_a_stage_is_norm_residual_neuron_and_pool():
    """Put together by hand, for a constant input and a residual that is normalised too."""
    spec, t = NeuronSpec(), 3
    y, residual = torch.randn(1, 4, 2, 5, 6), torch.randn(t, 4, 2, 5, 6)
    norm, norm_residual = (
        ops.Norm(BatchNormSpec(s), torch.rand(2), torch.rand(2), factors=(0.0,) * n)
        for s, n in (("per_step", 1), ("pooled", 1))
    )
    eps = norm.spec.eps
    x = F.batch_norm(y[0], None, None, norm.weight, norm.bias, True, 0.0, eps).expand(t, 4, 2, 5, 6)
    other = F.batch_norm(residual.flatten(0, 1), None, None, norm_residual.weight, norm_residual.bias, True, 0.0, eps)
    spikes, v = ops.plain_neuron(x + other.view(residual.shape), spec)
    found = ops.plain_stage(y, spec, t, norm, residual, norm_residual, pool=True)
    assert torch.equal(found[0], F.max_pool2d(spikes.flatten(0, 1), 2).view(t, 4, 2, 2, 3))
    assert torch.equal(found[1], v)
    shifted = replace(norm, shift=torch.ones(2), running_mean=torch.zeros(2), running_var=torch.ones(2), factors=(1.0,))
    assert torch.allclose(shifted.plain(y), norm.plain(y), atol=1e-5)
    torch.testing.assert_close(shifted.running_mean, y.mean((0, 1, 3, 4)) + 1)
