"""Other people's surrogates: their own gradient is the oracle."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spikingjelly.activation_based import surrogate as sj

from snn_sparse.fusion.neurons import match_curve, read_surrogate
from snn_sparse.ops import SURROGATES

OURS = [sj.ATan, sj.Sigmoid, sj.PiecewiseQuadratic, sj.Rect, sj.Erf, sj.SoftSign, sj.SuperSpike]
OTHERS = [
    sj.PiecewiseExp(),
    sj.NonzeroSignLogAbs(),
    sj.PiecewiseLeakyReLU(),
    sj.S2NN(),
    sj.QPseudoSpike(3.0),
    sj.LeakyKReLU(),
    sj.LogTailedReLU(),
]
ALPHAS = st.floats(0.05, 50)


def assert_gradient(function, firing, u):
    u = u.clone().requires_grad_()
    (theirs,) = torch.autograd.grad(function(u).sum(), u)
    ours = SURROGATES[firing.kind](firing.alpha, firing.height).gradient(u.detach())
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def grid():
    return torch.cat([torch.randn(500, dtype=torch.float64), torch.randn(500, dtype=torch.float64) * 0.05])


@pytest.mark.parametrize("make", OURS)
@settings(deadline=None)
@given(alpha=ALPHAS)
def test_classes_of_spikingjelly(make, alpha):
    firing = read_surrogate(make(alpha))
    assert not isinstance(firing, str), firing
    assert not firing.strict
    assert_gradient(make(alpha), firing, grid())


@pytest.mark.parametrize("make", OURS)
@pytest.mark.parametrize("strict", [False, True])
@settings(deadline=None)
@given(alpha=ALPHAS)
def test_any_function_by_its_gradient(make, strict, alpha):
    def function(u):
        return make(alpha)(u - 1e-300 if strict else u)

    firing = read_surrogate(function)
    assert not isinstance(firing, str), firing
    assert firing.strict == strict
    assert_gradient(function, firing, grid())


@pytest.mark.parametrize("function", OTHERS, ids=lambda f: type(f).__name__)
def test_others_are_refused(function):
    reason = read_surrogate(function)
    assert isinstance(reason, str)
    assert "\n" not in reason


def test_a_function_that_does_not_spike_is_refused():
    assert "spiking" in read_surrogate(sj.ATan(spiking=False))
    assert "not 0 and 1" in read_surrogate(torch.sigmoid)
    assert "raises" in read_surrogate(lambda u, v: u)
    assert "none of ours" in read_surrogate(lambda u: (u > 0).double())
    assert isinstance(read_surrogate(None), str)


def test_q_pseudo_spike_of_two_is_a_fast_sigmoid():
    assert read_surrogate(sj.QPseudoSpike(2.0)).fields() == {
        "surrogate": "fast_sigmoid",
        "alpha": 2.0,
        "height": None,
        "strict": False,
    }


@pytest.mark.parametrize("kind", sorted(SURROGATES))
@settings(deadline=None)
@given(alpha=ALPHAS, height=st.none() | st.floats(0.05, 20))
def test_match_curve_finds_ours(kind, alpha, height):
    ours = SURROGATES[kind](alpha, height)
    found = match_curve(ours.gradient)
    assert found is not None
    u = torch.randn(1000, dtype=torch.float64) * 3 / ours.slope
    again = SURROGATES[found[0]](found[1], found[2])
    torch.testing.assert_close(again.gradient(u), ours.gradient(u), rtol=1e-8, atol=1e-9 * ours.peak)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 2.0, 25.0, 100.0, 4 / 3])
def test_match_curve_returns_the_numbers_as_they_were_written(alpha):
    assert match_curve(SURROGATES["atan"](alpha).gradient) == ("atan", alpha, None)
    assert match_curve(SURROGATES["erf"](2.0, alpha).gradient) == ("erf", 2.0, alpha)


@settings(deadline=None)
@given(alpha=st.floats(0.5, 5), error=st.floats(1e-7, 0.5))
def test_match_curve_refuses_what_is_nearly_ours(alpha, error):
    ours = SURROGATES["atan"](alpha)
    assert match_curve(lambda u: ours.gradient(u) * (1 + error * (u > 0).double())) is None
    assert match_curve(lambda u: ours.gradient(u) + error * torch.exp(-((u - 1) ** 2))) is None


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_match_curve_refuses_a_constant(value):
    assert match_curve(lambda u: torch.full_like(u, value)) is None


def test_global_random_state_is_left_alone():
    before = torch.random.get_rng_state()
    read_surrogate(lambda u: (u > torch.rand_like(u)).double())
    assert torch.equal(before, torch.random.get_rng_state())


def test_surrogates_of_snntorch():
    snn = pytest.importorskip("snntorch.surrogate")
    for function, fields in (
        (snn.atan(), ("atan", 2.0, None)),
        (snn.atan(alpha=3.5), ("atan", 3.5, None)),
        (snn.fast_sigmoid(), ("fast_sigmoid", 25.0, None)),
        (snn.fast_sigmoid(slope=7), ("fast_sigmoid", 7.0, None)),
        (snn.sigmoid(slope=25), ("sigmoid", 25.0, None)),
        (snn.custom_surrogate(lambda u, g, s: g / (10 * u.abs() + 1) ** 2), ("fast_sigmoid", 10.0, None)),
    ):
        firing = read_surrogate(function)
        assert not isinstance(firing, str), firing
        assert (firing.kind, firing.alpha, firing.height, firing.strict) == (*fields, True)
    for make in (
        snn.triangular,
        snn.straight_through_estimator,
        snn.heaviside,
        snn.spike_rate_escape,
        snn.SSO,
        snn.SFS,
    ):
        reason = read_surrogate(make())
        assert isinstance(reason, str)
        assert "\n" not in reason
