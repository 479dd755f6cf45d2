"""The fused neuron's kernels against its definition, in Triton's interpreter."""

import itertools
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from snn_sparse.kernels import tiles
from snn_sparse.kernels.inputs import Inputs
from snn_sparse.kernels.neuron import backward, forward
from snn_sparse.kernels.settings import Neuron, Normalisation

sys.path.insert(0, str(Path(__file__).parent))
from kernel_cases import Case, check, draw_inputs, kernel_inputs, placed_gradient

pytestmark = pytest.mark.usefixtures("poison")

SURROGATES = (("atan", 2.0), ("sigmoid", 4.0), ("piecewise_quadratic", 0.7), ("triangle", 1.2))
NEURONS = [
    Neuron(kind, 2.5, decay, 1.0, v_reset, detach)
    for kind, decay in (("lif", True), ("lif", False), ("plif", True), ("plif", False), ("if", True))
    for v_reset, detach in itertools.product((0.0, -0.3, None), (True, False))
]
# (T, N, C, H, W): odd sizes, single images, single pixels, single channels.
SHAPES = [(1, 3, 2, 5, 3), (2, 1, 3, 4, 6), (3, 2, 5, 3, 3), (4, 2, 1, 6, 5), (5, 1, 2, 8, 8), (8, 5, 3, 1, 1)]
NORMS = (None, "per_step", "pooled", "running")
RESIDUALS = (None, "dense", "bits", "per_step", "pooled", "running")


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(int(torch.randint(2**31, ()).item()))


@pytest.fixture(autouse=True)
def _short_loops(monkeypatch):
    """Few programs, so that even small inputs take several tiles each."""
    monkeypatch.setattr(tiles, "MAX_SUMMING_PROGRAMS", 3)


@pytest.mark.parametrize("i", range(len(NEURONS)))
def test_every_neuron_and_surrogate(i, generator):
    surrogate, alpha = SURROGATES[i % 4]
    neuron = replace(NEURONS[i], surrogate=surrogate, alpha=alpha)
    check(Case((4, 2, 2, 4, 3), neuron, v_init=i % 2 == 0, final_v=True, channels_last=i % 3 == 0), generator)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("residual", RESIDUALS)
def test_every_norm_with_every_residual(norm, residual, generator):
    i = NORMS.index(norm) + RESIDUALS.index(residual)
    check(Case((3, 2, 3, 4, 3), norm=norm, residual=residual, channels_last=i % 2 == 0, affine=i % 3 > 0), generator)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("size", [(2, 2), (3, 5), (5, 4), (4, 7)])
def test_pool(size, channels_last, generator):
    case = Case((2, 2, 3, *size), norm="per_step", residual="per_step", pool=True, channels_last=channels_last)
    check(replace(case, final_v=True, v_init=True), generator)
    check(replace(case, bits=True, norm="running", residual="bits", neuron=Neuron("plif")), generator)


@pytest.mark.parametrize("timesteps", [1, 2, 6, 8, 9, 12, 17, 32])
def test_any_number_of_timesteps(timesteps, generator):
    case = Case((timesteps, 2, 2, 2, 3), Neuron("plif"), norm="per_step", v_init=True, final_v=True)
    if timesteps in (2, 17):
        case = replace(case, norm="pooled", bits=True, channels_last=True, static=True)
    check(replace(case, residual="per_step" if timesteps == 12 else None), generator)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("residual", [None, "per_step"])
def test_one_map_for_all_steps(norm, residual, generator):
    check(Case((3, 2, 2, 4, 3), norm=norm, residual=residual, static=True, final_v=True), generator)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("channels", [31, 32, 70])
def test_packed_output(channels, channels_last, generator):
    size = (3, 11) if channels_last else (1, channels)
    shape = (2, 1, channels, *size) if channels_last else (2, 3, 2, *size)
    check(Case(shape, bits=True, residual="bits", channels_last=channels_last), generator)


