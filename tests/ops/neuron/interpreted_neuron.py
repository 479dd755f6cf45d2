"""The fused neuron's kernels against its definition, in Triton's interpreter."""

import itertools
from dataclasses import replace

import pytest
import torch
from ops.neuron.kernel_cases import (
    Case,
    assert_near,
    check,
    draw_inputs,
    run_operator,
    run_reference,
    stable_inputs,
    stored,
)

from snn_sparse.ops import neuron_sequence, plain_stage
from snn_sparse.ops.neuron.call import Settings, Tensors
from snn_sparse.ops.neuron.triton_backward import backward
from snn_sparse.ops.neuron.triton_forward import forward
from snn_sparse.ops.neuron.triton_inputs import Inputs
from snn_sparse.ops.spikes import NHWC, ordered, triton_tiles
from snn_sparse.specs import NeuronSpec

DTYPES = (torch.float32, torch.bfloat16)
SURROGATES = (("atan", 2.0), ("sigmoid", 4.0), ("piecewise_quadratic", 0.7), ("triangle", 1.2))
SURROGATES += (("rectangle", 0.8), ("fast_sigmoid", 25.0), ("erf", 2.0))
NEURONS = [
    NeuronSpec(kind, 2.5, decay, 1.0, v_reset, detach)
    for kind, decay in (("lif", True), ("lif", False), ("plif", True), ("plif", False), ("if", True))
    for v_reset, detach in itertools.product((0.0, -0.3, None), (True, False))
]
NEURONS += [
    NeuronSpec("leaky", v_reset=v_reset, detach_reset=detach, decay=0.8, strict=detach)
    for v_reset, detach in itertools.product((0.0, -0.3, None), (True, False))
]
NEURONS += [NeuronSpec("leaky", v_reset=None, decay=0.8, strict=strict, late_reset=True) for strict in (True, False)]
# (T, N, C, H, W): odd sizes, single images, single pixels, single channels.
SHAPES = [(1, 3, 2, 5, 3), (2, 1, 3, 4, 6), (3, 2, 5, 3, 3), (4, 2, 1, 6, 5), (5, 1, 2, 8, 8), (8, 5, 3, 1, 1)]
NORMS = (None, "per_step", "pooled", "frozen")
RESIDUALS = (None, "dense", "bits", "per_step", "pooled", "frozen")


@pytest.fixture(autouse=True)
def _short_loops(monkeypatch):
    """Few programs, so that even small inputs take several tiles each."""
    monkeypatch.setattr(triton_tiles, "MAX_SUMMING_PROGRAMS", 3)


