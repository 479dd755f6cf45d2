"""The operators as ``torch.library`` sees them: schemas, fakes, gradients, and what torch builds on them."""

from dataclasses import replace

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from snn_sparse.ops import Norm, Packed, convolution, neuron_sequence, plain_stage, unpack_spikes
from snn_sparse.ops.backend import find_problem
from snn_sparse.ops.convolution import Directions, Grouper, TileConfiguration, convolution_neuron, tiled
from snn_sparse.ops.convolution import check as convolution_check
from snn_sparse.ops.neuron import check as neuron_check
from snn_sparse.ops.neuron import plain_statistics
from snn_sparse.ops.neuron.call import DIFFERENTIABLE, Settings, Tensors
from snn_sparse.ops.spikes import NCHW, NHWC, ordered, plain_pack, plain_unpack
from snn_sparse.specs import BatchNormSpec, NeuronSpec

LIF = NeuronSpec()
OPS, CPU = torch.ops.snn_sparse, torch.device("cpu")
T, SHAPE = 2, (2, 3, 4, 6)
BLOCK = TileConfiguration(32, 32, 32)


def draw(memory_format=NCHW, timesteps=T, dtype=torch.float32):
    return ordered(torch.randn(timesteps, *SHAPE, dtype=dtype), memory_format).requires_grad_()


def draw_packed(memory_format=NCHW):
    spikes = (draw(memory_format).detach() > 0).float()
    return Packed(torch.zeros(1).expand(spikes.shape).requires_grad_(), plain_pack(spikes))


def norm(channels=SHAPE[1], steps=T, frozen=False):
    leaves = torch.rand(2, channels).add_(0.5).requires_grad_()
    return Norm(
        BatchNormSpec(frozen=frozen), *leaves.unbind(), torch.zeros(channels), torch.ones(channels), (0.1,) * steps
    )


def neuron_arguments(memory_format, pool=False, residual=None, neuron=LIF):
    y, n = draw(memory_format), norm()
    mean, invstd = plain_statistics(y.detach(), None, None, n.factors, False, n.spec.eps)
    spread = torch.stack([invstd, invstd * n.weight.detach(), n.bias.detach() - mean * invstd * n.weight.detach()], 1)
    given = {"mean": mean, "spread": spread, "weight": n.weight.detach().requires_grad_(), "bias": n.bias.detach()}
    if residual == "bits":
        given["residual"], given["bits_r"] = draw_packed(memory_format)
    elif residual:
        given["residual"] = draw(memory_format)
    if neuron.kind in ("plif", "leaky"):
        given["rate"] = torch.tensor([0.5], requires_grad=True)
    if residual:
        given["v"] = draw(memory_format)[0].detach().requires_grad_()
    return Tensors(y, **given), Settings.of(neuron, T, SHAPE[0], norm=n, pool=pool, formats=(memory_format,) * 3)


@pytest.mark.parametrize(
    ("packed", "memory_format", "residual", "neuron"),
    [
        (False, NCHW, "dense", NeuronSpec("plif")),
        (True, NHWC, None, LIF),
        (True, NCHW, "bits", NeuronSpec("if")),
        (False, NHWC, "bits", LIF),
        (False, NHWC, "dense", NeuronSpec("leaky", v_reset=None, late_reset=True, strict=True, surrogate="erf")),
    ],
)
def test_opcheck_neuron(packed, memory_format, residual, neuron):
    t, s = neuron_arguments(memory_format, memory_format == NHWC, residual, neuron)
    torch.library.opcheck(OPS.neuron.default, (*t, *s, packed, residual == "bits", 0, 0))
    needs = sum(1 << i for i, name in enumerate(DIFFERENTIABLE) if getattr(t, name) is not None)
    plain = Tensors(*[None if x is None else x.detach() for x in t])
    spikes, _, v, *_ = OPS.neuron(*plain, *s, packed, True, 0, 0)
    grad = ordered(torch.randn(spikes.shape), memory_format)
    checks = ("test_schema", "test_faketensor")  # it is no function of its own to differentiate
    torch.library.opcheck(OPS.neuron_backward.default, (grad, v, *plain, *s, needs), test_utils=checks)
    torch.library.opcheck(OPS.neuron_backward.default, (None, v, *plain, *s, 1), test_utils=checks)
    with pytest.raises(ValueError, match="batch"):
        OPS.neuron(*plain, *s, packed, True, 1, 0)


def test_opcheck_statistics():
    y, running = draw().detach(), (torch.zeros(3), torch.ones(3))
    torch.library.opcheck(
        OPS.batch_statistics.default, (y, *torch.randn(2, 3), None, torch.randn(3), *running, [0.1] * T, False, 1e-5)
    )
    torch.library.opcheck(OPS.batch_statistics.default, (y, *[None] * 6, [0.1], True, 1e-5))


@pytest.mark.parametrize("memory_format", [NCHW, NHWC], ids=["nchw", "nhwc"])
def test_opcheck_unpacking(memory_format):
    torch.library.opcheck(OPS.unpack_spikes.default, tuple(draw_packed(memory_format)))


