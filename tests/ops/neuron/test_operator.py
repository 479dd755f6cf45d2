"""The neuron's C++ operator against its definition in plain PyTorch: every neuron, norm and memory format."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2]))
import cpp_case
from neuron_cases import Case, assert_near, check, lanes, make_inputs, run_operator, run_plain, runnable, statistics

from snn_sparse.ops import neuron_sequence, plain_stage
from snn_sparse.ops.spikes import NCHW, NHWC, MemoryFormat
from snn_sparse.specs import NeuronSpec

pytestmark = cpp_case.needs_cpp
EXAMPLES = int(os.environ.get("EXAMPLES", 80))
NEURONS = [
    NeuronSpec(kind, decay_input=decay, v_reset=v_reset, detach_reset=detach)
    for kind in ("lif", "plif", "if")
    for v_reset in (0.0, -0.3, None)
    for decay in ((True, False) if kind != "if" else (True,))
    for detach in (True, False)
]
NEURONS += [
    NeuronSpec("leaky", v_reset=v_reset, detach_reset=detach, decay=0.8, strict=v_reset == 0)
    for v_reset in (0.0, -0.3, None)
    for detach in (True, False)
]
NEURONS += [NeuronSpec("leaky", v_reset=None, decay=0.8, strict=strict, late_reset=True) for strict in (True, False)]
NEURONS += [NeuronSpec(kind, strict=True) for kind in ("lif", "if")]
SURROGATES = [("atan", 2.0), ("sigmoid", 4.0), ("piecewise_quadratic", 1.0), ("piecewise_quadratic", 0.7)]
SURROGATES += [("triangle", 1.0), ("triangle", 0.6), ("rectangle", 0.8), ("fast_sigmoid", 25.0), ("erf", 2.0)]
FORMATS = [NCHW, NHWC, lanes(1), lanes(3)]
name_of = lambda x: f"{x.kind}{x.vectors or ''}" if isinstance(x, MemoryFormat) else str(x)  # noqa: E731


# Half of all pairs: each neuron in two formats, each format with every second neuron.
@pytest.mark.parametrize(
    ("neuron", "memory_format"),
    [(n, f) for i, n in enumerate(NEURONS) for j, f in enumerate(FORMATS) if (i + j) % 2 == 0],
    ids=name_of,
)
def test_every_neuron(neuron, memory_format):
    case = Case((4, 5, 3, 4, 4), neuron=neuron, formats=(memory_format,) * 3 + (NCHW,), v=True, grad_v=True)
    check(replace(case, residual="plain"))
    if neuron.kind == "leaky":
        check(replace(case, learnt=True))


@pytest.mark.parametrize(("surrogate", "alpha"), SURROGATES)
def test_every_surrogate(surrogate, alpha):
    neuron = NeuronSpec(surrogate=surrogate, alpha=alpha, detach_reset=False, v_threshold=0.7)
    check(Case((3, 9, 2, 5, 5), neuron=neuron))
    check(Case((3, 9, 2, 5, 5), neuron=replace(neuron, height=0.3)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("neuron", [n for n in NEURONS if n.kind in ("if", "leaky")], ids=lambda n: f"{n.kind}")
def test_potentials_on_the_threshold(neuron, pool, dtype):
    """And one rounding beside it, where it is a number of the dtype and where it is not; to the bit."""
    for threshold in (0.5, 0.4, 0.0, -0.7):
        neuron = replace(neuron, v_threshold=threshold, decay=0.5)
        on = torch.tensor(threshold, dtype=dtype)
        near = torch.stack([on, *(on.nextafter(torch.tensor(to, dtype=dtype)) for to in (torch.inf, -torch.inf))])
        y = near[torch.randint(3, (3, 2, 3, 4, 6))].requires_grad_()
        found = []
        for run in (plain_stage, neuron_sequence):
            spikes, v = run(y, neuron, 3, pool=pool, **({"final_v": True} if run is neuron_sequence else {}))
            found.append((spikes, v, *torch.autograd.grad((spikes * spikes.cumsum(0)).sum() + v.sum(), y)))
        for a, b in zip(*(f[:2] for f in found), strict=True):
            assert torch.equal(a, b)
        torch.testing.assert_close(found[1][2], found[0][2])


@pytest.mark.parametrize("norm", [None, "per_step", "pooled"])
@pytest.mark.parametrize("residual", [None, "plain", "per_step", "pooled"])
@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("constant", [True, False])
def test_every_norm(norm, residual, frozen, constant):
    case = Case((4, 3, 3, 3, 5), norm=norm, residual=residual, frozen=frozen, constant=constant)
    check(case)
    check(replace(case, affine=False, tracked=False, formats=(NHWC, lanes(2), lanes(2), NCHW)))


@pytest.mark.parametrize("inside", FORMATS, ids=name_of)
@pytest.mark.parametrize("outside", FORMATS, ids=name_of)
@pytest.mark.parametrize(
    ("shape", "pool"),
    [
        ((2, 3, 18, 2, 2), True),
        ((3, 10, 17, 1, 1), False),
        ((2, 2, 3, 7, 8), True),
        ((2, 9, 2, 6, 16), False),
        ((1, 1, 2, 40, 24), True),
    ],
    ids=str,
)
def test_every_conversion(inside, outside, shape, pool):
    potential = NHWC if inside == NHWC else NCHW
    formats = (inside, outside, outside, potential)
    check(Case(shape, pool=pool, formats=formats, residual="per_step", v=True, grad_v=True))


@pytest.mark.parametrize(
    ("shape", "pool"), [((3, 3, 72, 5, 4), True), ((2, 5, 8, 6, 3), True), ((4, 2, 136, 3, 2), False)]
)
@pytest.mark.parametrize("norm", [None, "per_step", "pooled"])
@pytest.mark.parametrize("constant", [True, False])
def test_a_vector_of_channels(shape, pool, norm, constant):
    """Where all maps are channels last and channels fill whole vectors, one is eight channels of a pixel."""
    case = Case(shape, constant, norm, pool=pool, formats=(NHWC,) * 4, v=True, grad_v=True)
    check(case)
    check(replace(case, residual="per_step", frozen=constant, neuron=NeuronSpec("plif")))


@pytest.mark.parametrize("pooled", ["per_step", "pooled"])
def test_a_bias_that_was_left_out_reaches_the_running_mean_only(pooled):
    case = Case((3, 4, 5, 3, 3), norm=pooled, shift=True)
    check(case)
    with_shift, without = run_operator(case), run_operator(replace(case, shift=False))
    assert torch.equal(with_shift["spikes"], without["spikes"])
    assert not torch.equal(with_shift["norm.running_mean"], without["norm.running_mean"])
    assert torch.equal(with_shift["norm.running_var"], without["norm.running_var"])


formats = st.one_of(st.sampled_from([NCHW, NHWC]), st.builds(lanes, st.integers(1, 8)))
neurons = st.builds(
    lambda neuron, surrogate, tau, threshold, decay: replace(
        neuron, tau=tau, v_threshold=threshold, decay=decay, surrogate=surrogate[0], alpha=surrogate[1]
    ),
    st.sampled_from(NEURONS),
    st.sampled_from(SURROGATES),
    st.sampled_from([1.0, 4 / 3, 3.7]),
    st.sampled_from([1.0, 0.4]),
    st.sampled_from([0.8, 1.0, 0.0]),
)
channels = st.one_of(st.integers(1, 19), st.sampled_from([8, 16, 72]))
cases = st.builds(
    Case,
    shape=st.tuples(st.integers(1, 8), st.integers(1, 17), channels, st.integers(1, 9), st.integers(1, 9)),
    constant=st.booleans(),
    norm=st.sampled_from([None, "per_step", "pooled"]),
    frozen=st.booleans(),
    affine=st.booleans(),
    tracked=st.booleans(),
    shift=st.booleans(),
    residual=st.sampled_from([None, "plain", "per_step", "pooled"]),
    neuron=neurons,
    learnt=st.booleans(),
    v=st.booleans(),
    grad_v=st.booleans(),
    pool=st.booleans(),
    formats=st.one_of(st.just((NHWC,) * 4), st.tuples(formats, formats, formats, st.sampled_from([NCHW, NHWC]))),
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
    double = replace(case, dtype=torch.float64)
    exact, actual = run_plain(double), run_operator(case)
    near = [run_plain(replace(double, neuron=_nudge(case.neuron, by)))["spikes"] for by in (-1e-4, 1e-4)]
    clear = (near[0] == near[1]).all(0).expand_as(exact["spikes"])
    assert actual["spikes"].dtype == torch.float32
    assert torch.equal(actual["spikes"].double()[clear], exact["spikes"][clear])
    if clear.all() and case.neuron.surrogate != "rectangle":  # whose edges are as sharp as the threshold
        for name, grad in exact["grads"].items():
            if grad is not None:
                assert_near(actual["grads"][name].double(), grad, 1e-3, f"gradient of {name}")
    for name in statistics(make_inputs(case)):
        assert_near(actual[name].double(), exact[name], 1e-5, name)


def _nudge(neuron, by):
    return replace(neuron, v_threshold=neuron.v_threshold + by)


def test_same_result_with_any_number_of_threads():
    case = Case((4, 9, 37, 6, 8), formats=(NHWC, lanes(2), NCHW, NCHW), residual="pooled", neuron=NeuronSpec("plif"))
    first, *others = cpp_case.with_threads((1, 2, 5), lambda: run_operator(case))
    for other in others:
        assert torch.equal(first["spikes"], other["spikes"])
        assert all(torch.equal(first["grads"][k], other["grads"][k]) for k in other["grads"])


@pytest.mark.slow
@pytest.mark.parametrize("isa", cpp_case.ISAS)
def test_every_instruction_set(isa):
    cpp_case.run_again(isa, __file__)
