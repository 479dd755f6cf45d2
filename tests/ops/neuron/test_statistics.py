"""Batch statistics, and how they move the running ones."""

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2]))
import cpp_case
from neuron_cases import norm_of, twin_of

from snn_sparse.ops import Norm, neuron_sequence, plain_stage
from snn_sparse.ops.neuron.batch_norm import plain_statistics
from snn_sparse.ops.neuron.call import Settings, Tensors
from snn_sparse.ops.spikes import NCHW, NHWC, MemoryFormat, convert
from snn_sparse.specs import BatchNormSpec, NeuronSpec

pytestmark = cpp_case.needs_cpp
T, SHAPE = 4, (3, 5, 6, 7)


@pytest.mark.parametrize("mode", ["per_step", "pooled"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("memory_format", [NCHW, NHWC, MemoryFormat("lanes", 3)], ids=lambda f: f.kind)
def test_running_statistics_move_as_torchs(mode, dtype, memory_format):
    x = torch.randn(T, *SHAPE, dtype=dtype) * 3 + 2
    updates = T if mode == "per_step" else 1
    ours = norm_of(SHAPE[1], updates, dtype, mode)
    theirs, plain = twin_of(ours), twin_of(ours)
    y = convert(x, (T, *SHAPE), NCHW, memory_format)
    how = {"images": SHAPE[0], "constant": False, "memory_format": memory_format}
    neuron_sequence(y, NeuronSpec(), T, norm=ours, **how)
    for part in x if mode == "per_step" else [x.flatten(0, 1)]:
        F.batch_norm(part, theirs.running_mean, theirs.running_var, training=True, momentum=0.1)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    plain_statistics(x, plain.running_mean, plain.running_var, plain.factors, mode == "pooled", plain.spec.eps)
    torch.testing.assert_close(plain.running_var, theirs.running_var)


@pytest.mark.parametrize("memory_format", [NCHW, NHWC], ids=lambda f: f.kind)
def test_batch_statistics_are_results_of_the_operator(memory_format):
    """They are what backward uses; those of the residual are pooled here."""
    y, residual = (convert(torch.randn(T, *SHAPE), (T, *SHAPE), NCHW, memory_format) for _ in range(2))
    norms = (norm_of(SHAPE[1], T), norm_of(SHAPE[1], 1, mode="pooled"))
    s = Settings.of(NeuronSpec(), T, SHAPE[0], False, *norms, formats=(memory_format,) * 3)
    found = torch.ops.snn_sparse.neuron(*Tensors(y, residual=residual), *s, False, False, 1, 2)[3:]
    expected = [
        *plain_statistics(y, None, None, (), False, norms[0].spec.eps),
        *plain_statistics(residual, None, None, (), True, norms[1].spec.eps),
    ]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
        assert a.shape == b.shape


def test_frozen_statistics_stay():
    norm = norm_of(SHAPE[1], 0, frozen=True)
    before = norm.running_mean.clone(), norm.running_var.clone()
    neuron_sequence(torch.randn(T, *SHAPE, dtype=torch.float64), NeuronSpec(), T, norm=norm)
    assert torch.equal(norm.running_mean, before[0])
    assert torch.equal(norm.running_var, before[1])


def test_statistics_survive_a_large_mean():
    y = torch.randn(2, 8, 3, 6, 6) + 1e4
    norm = Norm(BatchNormSpec(), None, None, torch.zeros(3), torch.ones(3), (1.0, 1.0))
    neuron_sequence(y, NeuronSpec(), 2, norm=norm)
    exact = y[1].double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(norm.running_mean.double(), exact.mean(1), rtol=1e-7, atol=0)
    torch.testing.assert_close(norm.running_var.double(), exact.var(1), rtol=1e-6, atol=0)


def test_one_value_a_channel_has_no_variance():
    for run in (neuron_sequence, plain_stage):
        with pytest.raises((RuntimeError, ValueError), match=r"more than (one|1) value per channel"):
            run(torch.zeros(2, 1, 4, 1, 1), NeuronSpec(), 2, norm=Norm(BatchNormSpec(), factors=(0.0, 0.0)))