@pytest.mark.parametrize(
    ("dtype", "directions", "memory_format"),
    [
        (torch.float32, Directions(), NCHW),
        (torch.float16, Directions(), NHWC),
        (torch.float32, Directions(BLOCK, BLOCK, BLOCK), NHWC),
        (torch.bfloat16, Directions(output=BLOCK), NHWC),
    ],
    ids=["torch", "torch, float16", "all directions", "output"],
)
def test_opcheck_convolution(dtype, directions, memory_format):
    packed, mask = draw_packed(memory_format), torch.rand(7, 3, 1, 2) < 0.5
    weight, bias = torch.randn(mask.shape).mul_(mask).requires_grad_(), torch.randn(7, requires_grad=True)
    c = tiled(directions, Grouper(mask, mask.shape), CPU)
    by_kernel, how = directions.output is not None, (1, 1, c.keep, c.lists, c.numbers, True)
    torch.library.opcheck(OPS.convolution.default, (*packed, weight, bias, dtype, *how, False, by_kernel))
    y, _, saved = OPS.convolution(*packed, weight.detach(), None, dtype, *how, False, False)
    grad, shape = torch.randn_like(y.detach()), list(packed.carrier.shape)
    given = (grad, None, packed.bits, weight.detach(), saved.detach(), shape, memory_format == NHWC, *how, 7)
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(OPS.convolution_backward.default, given, test_utils=checks)


@pytest.mark.parametrize("pool", [False, True])
def test_opcheck_convolution_and_neuron(pool):
    carrier, bits = draw_packed(NHWC)
    weight, n = torch.randn(7, 3, 2, 2), norm(7, frozen=True)
    c = tiled(Directions(spikes=BLOCK), Grouper(None, weight.shape), CPU)
    given = (bits, weight, None, torch.bfloat16, list(carrier.shape), 1, 1, c.lists, c.numbers)
    given += (n.running_mean, n.running_var, n.weight.detach(), None, torch.tensor([0.5]), 1e-5)
    neuron = 1, 2.0, True, 1.0, 1.0, 1.0, 0.0, True, 0.0  # from kind to late
    torch.library.opcheck(OPS.convolution_neuron.default, (*given, *neuron, pool))


def block(x, norms, spec, conv_weight, how):
    """Two neurons with packed spikes between them, read by a convolution and as a residual."""
    spikes, _ = neuron_sequence(x, spec, T, norm=norms[0], packed=True)
    y, _ = convolution(spikes, conv_weight, None, 1, 1, how)
    return neuron_sequence(y, spec, T, norm=norms[1], residual=spikes, pool=True)[0]


def plain_block(x, norms, spec, conv_weight, _how):
    spikes, _ = plain_stage(x, spec, T, norms[0])
    y = torch.nn.functional.conv2d(spikes.flatten(0, 1), conv_weight, None, 1, 1).unflatten(0, (T, -1))
    return plain_stage(y, spec, T, norms[1], spikes, pool=True)[0]


def block_case():
    mask = torch.rand(3, 3, 3, 3) < 0.6
    weight = (torch.randn(mask.shape) * 0.3).mul_(mask).requires_grad_()
    how = tiled(Directions(BLOCK, BLOCK, None), Grouper(mask, mask.shape), CPU)
    return draw(NHWC), (norm(), norm()), NeuronSpec(v_reset=None), weight, how


def gradients(out, case):
    leaves = [case[0], *(p for n in case[1] for p in (n.weight, n.bias)), case[3]]
    found = torch.autograd.grad((out * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum(), leaves)
    return [*found[:-1], found[-1] * (case[3] != 0)]


def same(found, expected):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_block_plain_compiled_and_checkpointed():
    case = block_case()
    out, expected = block(*case), plain_block(*case)
    assert torch.equal(out, expected)
    wanted = gradients(expected, case)
    same(gradients(out, case), wanted)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")(*case)
    assert torch.equal(compiled, expected)
    same(gradients(compiled, case), wanted)
    same(gradients(checkpoint(block, *case, use_reentrant=False), case), wanted)


def test_export():
    class Net(torch.nn.Module):
        def forward(self, x):
            packed, _ = neuron_sequence(x, NeuronSpec(), T, packed=True)
            return unpack_spikes(packed)

    x = draw().detach()
    program = torch.export.export(Net(), (x,))
    assert torch.equal(program.module()(x), plain_stage(x, NeuronSpec(), T)[0])


def test_compiled_evaluation_in_one_kernel():
    packed, weight, n = draw_packed(NHWC), torch.randn(7, 3, 2, 2), norm(7, frozen=True)
    how = tiled(Directions(spikes=BLOCK), Grouper(None, weight.shape), CPU)

    def run(carrier, bits):
        return convolution_neuron(Packed(carrier, bits), weight, None, 1, 1, how, n, NeuronSpec(), pool=True).bits

    with torch.no_grad():
        assert torch.equal(torch.compile(run, fullgraph=True, backend="aot_eager")(*packed), run(*packed))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(dtype):
    packed, weight = draw_packed(NHWC), torch.randn(7, 3, 2, 2, requires_grad=True)
    how = tiled(Directions(BLOCK, BLOCK, BLOCK), Grouper(None, weight.shape), CPU)
    with torch.autocast("cpu", dtype=dtype):
        y, _ = convolution(packed, weight, None, 1, 1, how)
        spikes, _ = neuron_sequence(y, NeuronSpec(), T, norm=norm(7), packed=True)
        assert y.dtype == spikes.carrier.dtype == dtype
        unpack_spikes(spikes).sum().backward()
    assert weight.grad.dtype == packed.carrier.grad.dtype == torch.float32
    assert weight.grad.isfinite().all()
    assert weight.grad.any()


def test_second_derivative_is_refused():
    y, packed, weight = draw(), draw_packed(), torch.randn(7, 3, 1, 1, requires_grad=True)
    for out, leaf in (
        (neuron_sequence(y, NeuronSpec(), T)[0], y),
        (convolution(packed, weight, None, 1, 0)[0], weight),
    ):
        seed = torch.ones_like(out).requires_grad_()
        (grad,) = torch.autograd.grad(out, leaf, seed, create_graph=True)
        with pytest.raises(RuntimeError, match="only once"):
            grad.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [NCHW, NHWC], ids=["nchw", "nhwc"])
