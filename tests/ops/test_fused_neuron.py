"""The fused CPU neuron against its definition in plain PyTorch."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snn_sparse import ops
from snn_sparse.ops.fused_neuron import Branch, NeuronSpec, Norm, fused_neuron
from snn_sparse.ops.layout import Layout
from snn_sparse.ops.library import cpu_library

if not cpu_library():
    pytest.skip("the C++ operators are not built", allow_module_level=True)

sys.path.insert(0, str(Path(__file__).parent))
from fused_cases import Case, assert_near, check, make_inputs, run_fused, run_reference, runnable, statistics

EXAMPLES = int(os.environ.get("EXAMPLES", 120))
NEURONS = [
    NeuronSpec(kind, decay_input=decay, firing=ops.Firing(1.0, v_reset, detach))
    for kind in ("lif", "plif", "if")
    for v_reset in (0.0, -0.3, None)
    for decay in ((True, False) if kind != "if" else (True,))
    for detach in (True, False)
]
SURROGATES = [ops.ATan(2.0), ops.Sigmoid(4.0), ops.PiecewiseQuadratic(1.0), ops.PiecewiseQuadratic(0.7), ops.Triangle()]
LAYOUTS = [Layout("nchw"), Layout("nhwc"), Layout("lanes"), Layout("lanes", 3, 1)]


@pytest.fixture(autouse=True)
def _fill_uninitialised_memory():
    """torch.empty then holds NaN: whatever an operator forgets to write shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("neuron", NEURONS, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_every_neuron(neuron, layout):
    case = Case((4, 5, 3, 4, 4), neuron=neuron, layouts=(layout,) * 4, v_init=True, grad_v_final=True)
    check(replace(case, residual="plain"))


@pytest.mark.parametrize("surrogate", SURROGATES, ids=str)
def test_every_surrogate(surrogate):
    check(Case((3, 9, 2, 5, 5), neuron=NeuronSpec(firing=ops.Firing(detach_reset=False, surrogate=surrogate))))


@pytest.mark.parametrize("norm", [None, "per_step", "pooled"])
@pytest.mark.parametrize("residual", [None, "plain", "per_step", "pooled"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("static", [True, False])
def test_every_norm(norm, residual, training, static):
    case = Case((4, 3, 3, 3, 5), norm=norm, residual=residual, training=training, static=static)
    check(case)
    check(replace(case, affine=False, layouts=(Layout("lanes", 2),) * 4))


@pytest.mark.parametrize("inside", LAYOUTS, ids=str)
@pytest.mark.parametrize("outside", LAYOUTS, ids=str)
@pytest.mark.parametrize(
    "shape", [(2, 3, 18, 2, 2), (3, 10, 17, 1, 1), (2, 2, 3, 7, 8), (2, 9, 2, 6, 16), (2, 1, 2, 40, 24)], ids=str
)
@pytest.mark.parametrize("pool", [False, True])
def test_every_conversion(inside, outside, shape, pool):
    layouts = (inside, outside, outside, inside)
    check(Case(shape, pool=pool and shape[3] > 1, layouts=layouts, residual="per_step", v_init=True))


layouts = st.one_of(
    st.just(Layout("nchw")),
    st.just(Layout("nhwc")),
    st.builds(Layout, st.just("lanes"), st.integers(1, 8), st.integers(0, 2)),
)
neurons = st.builds(
    lambda neuron, surrogate, tau, threshold: replace(
        neuron, tau=tau, firing=replace(neuron.firing, surrogate=surrogate, v_threshold=threshold)
    ),
    st.sampled_from(NEURONS),
    st.sampled_from(SURROGATES),
    st.sampled_from([4 / 3, 2.0, 3.7]),
    st.sampled_from([1.0, 0.4]),
)
cases = st.builds(
    Case,
    shape=st.tuples(st.integers(1, 8), st.integers(1, 17), st.integers(1, 19), st.integers(1, 9), st.integers(1, 9)),
    static=st.booleans(),
    norm=st.sampled_from([None, "per_step", "pooled"]),
    training=st.booleans(),
    affine=st.booleans(),
    tracked=st.booleans(),
    residual=st.sampled_from([None, "plain", "per_step", "pooled"]),
    neuron=neurons,
    v_init=st.booleans(),
    grad_v_final=st.booleans(),
    pool=st.booleans(),
    layouts=st.tuples(layouts, layouts, layouts, layouts),
    seed=st.integers(0, 2**20),
)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=cases)
def test_random_cases(case):
    check(runnable(case))


@settings(max_examples=EXAMPLES // 2, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=cases)
def test_float32_within_rounding(case):
    """Spikes of neurons whose potential never comes within rounding of the threshold are equal; so are statistics."""
    case = runnable(replace(case, dtype=torch.float32))
    exact, actual = run_reference(replace(case, dtype=torch.float64)), run_fused(case)
    nudged = [
        run_reference(replace(case, dtype=torch.float64, neuron=_nudge(case.neuron, d)))["spikes"]
        for d in (-1e-4, 1e-4)
    ]
    clear = (nudged[0] == nudged[1]).all(0).expand_as(exact["spikes"])
    assert torch.equal(actual["spikes"].double()[clear], exact["spikes"][clear])
    for name in statistics(make_inputs(case)):
        assert_near(actual[name].double(), exact[name], 1e-5, name)


def _nudge(neuron, by):
    return replace(neuron, firing=replace(neuron.firing, v_threshold=neuron.firing.v_threshold + by))


def test_statistics_survive_a_large_mean():
    y = torch.randn(2, 8, 3, 6, 6) + 1e4
    norm = Norm(None, None, torch.zeros(3), torch.ones(3), (1.0, 1.0), True)
    fused_neuron(Branch(y, norm=norm), (2, 8, 3, 6, 6), NeuronSpec())
    exact = y[1].double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(norm.running_mean.double(), exact.mean(1), rtol=1e-7, atol=0)
    torch.testing.assert_close(norm.running_var.double(), exact.var(1), rtol=1e-6, atol=0)


def test_a_tie_sends_the_gradient_to_the_first_maximum():
    y = torch.full((1, 1, 1, 2, 2), 5.0, dtype=torch.float64, requires_grad=True)
    spikes, _ = fused_neuron(Branch(y), (1, 1, 1, 2, 2), NeuronSpec(), pool=True)
    spikes.sum().backward()
    assert (y.grad != 0).flatten().tolist() == [True, False, False, False]
    zeros = torch.full((1, 1, 1, 2, 2), -5.0, dtype=torch.float64, requires_grad=True)
    F.max_pool2d(ops.lif(zeros)[0].flatten(0, 1), 2).sum().backward()
    expected = zeros.grad.clone()
    zeros.grad = None
    fused_neuron(Branch(zeros), (1, 1, 1, 2, 2), NeuronSpec(), pool=True)[0].sum().backward()
    assert torch.equal(zeros.grad != 0, expected != 0)


def test_same_result_with_any_number_of_threads():
    case = Case(
        (4, 9, 37, 6, 8), layouts=(Layout("nhwc"), Layout("lanes", 2, 1), Layout(), Layout()), residual="pooled"
    )
    threads, found = torch.get_num_threads(), []
    try:
        for n in (1, 2, 5):
            torch.set_num_threads(n)
            found.append(run_fused(case))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert torch.equal(found[0]["spikes"], other["spikes"])
        assert all(torch.equal(found[0]["grads"][k], other["grads"][k]) for k in other["grads"])


def test_only_y_and_statistics_are_saved():
    """Nothing of the size of the neurons but the convolution's output itself is kept for backward."""
    kept = []
    y = torch.randn(4, 8, 16, 8, 8, requires_grad=True)
    norm = Norm(torch.ones(16), torch.zeros(16), torch.zeros(16), torch.ones(16), (0.1,) * 4, True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        fused_neuron(Branch(y, norm=norm), tuple(y.shape), NeuronSpec())
    large = [t for t in kept if t is not None and t.numel() > 1000]
    assert [t.data_ptr() for t in large] == [y.data_ptr()]


def test_second_derivatives_are_refused():
    y = torch.randn(2, 2, 2, 2, 2, requires_grad=True)
    spikes, _ = fused_neuron(Branch(y), tuple(y.shape), NeuronSpec())
    with pytest.raises(RuntimeError, match="only once"):
        torch.autograd.grad(spikes.sum(), y, create_graph=True)


@pytest.mark.parametrize(
    ("y", "sizes", "norm", "error", "named"),
    [
        (torch.zeros(2, 3, 4, 4, 4, dtype=torch.float16), (2, 3, 4, 4, 4), None, TypeError, "main"),
        (torch.zeros(2, 3, 4, 4, 4, dtype=torch.int32), (2, 3, 4, 4, 4), None, TypeError, "main"),
        (torch.zeros(2, 3, 4, 4, 5), (2, 3, 4, 4, 4), None, ValueError, "y"),
        (torch.zeros(2, 3, 4, 4, 4), (2, 3, 4, 4, 0), None, ValueError, "W"),
        (torch.zeros(2, 3, 4, 4, 4), (2, 3, 4, 4, 4), Norm(torch.ones(3), *[None] * 3, (), True), ValueError, "weight"),
        (torch.zeros(2, 1, 4, 1, 1), (2, 1, 4, 1, 1), Norm(*[None] * 4, (), True), ValueError, "more than one value"),
    ],
)
def test_wrong_arguments(y, sizes, norm, error, named):
    with pytest.raises(error, match=named):
        fused_neuron(Branch(y, norm=norm), sizes, NeuronSpec())


@pytest.mark.slow
@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512"])
def test_every_instruction_set(isa):
    """The choice is made once a process; one that the processor lacks falls back."""
    if os.environ.get("SNN_SPARSE_ISA"):
        pytest.skip("already inside such a process")
    env = {**os.environ, "SNN_SPARSE_ISA": isa, "EXAMPLES": "30"}
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "-k", "random or float32", __file__]
    subprocess.run(command, env=env, check=True, capture_output=True)
