"""The input's gradient by Winograd's F(2x2, 3x3) on a CPU, channels last: against torch in float64."""

import os
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2]))
import cpp_case

from snn_sparse.ops.convolution import LayerConfiguration, SpikeConfiguration, convolution, takes_winograd
from snn_sparse.ops.spikes import NHWC, ordered
from snn_sparse.specs import ConvGeometry

pytestmark = cpp_case.needs_cpp
ROUNDING = {torch.float32: 3e-6, torch.float64: 5e-15}  # of the largest result; sums have up to 130 terms a product
ONLY = SpikeConfiguration(output=False, grad_weight=False, grad_input=True)


@st.composite
def problems(draw):
    """Maps of any size that a 3x3 kernel of stride 1 reads, and the padding."""
    padding = draw(st.integers(0, 2))
    size = draw(st.tuples(*[st.integers(max(1, 3 - 2 * padding), 9)] * 2))
    channels = st.sampled_from([1, 2, 5, 16, 31, 33, 64, 70, 130])
    return draw(st.sampled_from([1, 2, 7, 40])), draw(channels), draw(channels), size, padding


def given_and_exact(problem, dtype):
    images, inputs, outputs, size, padding = problem
    grad = torch.randn(images, *(n + 2 * padding - 2 for n in size), outputs, dtype=dtype)
    weight = torch.randn(outputs, inputs, 3, 3, dtype=dtype)
    shape = images, inputs, *size
    expected = torch.nn.grad.conv2d_input(shape, weight.double(), grad.double().movedim(-1, 1), padding=padding)
    return grad, weight, expected.movedim(1, -1)


@settings(max_examples=int(os.environ.get("EXAMPLES", "60")), deadline=None)
@given(problems(), st.sampled_from([torch.float32, torch.float64]))
def test_any_map(problem, dtype):
    grad, weight, expected = given_and_exact(problem, dtype)
    found = torch.ops.snn_sparse.winograd_grad_input(grad, weight, *problem[3], problem[4])
    assert found.dtype == dtype
    assert found.shape == expected.shape
    error = float((found.double() - expected).abs().max())
    terms = float(grad.double().norm() * weight.double().norm()) / (weight[0].numel() * grad[..., 0].numel()) ** 0.5
    assert error <= ROUNDING[dtype] * max(float(expected.abs().max()), terms)


@pytest.mark.parametrize("isa", cpp_case.ISAS)
def test_every_instruction_set(isa):
    cpp_case.run_again(isa, __file__)


@pytest.mark.parametrize("images", [1, 30])
def test_same_bits_for_any_number_of_threads(images):
    grad, weight, _ = given_and_exact((images, 70, 36, (12, 9), 1), torch.float32)
    run = torch.ops.snn_sparse.winograd_grad_input
    found = cpp_case.with_threads((1, 2, 4, 3), lambda: run(grad, weight, 12, 9, 1))
    assert all(torch.equal(found[0], other) for other in found[1:])


def step(g, how, leaves, grad):
    y, _ = convolution(*leaves, g.stride, g.padding, how, binary=True)
    return torch.autograd.grad(y, leaves, grad)


@pytest.mark.parametrize("spikes", [ONLY, SpikeConfiguration(True, False, True), SpikeConfiguration(True, True, True)])
def test_a_layer_uses_it_and_no_other_direction_changes(spikes, monkeypatch):
    g = ConvGeometry(2, 4, 24, 40, 7, 6, (3, 3), 1, 1)
    assert takes_winograd(g)
    x = ordered((torch.rand(g.input_shape) < 0.2).double(), NHWC).requires_grad_()
    leaves = x, torch.randn(g.weight_shape).double().requires_grad_(), torch.randn(g.outputs).double().requires_grad_()
    keep, grad = torch.rand(g.weight_shape) < 0.5, ordered(torch.randn(g.output_shape).double(), NHWC)
    with torch.no_grad():
        leaves[1].mul_(keep)
    calls, op = [], torch.ops.snn_sparse.winograd_grad_input
    monkeypatch.setattr(torch.ops.snn_sparse, "winograd_grad_input", lambda *a: calls.append(1) or op(*a))
    found = step(g, LayerConfiguration.of_spikes(keep, spikes), leaves, grad)
    assert calls == [1]
    for a, b in zip(found, step(g, LayerConfiguration(keep), leaves, grad), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert calls == [1]


@pytest.mark.parametrize(
    "g",
    [
        ConvGeometry(1, 8, 8, 8, 5, 5, (3, 3), 2, 1),
        ConvGeometry(1, 8, 8, 8, 5, 5, (3, 3), 1, 3),
        ConvGeometry(1, 8, 8, 8, 5, 5, (1, 3), 1, 1),
    ],
    ids=["stride", "padding", "kernel"],
)
def test_other_windows_are_left_to_torch(g, monkeypatch):
    assert not takes_winograd(g)
    monkeypatch.setattr(torch.ops.snn_sparse, "winograd_grad_input", None)
    x = ordered((torch.rand(g.input_shape) < 0.2).float(), NHWC).requires_grad_()
    leaves = x, torch.randn(g.weight_shape, requires_grad=True), torch.randn(g.outputs, requires_grad=True)
    grad = torch.randn(g.output_shape)
    found = step(g, LayerConfiguration.of_spikes(None, SpikeConfiguration(True, True, True)), leaves, grad)
    for a, b in zip(found, step(g, LayerConfiguration(), leaves, grad), strict=True):
        assert torch.equal(a, b)


WRONG = {
    "grad must have 4 dimensions": lambda g, w: (g[0], w, 4, 4, 1),
    "grad must be contiguous": lambda g, w: (g.transpose(1, 2), w, 4, 4, 1),
    "grad must be float32 or float64": lambda g, w: (g.half(), w, 4, 4, 1),
    "weight must be Float": lambda g, w: (g, w.double(), 4, 4, 1),
    r"weight must be \[Cout, Cin, 3, 3\]": lambda g, w: (g, w[..., :2].contiguous(), 4, 4, 1),
    "as many filters as grad has channels": lambda g, w: (g, w[1:], 4, 4, 1),
    "padding must be in 0..2, got 3": lambda g, w: (g, w, 4, 4, 3),
    "size does not follow from height": lambda g, w: (g, w, 5, 4, 1),
    "must not be empty": lambda g, w: (g[:0], w, 4, 4, 1),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_arguments(message):
    grad, weight = torch.randn(2, 4, 4, 6), torch.randn(6, 5, 3, 3)
    with pytest.raises(RuntimeError, match=message):
        torch.ops.snn_sparse.winograd_grad_input(*WRONG[message](grad, weight))