@pytest.mark.parametrize("i", range(len(NEURONS)))
def test_every_neuron_and_surrogate(i, generator):
    surrogate, alpha = SURROGATES[i % len(SURROGATES)]
    neuron = replace(NEURONS[i], surrogate=surrogate, alpha=alpha, height=0.7 if i % 5 == 0 else None)
    case = Case((4, 2, 2, 4, 3), neuron, v_init=i % 2 == 0, final_v=True, channels_last=i % 3 == 0)
    check(replace(case, dtype=DTYPES[i // 2 % 2]), generator)
    if neuron.kind == "leaky":
        check(replace(case, learnt=True), generator)


@pytest.mark.parametrize("timesteps", [7, 11])
def test_a_late_reset_over_segments(timesteps, generator):
    """With pool and packed spikes; the potential that has fired crosses from segment to segment."""
    neuron = NeuronSpec("leaky", v_threshold=0.6, v_reset=None, decay=0.9, late_reset=True)
    case = Case((timesteps, 2, 2, 4, 4), neuron, True, norm="per_step", v_init=True, final_v=True, pool=True, bits=True)
    check(case, generator)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("residual", RESIDUALS)
def test_every_norm_with_every_residual(norm, residual, generator):
    i = NORMS.index(norm) + RESIDUALS.index(residual)
    case = Case((2, 2, 2, 4, 3), norm=norm, residual=residual, channels_last=i % 2 == 0, affine=i % 3 > 0)
    for dtype in DTYPES:
        check(replace(case, dtype=dtype), generator)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("size", [(2, 2), (3, 5), (5, 4), (4, 7)])
def test_pool(size, channels_last, generator):
    case = Case((2, 2, 3, *size), norm="per_step", residual="per_step", pool=True, channels_last=channels_last)
    check(replace(case, final_v=True, v_init=True), generator)
    rest = {"norm": "frozen", "residual": "bits", "neuron": NeuronSpec("plif"), "dtype": torch.bfloat16}
    check(replace(case, bits=True, **rest), generator)


@pytest.mark.parametrize("timesteps", [1, 5, 8, 9, 17, 32])
def test_any_number_of_timesteps(timesteps, generator):
    case = Case((timesteps, 2, 2, 2, 3), NeuronSpec("plif"), norm="per_step", v_init=True, final_v=True)
    if timesteps in (5, 17):
        case = replace(case, norm="pooled", bits=True, channels_last=True, constant=True)
    check(replace(case, residual="per_step" if timesteps == 9 else None), generator)
    if timesteps < 32:
        check(replace(case, dtype=torch.bfloat16, channels_last=True), generator)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("residual", [None, "per_step"])
def test_one_map_for_all_steps(norm, residual, generator):
    dtype = DTYPES[NORMS.index(norm) % 2]
    check(Case((3, 2, 1, 4, 3), norm=norm, residual=residual, constant=True, final_v=True, dtype=dtype), generator)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("channels", [31, 32, 70])
def test_packed_output(channels, channels_last, generator):
    size = (3, 11) if channels_last else (1, channels)
    shape = (2, 1, channels, *size) if channels_last else (2, 3, 2, *size)
    check(Case(shape, bits=True, residual="bits", channels_last=channels_last), generator)


@pytest.mark.parametrize(
    ("strides", "grad"), [("other", "spikes"), ("odd", "spikes"), ("same", "expanded"), ("odd", "none")]
)
@pytest.mark.parametrize("channels_last", [False, True])
def test_tensors_with_any_strides(strides, grad, channels_last, generator):
    case = Case((2, 2, 3, 4, 5), norm="pooled", residual="dense", pool=True, channels_last=channels_last)
    check(replace(case, strides=strides, grad=grad, final_v=True, v_init=True, dtype=DTYPES[channels_last]), generator)


@pytest.mark.parametrize("i", range(12))
def test_random_combinations(i, generator):
    def pick(options):
        return options[int(torch.randint(len(options), (), generator=generator))]

    shape = pick(SHAPES)
    norm, residual = pick(NORMS), pick(RESIDUALS)
    surrogate, alpha = pick(SURROGATES)
    case = Case(
        shape,
        replace(pick(NEURONS), surrogate=surrogate, alpha=alpha),
        learnt=pick((False, True)),
        norm=norm,
        affine=pick((True, True, False)),
        residual=residual,
        constant=pick((False, False, True)),
        v_init=pick((False, True)),
        final_v=pick((False, True)),
        pool=min(shape[3:]) > 1 and pick((False, True)),
        bits=pick((False, True)),
        channels_last=pick((False, True)),
        dtype=pick((torch.float32, torch.float16, torch.bfloat16)),
        strides=pick(("same", "other")),
        grad=pick(("spikes", "expanded")),
    )
    check(case, generator)


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_tiles_without_masks(channels_last, pool, generator):
    """Where sizes divide; maps that are not square."""
    shape = (2, 2, 64, 8, 4) if channels_last else (2, 8, 2, 16, 32)
    for elements in (128, 512, 1024):
        assert not pool or triton_tiles.cut(shape[1:], elements, channels_last=channels_last, pool=True).whole
    dtype = (torch.bfloat16, torch.float16)[pool]
    case = Case(shape, norm="per_step", pool=pool, channels_last=channels_last, dtype=dtype, bits=True)
    check(replace(case, residual="bits" if channels_last else None), generator)


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_mean_far_from_zero(channels_last, generator):
    """Sums are of dx * y, and y is scaled and shifted in one step: neither must lose what y itself still has."""
    case = Case((3, 4, 2, 4, 4), norm="per_step", final_v=True, channels_last=channels_last)
    leaves, fixed, grads = stable_inputs(case, generator)
    moved = {**leaves, "y": (leaves["y"] + 16).float().double()}
    spikes, v, wanted = run_reference(case, moved, fixed, grads)
    fast, fast_v, found = run_operator(case, moved, fixed, grads)
    assert torch.equal(fast.double(), spikes)
    assert_near(fast_v, v, 5e-5, "final v")
    for name, grad in wanted.items():
        assert_near(found[name], grad, 1e-4, f"gradient of {name}")


def test_large_tiles_are_cut(generator):
    check(Case((2, 3, 1, 17, 16), norm="per_step"), generator)
    check(Case((2, 2, 65, 5, 3), norm="per_step", channels_last=True), generator)


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("v_reset", [0.0, None])
@pytest.mark.parametrize(("kind", "decay_input"), [("lif", True), ("lif", False), ("if", True), ("leaky", True)])
@pytest.mark.parametrize("strict", [False, True])
def test_potentials_on_the_threshold_fire(strict, kind, decay_input, v_reset, pool):
    """Or not, forward and backward; all numbers are small multiples of a power of two, so that none is rounded."""
    neuron = NeuronSpec(kind, 2.0, decay_input, 1.0, v_reset, False, "triangle", 1.0, decay=0.5, strict=strict)
    hit = 2.0 if kind == "lif" and decay_input else 1.0
    y = torch.randint(0, 5, (3, 2, 2, 4, 4)) / 4 * hit
    y[0, :, :, ::3] = hit  # from rest
    assert plain_stage(y, neuron, 3)[0][0, :, :, ::3].eq(0 if strict else 1).all()
    results = []
    for x in (y.double(), y.clone(), ordered(y.bfloat16(), NHWC)):
        given = {"norm": None} if x.dtype == torch.float64 else {"final_v": True}
        run = plain_stage if x.dtype == torch.float64 else neuron_sequence
        spikes, v = run(x.requires_grad_(), neuron, 3, pool=pool, **given)
        weights = (torch.arange(spikes.numel()).view(spikes.shape) % 4 - 1).to(x.dtype)
        (grad,) = torch.autograd.grad([spikes, v], x, [weights, torch.full_like(v, 0.5)])
        results.append((spikes, v, grad))
    for found in results[1:]:
        for a, b in zip(found, results[0], strict=True):
            assert torch.equal(a, b.to(a.dtype))


# ---- the kernels' own functions --------------------------------------------------------------------------------------


def tensors(case, generator):
    given, _ = stored(case, draw_inputs(case, generator)[0])
    steps, c = case.shape[0], case.shape[2]
    statistics = {}
    for suffix, mode in (("", case.norm), ("_r", case.residual)):
        if mode == "per_step":
            statistics |= {"mean" + suffix: torch.randn(steps, c), "spread" + suffix: torch.rand(steps, 3, c) + 0.5}
    t = Tensors(**{name: x.detach() for name, x in given.items()}, **statistics)
    return t, Settings.of(case.neuron, steps, case.shape[1], pool=case.pool), list(given)


def test_only_what_is_asked_for(generator):
    case = Case((2, 2, 2, 4, 4), NeuronSpec("plif"), norm="per_step", residual="per_step", v_init=True)
    t, s, names = tensors(case, generator)
    grad = torch.randn(case.shape)
    everything = backward(t, s, grad, None, names)
    assert set(everything) == set(names)
    for name in names:
        found = backward(t, s, grad, None, [name])
        assert list(found) == [name]
        torch.testing.assert_close(found[name], everything[name], rtol=1e-5, atol=1e-6)


def test_the_same_bits_twice(generator):
    case = Case((3, 4, 2, 5, 5), norm="per_step", pool=True)
    t, s, _ = tensors(case, generator)
    grad = torch.randn(case.output_shape)
    first, second = (backward(t, s, grad, None, ["y", "weight", "bias"]) for _ in range(2))
    for name in ("y", "weight", "bias"):
        assert torch.equal(first[name], second[name])


def of(**settings):
    return Settings.of(NeuronSpec(), 2, 1)._replace(**settings)


def test_nan_never_spikes():
    y = torch.full((2, 1, 1, 2, 2), float("nan"))
    assert forward(Tensors(y), of())[0].eq(0).all()


def test_empty_batch():
    y = torch.empty(2, 0, 3, 4, 4)
    t = Tensors(y, torch.zeros(3), torch.ones(3), torch.ones(3))
    s = of(frozen=True, images=0)
    assert forward(t, s)[0].shape == y.shape
    assert backward(t, s, y, None, ["y", "weight"])["weight"].eq(0).all()


def test_errors():
    y = torch.zeros(2, 1, 1, 4, 4)
    for error, match, call in [
        (ValueError, "timesteps must be 1 to 32", lambda: Inputs(Tensors(y), of(steps=33))),
        (ValueError, r"y must be \[3 or 1", lambda: Inputs(Tensors(y), of(steps=3))),
        (ValueError, "residual must be", lambda: Inputs(Tensors(y, residual=y[:1]), of())),
        (ValueError, "bits_r must be", lambda: Inputs(Tensors(y, residual=y, bits_r=y.int()), of())),
        (ValueError, "needs a dense residual", lambda: Inputs(Tensors(y, mean_r=torch.zeros(2, 1)), of())),
        (ValueError, "rate must be", lambda: Inputs(Tensors(y), of(kind=1))),
        (ValueError, "rate must be", lambda: Inputs(Tensors(y, rate=torch.ones(2)), of(kind=3))),
        (ValueError, "late must be 0", lambda: Inputs(Tensors(y), of(late=1.0))),
        (ValueError, "late must be 0", lambda: Inputs(Tensors(y), of(kind=3, late=1.0))),
        (ValueError, "v must be", lambda: Inputs(Tensors(y, v=y), of())),
        (TypeError, "v must be float32", lambda: Inputs(Tensors(y, v=y[0].double()), of())),
        (ValueError, "too small", lambda: forward(Tensors(y[..., :1]), of(pool=True))),
        (ValueError, "mean and spread", lambda: forward(Tensors(y, torch.zeros(2, 1), torch.ones(2, 1)), of())),
        (ValueError, "no gradient of weight", lambda: backward(Tensors(y), of(), y, None, ["weight"])),
        (ValueError, "grad must be", lambda: backward(Tensors(y), of(), y[:1], None, ["y"])),
    ]:
        with pytest.raises(error, match=match):
            call()
