"""The function around the operator: strides, dtypes, what backward keeps, what is refused."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2]))
import cpp_case
from neuron_cases import assert_near, norm_of, twin_of

from snn_sparse.ops import Norm, Packed, neuron_sequence, plain_neuron, plain_stage
from snn_sparse.ops.neuron.call import Settings, Tensors
from snn_sparse.ops.spikes import NCHW, NHWC, MemoryFormat, convert, format_of, ordered, plain_pack
from snn_sparse.specs import BatchNormSpec, NeuronSpec

pytestmark = cpp_case.needs_cpp
T, SHAPE = 4, (3, 5, 6, 7)


STRIDED = {
    "contiguous": lambda *s: torch.randn(*s, dtype=torch.float64),
    "channels last": lambda *s: ordered(torch.randn(*s, dtype=torch.float64), NHWC),
    "sliced": lambda t, n, c, h, w: torch.randn(n, t, c + 1, h, 2 * w, dtype=torch.float64).transpose(0, 1)[
        :, :, 1:, :, ::2
    ],
    "expanded": lambda t, n, c, h, w: torch.randn(n, 1, h, w, dtype=torch.float64).expand(t, n, c, h, w),
}


@pytest.mark.parametrize("strided", STRIDED)
@pytest.mark.parametrize("pool", [False, True])
def test_any_strides(strided, pool):
    y, residual = (STRIDED[strided](T, *SHAPE).requires_grad_() for _ in range(2))
    v = STRIDED[strided](*(1, *SHAPE))[0].requires_grad_()
    first = norm_of(SHAPE[1], T)
    found = []
    for run, norm in ((plain_stage, first), (neuron_sequence, twin_of(first))):
        call = {"norm": norm, "residual": residual, "v": v, "pool": pool}
        spikes, last = run(y, NeuronSpec(), T, **call, **({"final_v": True} if run is neuron_sequence else {}))
        weights = torch.linspace(-1, 1, spikes.numel(), dtype=y.dtype).view(spikes.shape).transpose(-1, -2)
        loss = (spikes.transpose(-1, -2) * weights).sum() + last.sum()
        grads = torch.autograd.grad(loss, (y, residual, v, norm.weight, norm.bias))
        found.append((spikes, last, *grads, norm.running_mean, norm.running_var))
    assert torch.equal(found[0][0], found[1][0])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(b, a)
    assert format_of(found[1][0]) == (NHWC if strided == "channels last" else NCHW)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("pool", [False, True])
def test_half_precision_runs_the_definition(dtype, pool):
    y = torch.randn(T, *SHAPE, dtype=dtype)
    spikes, v = neuron_sequence(y, NeuronSpec(), T, pool=pool, final_v=True)
    for a, b in zip((spikes, v), plain_stage(y, NeuronSpec(), T, pool=pool), strict=True):
        assert torch.equal(a, b)
        assert a.dtype == dtype


@pytest.mark.parametrize("y_format", [NCHW, NHWC, MemoryFormat("lanes", 3)], ids=lambda f: f.kind)
@pytest.mark.parametrize("out_format", [None, NCHW, MemoryFormat("lanes", 2)], ids=lambda f: f and f.kind)
def test_the_definition_in_every_format(monkeypatch, y_format, out_format):
    """Where the C++ operator does not take over, formats are kept all the same."""
    spec, sizes = NeuronSpec(v_reset=None), (T, *SHAPE)
    y, residual = torch.randn(2, *sizes, dtype=torch.float64).unbind()
    stored = [
        ordered(x, y_format) if y_format.kind != "lanes" else convert(x, sizes, NCHW, y_format) for x in (y, residual)
    ]
    expected, v = plain_stage(y, spec, T, residual=residual)
    monkeypatch.setattr("snn_sparse.ops.neuron.op.implementation", lambda *_: "plain")
    call = {"images": SHAPE[0], "constant": False, "memory_format": y_format, "residual_format": y_format}
    spikes, last = neuron_sequence(stored[0], spec, T, residual=stored[1], **call, out_format=out_format, final_v=True)
    if out_format is not None and out_format.kind == "lanes":
        spikes = convert(spikes, sizes, out_format, NCHW)
    elif out_format is None and y_format.kind == "lanes":
        spikes = convert(spikes, sizes, y_format, NCHW)
    assert torch.equal(spikes, expected)
    assert torch.equal(last, v)


def test_more_timesteps_than_the_triton_kernels_know():
    y = torch.randn(40, 2, 3, 1, 1, dtype=torch.float64)
    assert torch.equal(neuron_sequence(y, NeuronSpec(), 40)[0], plain_stage(y, NeuronSpec(), 40)[0])


def test_no_final_potential_unless_asked():
    y = torch.randn(T, *SHAPE)
    spikes, v = neuron_sequence(y, NeuronSpec(), T)
    again, last = neuron_sequence(y, NeuronSpec(), T, final_v=True)
    assert v is None
    assert torch.equal(spikes, again)
    assert last.shape == SHAPE


def test_a_sequence_may_be_cut_in_two():
    y, spec = torch.randn(7, *SHAPE), NeuronSpec("plif", v_reset=None)
    rate = torch.tensor(0.4)
    whole, end = neuron_sequence(y, spec, 7, rate=rate, final_v=True)
    first, v = neuron_sequence(y[:3], spec, 3, rate=rate, final_v=True)
    second, v = neuron_sequence(y[3:], spec, 4, rate=rate, v=v, final_v=True)
    assert torch.equal(torch.cat([first, second]), whole)
    assert torch.equal(v, end)


def test_packed_is_dense_on_a_cpu_which_takes_packed_residuals():
    y = torch.randn(T, *SHAPE, dtype=torch.float64).requires_grad_()
    spikes, _ = neuron_sequence(y, NeuronSpec(), T, packed=True)
    assert isinstance(spikes, torch.Tensor)
    carrier = torch.zeros(1, dtype=y.dtype).expand(spikes.shape).requires_grad_()
    dense, weights = spikes.detach().clone().requires_grad_(), torch.randn_like(spikes)
    out, _ = neuron_sequence(y, NeuronSpec(), T, residual=Packed(carrier, plain_pack(spikes)))
    expected, _ = plain_stage(y, NeuronSpec(), T, None, dense)
    assert torch.equal(out, expected)
    for run, leaf in ((out, carrier), (expected, dense)):
        (run * weights).sum().backward()
        assert leaf.grad.abs().max() > 0
    torch.testing.assert_close(carrier.grad, dense.grad)


def test_compiles_into_one_graph():
    y, spec = torch.randn(T, *SHAPE), NeuronSpec()

    def run(x):
        return neuron_sequence(x, spec, T, pool=True)[0]

    assert torch.equal(torch.compile(run, fullgraph=True, backend="aot_eager")(y), run(y))


# ---- backward --------------------------------------------------------------------------------------------------------


def test_a_tie_sends_the_gradient_to_the_first_maximum():
    for value in (5.0, -5.0):  # all spike, none does
        grads = []
        for run in (plain_stage, neuron_sequence):
            y = torch.full((1, 1, 1, 2, 2), value, dtype=torch.float64, requires_grad=True)
            run(y, NeuronSpec(), 1, pool=True)[0].sum().backward()
            grads.append(y.grad)
        assert (grads[1] != 0).flatten().tolist() == [True, False, False, False]
        assert_near(*grads, 1e-12, "gradient")


def test_only_y_and_statistics_are_saved():
    """Nothing of the size of the neurons but the convolution's output itself is kept for backward."""
    kept = []
    y = torch.randn(4, 8, 16, 8, 8, requires_grad=True)
    norm = norm_of(16, 4, torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        neuron_sequence(y, NeuronSpec(), 4, norm=norm)
    large = [t for t in kept if t is not None and t.numel() > 1000]
    assert [t.data_ptr() for t in large] == [y.data_ptr()]


def test_only_what_needs_a_gradient_has_one():
    y, v = torch.randn(T, *SHAPE), torch.randn(SHAPE, requires_grad=True)
    weight = torch.ones(SHAPE[1], requires_grad=True)
    norm = Norm(BatchNormSpec(), weight, torch.zeros(SHAPE[1]), factors=(0.0,) * T)
    spikes, last = neuron_sequence(y, NeuronSpec(), T, norm=norm, v=v, final_v=True)
    spikes.sum().backward(retain_graph=True)
    assert y.grad is None
    expected = weight.grad.clone(), v.grad.clone()
    assert expected[0].abs().max() > 0
    last.sum().backward()  # of the potential alone
    assert not torch.equal(weight.grad, expected[0])
    assert not torch.equal(v.grad, expected[1])


@pytest.mark.parametrize("loss", [torch.sum, lambda s: (s * s).sum()], ids=["linear", "square"])
def test_second_derivatives_are_refused(loss):
    y, v = torch.randn(2, 2, 2, 2, 2, requires_grad=True), torch.randn(2, 2, 2, 2, requires_grad=True)
    weight = torch.ones(2, requires_grad=True)
    norm = Norm(BatchNormSpec(), weight, factors=(0.0, 0.0))
    spikes, _ = neuron_sequence(y, NeuronSpec(), 2, norm=norm, v=v)
    for leaf in (y, v, weight):
        (first,) = torch.autograd.grad(loss(spikes), leaf, create_graph=True)
        for other in (y, v, weight):
            with pytest.raises(RuntimeError, match="neuron can be differentiated only once"):
                torch.autograd.grad(first.sum(), other, retain_graph=True)


# ---- refusals --------------------------------------------------------------------------------------------------------

Y = torch.zeros(T, *SHAPE)
REFUSED = [
    (ValueError, "timesteps must be at least 1", {"timesteps": 0}),
    (ValueError, "y must be", {"timesteps": 3}),
    (ValueError, "y must be .*not empty", {"y": Y[:, :0]}),
    (ValueError, "y must be", {"y": Y[0]}),
    (ValueError, "y must have maps of at least 2x2 for pool", {"y": Y[..., :1], "pool": True}),
    (ValueError, "residual must be", {"residual": Y[:, :1]}),
    (ValueError, "residual must be", {"residual": Y[:1]}),
    (ValueError, "norm_residual needs", {"norm_residual": Norm(BatchNormSpec())}),
    (ValueError, "v must be", {"v": Y[0, :1]}),
    (ValueError, "rate must be", {"rate": torch.zeros(1)}),
    (ValueError, "rate must be", {"spec": NeuronSpec("plif")}),
    (ValueError, "rate must be", {"spec": NeuronSpec("plif"), "rate": 0.5}),
    (ValueError, "rate must be", {"spec": NeuronSpec("plif"), "rate": torch.zeros(2)}),
    (ValueError, "rate must be", {"spec": NeuronSpec("leaky"), "rate": torch.zeros(2)}),
    (TypeError, "y must be", {"y": Y.int()}),
    (TypeError, "y must be", {"y": None}),
]


@pytest.mark.parametrize(("error", "match", "call"), REFUSED)
def test_wrong_arguments(error, match, call):
    with pytest.raises(error, match=match):
        neuron_sequence(**{"y": Y, "spec": NeuronSpec(), "timesteps": T, **call})


def affine(length, dtype=torch.float32):
    return Norm(BatchNormSpec(), torch.ones(length, dtype=dtype), None, factors=(0.0,) * T)


@pytest.mark.parametrize(
    ("match", "call"),
    [
        ("neuron: weight", {"norm": affine(4)}),
        ("neuron: weight", {"norm": affine(5, torch.float64)}),
        ("neuron: weight_r", {"norm_residual": affine(6), "residual": Y}),
        ("running_mean and running_var go together", {"norm": Norm(BatchNormSpec(), running_mean=torch.zeros(5))}),
        ("factors must be 4", {"norm": Norm(BatchNormSpec(), None, None, torch.zeros(5), torch.ones(5), (0.1,))}),
        ("images|y", {"memory_format": NCHW, "images": 4}),
        ("y", {"memory_format": MemoryFormat("lanes", 2), "images": 3}),
        ("format_out", {"out_format": MemoryFormat("lanes", 9)}),
    ],
)
def test_the_operator_refuses_what_would_go_astray(match, call):
    with pytest.raises((RuntimeError, ValueError), match=match):
        neuron_sequence(Y, NeuronSpec(), T, **call)


@pytest.mark.parametrize(
    ("match", "numbers"),
    [
        ("kind must be in 0..3", {"kind": 4}),
        ("rate goes with plif", {"kind": 1}),
        ("decay must be finite", {"decay": float("nan")}),
        ("fires_at must be finite", {"fires_at": float("inf")}),
        ("late must be finite", {"late": float("nan")}),
        ("late needs kind leaky", {"late": 1.0}),
        ("late needs kind leaky", {"late": 1.0, "kind": 3}),  # with a hard reset
        ("late needs kind leaky", {"late": 1.0, "kind": 3, "hard_reset": False, "detach_reset": False}),
        ("surrogate must be in 0..5", {"surrogate": 6}),
        ("peak must be positive", {"peak": 0.0}),
        ("slope must be positive", {"slope": float("nan")}),
    ],
)
def test_the_operator_refuses_numbers(match, numbers):
    s = Settings.of(NeuronSpec(), T, SHAPE[0])._replace(**numbers)
    with pytest.raises(RuntimeError, match=f"neuron: {match}"):
        torch.ops.snn_sparse.neuron(*Tensors(Y), *s, False, False, 0, 0)


def test_the_smallest_call():
    y = torch.full((1, 1, 1, 1, 1), 2.0)
    assert neuron_sequence(y, NeuronSpec(), 1)[0].item() == 1
    assert plain_neuron(y, NeuronSpec())[0].item() == 1
