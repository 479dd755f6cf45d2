"""The original neuron module as the oracle of how it was recognised: spikes, gradients, and the state between calls."""

import copy

import torch

from snn_sparse.ops import plain_neuron


def theirs(module, found, x):
    """Spikes ``[T, N, ...]`` of the module itself."""
    if found.time_axis is not None:
        return module(x.movedim(0, found.time_axis)).movedim(found.time_axis, 0)
    spikes, state = [], None
    for step in x:
        if found.explicit:
            answer = module(step) if state is None and found.state is not None else module(step, state)
        else:
            answer = module(step)
        if found.returns_potential:
            answer, state = answer
        spikes.append(answer)
    return torch.stack(spikes)


def recognised(module, found, x):
    """The same by the definition of our neuron, with the state that the module keeps."""
    spec, rate = found.read(module)
    v = found.start(module, x[0])
    spikes, v = plain_neuron(x if found.gain == 1.0 else x * found.gain, spec, rate=rate, v=v)
    found.finish(module, v)
    return spikes


def parameters(module):
    return [p for p in module.parameters() if p.requires_grad]


def gradients(spikes, x, module, weight):
    wanted = [x, *parameters(module)]
    return torch.autograd.grad((spikes.to(weight.dtype) * weight).sum(), wanted, allow_unused=True, retain_graph=True)


def assert_same(module, found, shape, scale=1.0, dtype=torch.float64):
    """Three calls in a row: the module, ours, and the module from the state that ours left behind."""
    assert not isinstance(found, str), found
    original = copy.deepcopy(module).to(dtype)
    twin = copy.deepcopy(original)
    tolerance = 1e-6 if dtype == torch.float64 else 1e-4  # in float64, for those that answer in float32
    fired = 0.0
    for call in range(3):
        x = (torch.randn(shape, dtype=dtype) * 2 * scale).requires_grad_()
        weight = torch.randn(shape, dtype=dtype)
        a = theirs(original, found, x)
        b = recognised(twin, found, x) if call < 2 else theirs(twin, found, x)
        torch.testing.assert_close(b.to(dtype), a.to(dtype), rtol=0, atol=0)
        both = zip(gradients(a, x, original, weight), gradients(b, x, twin, weight), strict=True)
        for ga, gb in ((ga, gb) for ga, gb in both if ga is not None or gb is not None):
            largest = float(ga.abs().max()) if ga.dim() else float(weight.abs().sum())  # a parameter sums up
            torch.testing.assert_close(gb, ga, rtol=tolerance, atol=tolerance * largest)
        if found.state is not None:
            assert_same_state(found, original, twin)
        fired += float(a.detach().mean())
    assert 0 < fired < 3  # else the comparison says nothing


def assert_same_state(found, original, twin):
    kept, ours = (getattr(m, found.state) for m in (original, twin))
    if found.settle is not None:
        kept, ours = (found.settle(m, v) for m, v in ((original, kept), (twin, ours)))
    torch.testing.assert_close(ours.detach(), kept.detach(), rtol=1e-6, atol=1e-6)
