"""norse's LIFBoxCell: the module itself is the oracle. Its state is a named tuple."""

import copy

import pytest
import torch

from snn_sparse.fusion.neurons import is_stateful, looks_like_neuron, recognise
from snn_sparse.ops import plain_neuron

norse = pytest.importorskip("norse.torch")
reset = pytest.importorskip("norse.torch.functional.reset")


def cell(**numbers):
    return norse.LIFBoxCell(norse.LIFBoxParameters(**{k: as_number(v) for k, v in numbers.items()}))


def as_number(value):
    return torch.as_tensor(value) if isinstance(value, float) else value


def found_for(module):
    return recognise(module, [torch.Size((3, 4))], 6, {})


@pytest.mark.parametrize(
    "numbers",
    [
        {},
        {"tau_mem_inv": 300.0, "v_th": 0.4},
        {"v_leak": -0.25, "v_reset": -0.25},
        {"method": "triangle", "alpha": 0.3},
        {"reset_method": reset.reset_subtract, "v_th": 0.3},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_lif_box(numbers, dtype):
    module = cell(**numbers)
    found = found_for(module)
    assert not isinstance(found, str), found
    assert looks_like_neuron(module)
    assert not is_stateful(module)
    spec, rate = found.read(module)
    state = None
    for _ in range(2):
        x = (torch.randn(8, 3, 4, dtype=dtype) * 20).requires_grad_()
        v = found.start(module, x[0], found.unpack(copy.deepcopy(state)))
        a = []
        for step in x:
            s, state = module(step, state)
            a.append(s)
        a = torch.stack(a)
        b, v = plain_neuron(x, spec, rate=rate, v=v)
        assert torch.equal(a, b)
        assert 0 < float(a.detach().mean()) < 1
        weight = torch.randn_like(a)
        ga, gb = (torch.autograd.grad((s * weight).sum(), x)[0] for s in (a, b))
        torch.testing.assert_close(gb, ga, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.unpack(found.pack(v)), state.v, rtol=1e-6, atol=1e-6)
        state = type(state)(v=state.v.detach())


@pytest.mark.parametrize(
    "module",
    [
        pytest.param(lambda: cell(v_leak=0.5), id="leaks elsewhere"),
        pytest.param(lambda: cell(method="circ"), id="surrogate"),
        pytest.param(lambda: cell(method="heaviside"), id="no surrogate"),
        pytest.param(lambda: cell(v_th=torch.rand(4)), id="threshold per neuron"),
        pytest.param(norse.LIFCell, id="two states"),
        pytest.param(norse.IAFCell, id="another cell"),
    ],
)
def test_refused(module):
    reason = found_for(module())
    assert isinstance(reason, str)
    assert "\n" not in reason