@pytest.mark.parametrize("grad", ["same", "other", "expanded", "none"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_gradients_in_any_layout(grad, channels_last, generator):
    case = Case((2, 2, 3, 4, 5), norm="pooled", pool=True, channels_last=channels_last, grad=grad, final_v=True)
    check(case, generator)


@pytest.mark.parametrize("i", range(30))
def test_random_combinations(i, generator):
    def pick(options):
        return options[int(torch.randint(len(options), (), generator=generator))]

    shape = pick(SHAPES)
    norm, residual = pick(NORMS), pick(RESIDUALS)
    surrogate, alpha = pick(SURROGATES)
    case = Case(
        shape,
        replace(pick(NEURONS), surrogate=surrogate, alpha=alpha),
        norm=norm,
        affine=pick((True, True, False)),
        residual=residual,
        static=pick((False, False, True)),
        v_init=pick((False, True)),
        final_v=pick((False, True)),
        pool=min(shape[3:]) > 1 and pick((False, True)),
        bits=pick((False, True)),
        channels_last=pick((False, True)),
        dtype=pick((torch.float32, torch.float16)),
        grad=pick(("same", "other", "expanded")),
    )
    check(case, generator)


def test_large_tiles_are_cut(generator):
    check(Case((2, 3, 1, 17, 16), norm="per_step"), generator)
    check(Case((2, 2, 65, 5, 3), norm="per_step", channels_last=True), generator)


def test_only_what_is_asked_for(generator):
    case = Case((2, 2, 2, 4, 4), Neuron("plif"), norm="per_step", residual="per_step", v_init=True)
    leaves, fixed, grads = draw_inputs(case, generator)
    inputs = kernel_inputs(case, leaves, fixed)
    grad = placed_gradient(case, grads["spikes"])
    everything = backward(inputs, grad, None, list(leaves))
    for name in leaves:
        found = backward(inputs, grad, None, [name])
        assert torch.equal(getattr(found, name), getattr(everything, name)), name
        assert all(getattr(found, other) is None for other in leaves if other != name)


def test_the_same_bits_twice(generator):
    case = Case((3, 4, 2, 5, 5), norm="per_step", pool=True)
    inputs = kernel_inputs(case, *draw_inputs(case, generator)[:2])
    grad = torch.randn(inputs.output_shape)
    first, second = (backward(inputs, grad, None, ["y", "weight", "bias"]) for _ in range(2))
    for name in ("y", "weight", "bias"):
        assert torch.equal(getattr(first, name), getattr(second, name))


def test_nan_never_spikes():
    y = torch.full((2, 1, 1, 2, 2), float("nan"))
    assert forward(Inputs(y, Neuron(), 2))[0].eq(0).all()


def test_empty_batch():
    y = torch.empty(2, 0, 3, 4, 4)
    norm = Normalisation(torch.zeros(3), running_var=torch.ones(3), weight=torch.ones(3))
    inputs = Inputs(y, Neuron(), 2, norm=norm)
    assert forward(inputs)[0].shape == y.shape
    assert backward(inputs, y, None, ["y", "weight"]).weight.eq(0).all()


def test_errors():
    y, neuron = torch.zeros(2, 1, 1, 4, 4), Neuron()
    with pytest.raises(ValueError, match="timesteps must be 1 to 32"):
        Inputs(y, neuron, 33)
    with pytest.raises(ValueError, match=r"y must be \[3 or 1"):
        Inputs(y, neuron, 3)
    with pytest.raises(ValueError, match="residual must be"):
        Inputs(y, neuron, 2, residual=y[:1])
    with pytest.raises(ValueError, match="rate must be"):
        Inputs(y, Neuron("plif"), 2)
    with pytest.raises(TypeError, match="v must be float32"):
        Inputs(y, neuron, 2, v=y[0].double())
    with pytest.raises(ValueError, match="too small"):
        forward(Inputs(y[..., :1], neuron, 2, pool=True))
    with pytest.raises(ValueError, match="statistics"):
        forward(Inputs(y, neuron, 2, norm=Normalisation(torch.zeros(3, 1), torch.ones(3, 1))))
    with pytest.raises(ValueError, match="no gradient of weight"):
        backward(Inputs(y, neuron, 2), y, None, ["weight"])
    with pytest.raises(ValueError, match="grad_spikes must be"):
        backward(Inputs(y, neuron, 2), y[:1], None, ["y"])
    with pytest.raises(ValueError, match="unknown 'relu'"):
        Neuron(surrogate="relu")
