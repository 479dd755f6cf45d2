"""Inputs so large that variances overflow, or that are no numbers at all: fused layers answer as the plain ones do."""

import copy
import math
import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))
import cpp_case

import snn_sparse as ss
from snn_sparse.ops import Norm, neuron_sequence, plain_stage
from snn_sparse.specs import BatchNormSpec, NeuronSpec

pytestmark = cpp_case.needs_cpp
SURROGATES = ("atan", "sigmoid", "piecewise_quadratic", "triangle", "rectangle", "fast_sigmoid", "erf")


def assert_same(found, expected, name, scale=0.0):
    """NaN and infinity in the same places, and all other numbers near each other, compared with the largest."""
    assert torch.equal(found.isnan(), expected.isnan()), f"{name}: NaN"
    infinite = expected.isinf()
    assert torch.equal(found.isinf(), infinite), f"{name}: infinity"
    assert torch.equal(found[infinite], expected[infinite]), f"{name}: sign of infinity"
    usual = expected.isfinite()
    if usual.any():
        scale = max(scale, float(expected[usual].abs().max()))
        assert float((found - expected)[usual].abs().max()) <= 1e-3 * scale + 3e-6, name


def draw(statistics):
    """A small network, training or not, and a batch for it."""
    neuron = random.choice(["lif", "if", "plif", "leaky"])
    options = {"v_reset": random.choice([None, 0.0]), "surrogate": random.choice(SURROGATES)}
    if neuron != "leaky":
        options["detach_reset"] = random.choice([True, False])
    timesteps, n = random.choice([1, 2, 3]), random.choice([1, 3, 9])
    model = ss.build_model(
        "vgg_small", 3, 1, timesteps, neuron=neuron, neuron_options=options, bn_statistics=statistics
    )
    model.train(random.random() < 0.7)
    shape = (timesteps, n, 1, 8, 8) if random.random() < 0.5 else (n, 1, 8, 8)
    return model, torch.randn(shape), torch.randint(0, 3, (n,))


def results(model, x, y):
    """Logits, gradients and running statistics, by name."""
    x = x.clone().requires_grad_()
    logits = model(x)
    ss.temporal_cross_entropy(logits, y).backward()
    gradients = {"x": x.grad, **{k: p.grad for k, p in model.named_parameters()}}
    return logits.detach(), gradients, {k: b.float() for k, b in model.named_buffers()}


@pytest.mark.parametrize("statistics", ["per_step", "pooled"])
@pytest.mark.parametrize("scale", [1.0, 1e10, 1e20, 1e30, 1e36])
@pytest.mark.parametrize("pruned", [False, True])
def test_networks(statistics, scale, pruned):
    for _ in range(4):
        model, x, y = draw(statistics)
        if pruned:
            ss.magnitude_mask(model, 90.0).apply_(model)
        expected = results(copy.deepcopy(model), x * scale, y)
        found = results(ss.fuse(copy.deepcopy(model), verify=False), x * scale, y)
        assert_same(found[0], expected[0], "logits")
        usual = [g[g.isfinite()].abs().max().item() for g in expected[1].values() if g.isfinite().any()]
        for name, g in expected[1].items():
            assert_same(found[1][name], g, f"gradient of {name}", max(usual))
        for name, b in expected[2].items():
            assert_same(found[2][name], b, name)


def norm_of(channels, steps, statistics):
    weight, bias = torch.rand(channels) + 0.5, torch.randn(channels)
    factors = (0.1,) * (steps if statistics == "per_step" else 1)
    return Norm(BatchNormSpec(statistics), weight, bias, torch.zeros(channels), torch.ones(channels), factors)


@pytest.mark.parametrize("statistics", ["per_step", "pooled"])
@pytest.mark.parametrize("steps", [1, 3])
def test_a_variance_overflows_where_torchs_does(statistics, steps):
    """Torch keeps the sum of squared deviations in float32: beyond its largest number, 1/std is zero."""
    y = torch.randn(steps, 3, 40, 4, 5) * torch.logspace(16, 22, 40)[:, None, None]
    norm = norm_of(40, steps, statistics)
    twin = replace(norm, running_mean=norm.running_mean.clone(), running_var=norm.running_var.clone())
    expected, v = plain_stage(y, NeuronSpec("if", v_threshold=1e30), steps, norm=norm)
    found, last = neuron_sequence(y, NeuronSpec("if", v_threshold=1e30), steps, norm=twin, final_v=True)
    assert not expected.any()
    assert not found.any()
    flat = (last - steps * norm.bias[:, None, None]).abs().amax((0, 2, 3)) < 1e-5
    assert 5 < int(flat.sum()) < 35
    if steps == 1:
        assert torch.equal(flat, (F.batch_norm(y[0], None, None, training=True) == 0).all(0).all(1).all(1))
    torch.testing.assert_close(last, v, rtol=1e-4, atol=1e-4)
    assert torch.equal(twin.running_var.isinf(), norm.running_var.isinf())


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_neuron_of_no_number(surrogate, value, dtype):
    for _ in range(6):
        reset, detached, pool = random.choice([None, 0.0, 0.5]), random.random() < 0.5, random.random() < 0.5
        spec = NeuronSpec(random.choice(["lif", "if"]), surrogate=surrogate, v_reset=reset, detach_reset=detached)
        y = torch.randn(2, 3, 4, 4, 6, dtype=dtype)
        y.view(-1)[torch.randint(0, y.numel(), (5,))] = value
        weights = torch.randn(2, 3, 4, *((2, 3) if pool else (4, 6)), dtype=dtype)
        both = []
        for run, more in ((plain_stage, {}), (neuron_sequence, {"final_v": True})):
            given = y.clone().requires_grad_()
            spikes, v = run(given, spec, 2, pool=pool, **more)
            (gradient,) = torch.autograd.grad((spikes * weights).sum() + v.nan_to_num(0, 0, 0).sum(), given)
            both.append((spikes.detach(), v.detach(), gradient))
        for name, expected, found in zip(("spikes", "v", "gradient"), *both, strict=True):
            assert_same(found, expected, f"{name} of {spec}")


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("value", [1e30, -1e30])
def test_far_from_the_threshold_the_surrogate_vanishes_as_the_plain_one(surrogate, value):
    """A rest of 1e-38 times an image of 1e36 would move weights that stand still in the plain network."""
    spec = NeuronSpec("if", surrogate=surrogate, v_reset=None)
    y = torch.full((1, 2, 3, 4, 5), value, requires_grad=True)
    gradients = []
    for run in (plain_stage, neuron_sequence):
        spikes, _ = run(y, spec, 1)
        gradients.append(torch.autograd.grad(spikes.sum(), y)[0])
    assert torch.equal(gradients[0], gradients[1])