def test_bits_hold_the_spikes(dtype, memory_format):
    y = draw(memory_format, dtype=dtype).detach()
    dense, _ = neuron_sequence(y, NeuronSpec(), T)
    packed, v = neuron_sequence(y, NeuronSpec(), T, packed=True, final_v=True)
    assert isinstance(packed, Packed)
    assert torch.equal(packed.bits, plain_pack(dense))
    assert torch.equal(plain_unpack(packed.bits, dense.shape, dtype), dense)
    assert dense.stride() == y.stride()
    assert v.shape == SHAPE


def test_wrong_arguments():
    y = draw()
    for error, match, call in [
        (ValueError, "timesteps", {"timesteps": 0}),
        (ValueError, "y must be", {"timesteps": T + 1}),
        (ValueError, "residual", {"residual": y[:, :1]}),
        (ValueError, "v must be", {"v": y[0, :1]}),
        (ValueError, "rate must be", {"rate": torch.zeros(1)}),
        (ValueError, "norm_residual", {"norm_residual": norm()}),
        (TypeError, "y must be", {"y": y.int()}),
    ]:
        with pytest.raises(error, match=match):
            neuron_sequence(**{"y": y, "spec": NeuronSpec(), "timesteps": T, **call})


def test_more_steps_than_the_kernels_take_are_plain():
    packed = draw_packed()
    y = torch.randn(33, *SHAPE)
    residual = Packed(packed.carrier[:1].expand(33, *SHAPE), packed.bits[:1].expand(33, *packed.bits.shape[1:]))
    found, _ = neuron_sequence(y, NeuronSpec(), 33, residual=residual, packed=True)
    assert torch.equal(found, plain_stage(y, NeuronSpec(), 33, residual=unpack_spikes(residual))[0])


# ---- first-use checks ------------------------------------------------------------------------------------------------


@pytest.fixture
def _short_checks(monkeypatch):
    monkeypatch.setattr(neuron_check, "CASES", neuron_check.CASES[1:])
    monkeypatch.setattr(neuron_check, "SIZES", (2, 5, 5, 4))
    monkeypatch.setattr(
        convolution_check, "GEOMETRY", replace(convolution_check.GEOMETRY, steps=1, images=2, inputs=30)
    )


@pytest.mark.usefixtures("_short_checks")
@pytest.mark.parametrize("operator", ["neuron", "convolution"])
def test_the_first_use_check_passes(operator):
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):  # wherever it comes first
        assert find_problem(operator, CPU) is None


@pytest.mark.usefixtures("_short_checks")
@pytest.mark.parametrize("case", neuron_check.TRAINED)
def test_the_first_use_check_as_networks_train_on_a_gpu(case, monkeypatch):
    """The shuffled interpreter computes bfloat16 as hardware does; the check itself leaves it to a GPU."""
    assert (case.steps, case.channels_last, case.dtype) == (5, True, torch.bfloat16)
    assert neuron_check._check_case(CPU, case) is None
    monkeypatch.setattr(neuron_check, "plain_stage", lambda *a, **k: tuple(1 - r for r in plain_stage(*a, **k)))
    assert neuron_check._check_case(CPU, case).startswith("spikes differ, Case(steps=5")


@pytest.mark.usefixtures("_short_checks")
def test_the_first_use_check_finds_a_wrong_kernel(monkeypatch):
    def wrong(function):
        return lambda *a, **k: tuple(1 - r for r in function(*a, **k))

    monkeypatch.setattr(neuron_check, "plain_stage", wrong(plain_stage))
    assert find_problem("neuron", CPU) == "spikes differ"
    monkeypatch.setattr(convolution_check, "plain_stage", wrong(plain_stage))
    assert find_problem("convolution", CPU).startswith("spikes differ")
    real = convolution_check.run_direction
    monkeypatch.setattr(convolution_check, "run_direction", lambda *a: 1.01 * real(*a))
    assert find_problem("convolution", CPU).startswith("output differs")
