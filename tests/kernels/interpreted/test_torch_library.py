"""The kernels as ``torch.library`` operators: schemas, fakes, gradients, and what torch builds on them."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from snn_sparse.ops import image_batch, optimizer_step, self_check_cases
from snn_sparse.ops.batch_statistics import reference as plain_statistics
from snn_sparse.ops.fused_neuron import NeuronSpec, Norm, reference
from snn_sparse.ops.neuron import Firing
from snn_sparse.ops.neuron_operator import Given, Settings
from snn_sparse.ops.neuron_sequence import neuron_sequence
from snn_sparse.ops.packed_conv import packed_conv2d, run_direction
from snn_sparse.ops.self_check import find_problem
from snn_sparse.ops.spike_bits import Packed, plain_pack, plain_unpack, unpack_spikes

OPS = torch.ops.snn_sparse
T, SHAPE = 3, (2, 5, 4, 6)


def draw(channels_last=False, timesteps=T, dtype=torch.float32):
    n, c, h, w = SHAPE
    if channels_last:
        return torch.randn(timesteps, n, h, w, c, dtype=dtype).movedim(-1, 2).requires_grad_()
    return torch.randn(timesteps, *SHAPE, dtype=dtype).requires_grad_()


def norm(channels=SHAPE[1], steps=T, training=True):
    leaves = torch.rand(2, channels).add_(0.5).requires_grad_()
    running = torch.zeros(channels), torch.ones(channels)
    return Norm(*leaves.unbind(), *running, (0.1,) * steps, training)


def arguments(packed, channels_last, pool=False, residual=False, **options):
    y, n = draw(channels_last), norm()
    mean, invstd = plain_statistics(y.detach(), None, None, n.factors, False, n.eps)
    other, bits = (draw(), plain_pack((draw() > 0).float())) if residual else (None, None)
    given = Given(y, mean, invstd, n.weight, n.bias, other, None, None, None, None, bits, None, None)
    return (*given, *Settings.of(NeuronSpec(), T, n, None, pool), packed, options.get("final_v", False))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_opcheck_neuron(packed, channels_last):
    given = arguments(packed, channels_last, pool=channels_last, residual=not channels_last, final_v=packed)
    torch.library.opcheck(OPS.neuron_sequence.default, given)


def test_opcheck_the_others():
    y, running = draw().detach(), (torch.zeros(5), torch.ones(5))
    torch.library.opcheck(OPS.batch_statistics.default, (y, None, torch.randn(5), *running, [0.1] * T, False, 1e-5))
    torch.library.opcheck(OPS.batch_statistics.default, (y, None, None, None, None, [0.1], True, 1e-5))
    for channels_last in (False, True):
        spikes = (draw(channels_last).detach() > 0).float()
        carrier, bits = torch.empty(1).expand(spikes.shape).requires_grad_(), plain_pack(spikes)
        torch.library.opcheck(OPS.unpack_spikes.default, (carrier, bits))
        weight, bias = torch.randn(7, 5, 3, 3, requires_grad=True), torch.randn(7, requires_grad=True)
        for dtype, adds_bias in ((torch.float32, True), (torch.float16, False)):
            by_torch = (dtype, [2, 1], [1, 0], None, [], [], adds_bias, False)
            torch.library.opcheck(OPS.packed_conv2d.default, (carrier, bits, weight, bias, *by_torch))


def block(x, weight, norms, spec, conv_weight):
    """Two neurons with packed spikes between them, read by a convolution and as a residual."""
    spikes, _ = neuron_sequence(x, spec, T, norm=norms[0], packed=True)
    y, _ = packed_conv2d(spikes, conv_weight, None, [1, 1], [1, 1])
    out, _ = neuron_sequence(y, spec, T, norm=norms[1], residual=spikes, pool=True, w=weight)
    return out


def plain_block(x, weight, norms, spec, conv_weight):
    spikes, _ = reference(x, spec, T, norms[0])
    y = torch.nn.functional.conv2d(spikes.flatten(0, 1), conv_weight, None, 1, 1).unflatten(0, (T, -1))
    return reference(y, spec, T, norms[1], spikes, None, weight, pool=True)[0]


def block_case():
    return draw(), None, (norm(), norm()), NeuronSpec(firing=Firing(v_reset=None)), torch.randn(5, 5, 3, 3) * 0.3


def gradients(out, case):
    leaves = [case[0], *(p for n in case[2] for p in (n.weight, n.bias))]
    return torch.autograd.grad((out * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum(), leaves)


def same(found, expected):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_block_against_plain():
    case = block_case()
    out, expected = block(*case), plain_block(*case)
    assert torch.equal(out, expected)
    same(gradients(out, case), gradients(expected, case))


def test_compile_fullgraph():
    case = block_case()
    expected = block(*case)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")(*case)
    assert torch.equal(compiled, expected)
    same(gradients(compiled, case), gradients(expected, case))


def test_export():
    class Net(torch.nn.Module):
        def forward(self, x):
            packed, _ = neuron_sequence(x, NeuronSpec(), T, packed=True)
            return unpack_spikes(packed)

    x = draw().detach()
    program = torch.export.export(Net(), (x,))
    assert torch.equal(program.module()(x), reference(x, NeuronSpec(), T)[0])


def test_activation_checkpointing():
    case = block_case()
    expected = gradients(block(*case), case)
    out = checkpoint(block, *case, use_reentrant=False)
    same(gradients(out, case), expected)


def test_second_derivative_is_refused():
    y = draw()
    out, _ = neuron_sequence(y, NeuronSpec(), T)
    (grad,) = torch.autograd.grad(out.sum(), y, create_graph=True)
    with pytest.raises(RuntimeError, match="only once"):
        grad.sum().backward()


def test_plif_gets_the_gradient_of_w():
    y, w = draw(), torch.tensor(0.3, requires_grad=True)
    results = []
    for run in (reference, None):
        spec = NeuronSpec("plif", firing=Firing(detach_reset=False))
        out = run(y, spec, T, w=w)[0] if run else neuron_sequence(y, spec, T, w=w)[0]
        results.append(torch.autograd.grad((out * y.detach()).sum(), (y, w)))
    same(results[1], results[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("channels_last", [False, True])
def test_bits_hold_the_spikes(dtype, channels_last):
    y = draw(channels_last, dtype=dtype).detach()
    dense, _ = neuron_sequence(y, NeuronSpec(), T)
    packed, v = neuron_sequence(y, NeuronSpec(), T, packed=True, final_v=True)
    assert isinstance(packed, Packed)
    assert torch.equal(packed.bits, plain_pack(dense))
    assert torch.equal(plain_unpack(packed.bits, dense.shape, dtype), dense)
    unpacked = unpack_spikes(packed)
    assert torch.equal(unpacked, dense)
    assert unpacked.stride() == dense.stride() == y.stride()
    assert v.shape == SHAPE


def test_wrong_arguments():
    y = draw()
    for error, match, call in [
        (ValueError, "timesteps", {"timesteps": 0}),
        (ValueError, "y must be", {"timesteps": 2}),
        (ValueError, "residual", {"residual": y[:, :1]}),
        (ValueError, "v must be", {"v": y[0, :1]}),
        (ValueError, "w must be", {"w": torch.zeros(1)}),
        (ValueError, "norm_residual", {"norm_residual": norm()}),
        (TypeError, "y must be", {"y": y.int()}),
    ]:
        with pytest.raises(error, match=match):
            neuron_sequence(**{"y": y, "spec": NeuronSpec(), "timesteps": T, **call})
    with pytest.raises(TypeError, match="packed must be"):
        unpack_spikes(y)
    with pytest.raises(TypeError, match="packed must be"):
        packed_conv2d(y, torch.zeros(1, 5, 1, 1), None, [1, 1], [0, 0])


@pytest.mark.parametrize("family", sorted(self_check_cases.CHECKS))
def test_the_first_use_check_passes(family):
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):  # wherever it comes first
        assert find_problem(torch.device("cpu"), family) is None


def test_the_first_use_check_finds_a_wrong_kernel(monkeypatch):
    def wrong(function):
        return lambda *a, **k: tuple(1 - r for r in function(*a, **k))

    cpu = torch.device("cpu")
    monkeypatch.setattr(self_check_cases, "NEURON_CASES", ((False, True),))
    monkeypatch.setattr(self_check_cases, "reference", wrong(reference))
    assert find_problem(cpu) == "spikes differ"
    assert find_problem(cpu, "convolution").startswith("spikes differ")
    monkeypatch.setattr(self_check_cases, "run_direction", lambda *a: 1.01 * run_direction(*a))
    assert find_problem(cpu, "convolution").startswith("output differs")
    monkeypatch.setattr(optimizer_step, "adam_step", lambda *a, **k: None)
    assert find_problem(cpu, "optimizer") == "AdamRule differs"
    monkeypatch.setattr(image_batch, "reference", lambda *a: 1e-3 + image_batch.normalise(a[0][a[1]], *a[2:4]))
    assert find_problem(cpu, "batches") == "batches differ"
