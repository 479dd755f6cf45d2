"""A network and its fused twin, called with the same inputs: what tests of the compiler compare."""

import copy
import random

import torch
from torch.utils._pytree import tree_leaves

import snn_sparse as ss
from snn_sparse.fusion.repeatable import Repeatable


def built(network, seed=1):
    """A network of the zoo and its inputs, in float64 where it can."""
    torch.manual_seed(seed)
    dtype = torch.float64 if network.float64 else torch.float32
    model = network.build().to(dtype)
    for module in model.modules():  # potentials that are no buffers
        for key, value in module.__dict__.items():
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                module.__dict__[key] = value.to(dtype)
    network.reset(model)
    return model, drawn(network)


def drawn(network):
    """Inputs of a network, in the dtype of :func:`built`."""
    return tuple(x.to(torch.float64 if network.float64 else torch.float32) for x in network.inputs())


def twins(model, *example, **options):
    """A network, and another with the same numbers, fused."""
    options.setdefault("verify", False)  # so that nothing is put back quietly
    return model, ss.fuse(copy.deepcopy(model), *example, **options)


def outputs(model, inputs):
    """All tensors that a network answers, dropout and Python's random numbers made repeatable."""
    random.seed(0)
    with Repeatable():
        return [y for y in tree_leaves(model(*inputs)) if isinstance(y, torch.Tensor)]


def gradients(model, inputs, found):
    """Of a random linear loss, by name: of all parameters and inputs."""
    generator = torch.Generator().manual_seed(2)
    loss = sum((y * torch.randn(y.shape, generator=generator, dtype=y.dtype)).sum() for y in found if y.requires_grad)
    wanted = dict(model.named_parameters()) | {f"input {i}": x for i, x in enumerate(inputs) if x.requires_grad}
    grads = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
    return {n: torch.zeros_like(v) if g is None else g for (n, v), g in zip(wanted.items(), grads, strict=True)}


def neurons_fused(fused):
    """How many modules that were recognised as neurons run inside stages, in what ran last."""
    last = fused.__dict__["_fused_compiler"].last
    return 0 if last is None else len(set(last.sites.neurons) & set(ss.explain(fused).fused))


def largest(values):
    """The largest magnitude among tensors."""
    return max((float(v.detach().abs().max()) for v in values if v.numel()), default=0.0)


def assert_same(actual, expected, tolerance, what=""):
    """Lists or dictionaries of tensors agree, relative to the largest entry of all."""
    assert len(actual) == len(expected), what
    pairs = [(k, actual[k], expected[k]) for k in (expected if isinstance(expected, dict) else range(len(expected)))]
    scale = max(largest([e for _, _, e in pairs]), 1e-30)
    for key, a, e in pairs:
        assert a.shape == e.shape, (what, key)
        assert a.dtype == e.dtype, (what, key)
        assert bool((a - e).detach().abs().max() <= tolerance * scale if a.numel() else True), (what, key)


def assert_equivalent(model, fused, draw, reset, *, outputs_to=1e-9, gradients_to=1e-7):
    """Two calls with a state in between, a third after a reset, and one without gradients in eval mode agree.

    Args:
        model: the original.
        fused: its twin.
        draw: gives inputs, each time others.
        reset: forgets the state of either.
        outputs_to: largest relative difference of outputs and buffers.
        gradients_to: of gradients.
    """
    reset(model), reset(fused)
    for what in ("first call", "second call", "after a reset"):
        inputs = draw()
        found = []
        for one in (model, fused):
            if what == "after a reset":
                reset(one)
            given = tuple(x.clone().requires_grad_(x.is_floating_point()) for x in inputs)
            out = outputs(one, given)
            grads = {} if what == "second call" else gradients(one, given, out)  # its graph reaches into the first
            found.append((out, grads, buffers(one)))
        assert_same(found[1][0], found[0][0], outputs_to, f"{what}: outputs")
        assert_same(found[1][1], found[0][1], gradients_to, f"{what}: gradients")
        assert_same(found[1][2], found[0][2], outputs_to, f"{what}: buffers")
    model.eval(), fused.eval()
    reset(model), reset(fused)
    for _ in range(2):
        inputs = draw()
        with torch.no_grad():
            assert_same(outputs(fused, inputs), outputs(model, inputs), outputs_to, "eval")
    assert_same(buffers(fused), buffers(model), outputs_to, "eval: buffers")


def buffers(model):
    """All buffers as numbers; not the potentials that snnTorch keeps as buffers, which may differ where it fired."""
    names = ("mem", "syn", "spk")
    return {n: b.detach().double().clone() for n, b in model.named_buffers() if n.rpartition(".")[2] not in names}
