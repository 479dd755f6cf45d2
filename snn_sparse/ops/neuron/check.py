"""First-use check of the neuron's kernels: small random cases, forward and backward, against the plain definition."""

from typing import Any

import torch

from snn_sparse.ops.backend import register_check
from snn_sparse.ops.neuron.batch_norm import Norm
from snn_sparse.ops.neuron.call import DIFFERENTIABLE, Settings, Tensors
from snn_sparse.ops.neuron.reference import plain_stage
from snn_sparse.ops.spikes import NHWC, ordered, plain_unpack
from snn_sparse.specs import BatchNormSpec, NeuronSpec

CASES = ((False, False), (True, True))  # (channels last, statistics and maps pooled)
TOLERANCE = 2e-3  # of the largest gradient; a wrong kernel is off by far more
SPIKES_OFF = 1e-3  # share of spikes, and of entries of a gradient, that may differ: h within rounding of the threshold
SHAPE = (3, 2, 37, 7, 10)


def check_neuron(device: torch.device) -> str | None:
    """Check neuron, batch norm, residual and pool in float32, and packed spikes; what is wrong, or None."""
    problems = (_check_case(device, channels_last, pooled) for channels_last, pooled in CASES)
    return next((problem for problem in problems if problem is not None), None)


def _leaves(device: torch.device, channels_last: bool, pooled: bool) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(int(channels_last) + 2 * int(pooled))

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(device)

    y, c = draw(*SHAPE), SHAPE[2]
    y = ordered(y, NHWC) if channels_last else y
    return {"y": y, "weight": draw(c).abs() + 0.5, "bias": draw(c), "residual": (draw(*SHAPE) > 1).double()}


def _check_case(device: torch.device, channels_last: bool, pooled: bool) -> str | None:
    from snn_sparse.ops.neuron.triton_backward import backward
    from snn_sparse.ops.neuron.triton_forward import forward
    from snn_sparse.ops.neuron.triton_statistics import batch_statistics

    exact = {name: x.requires_grad_() for name, x in _leaves(device, channels_last, pooled).items()}
    given: dict[str, Any] = {name: x.detach().float() for name, x in exact.items()}
    spec, steps = NeuronSpec(), SHAPE[0]
    norm = Norm(
        BatchNormSpec("pooled" if pooled else "per_step"),
        exact["weight"],
        exact["bias"],
        factors=(0.1,) * (1 if pooled else steps),
    )
    expected, _ = plain_stage(exact["y"], spec, steps, norm, exact["residual"], pool=pooled)
    mean, spread = batch_statistics(given["y"], norm.spec.eps, pooled=pooled)
    t, s = Tensors(**given, mean=mean, spread=spread), Settings.of(spec, steps, SHAPE[1], norm=norm, pool=pooled)
    spikes, _ = forward(t, s)
    packed, _ = forward(t, s, bits=True)
    if float((spikes != expected).double().mean()) > SPIKES_OFF:
        return "spikes differ"
    if not torch.equal(plain_unpack(packed, tuple(spikes.shape), spikes.dtype), spikes):
        return "packed spikes differ"
    weights = torch.linspace(-1, 1, spikes.numel(), dtype=torch.float64, device=device).view(spikes.shape)
    wanted = dict(zip(exact, torch.autograd.grad((expected * weights).sum(), list(exact.values())), strict=True))
    found = backward(t, s, weights.float(), None, [name for name in DIFFERENTIABLE if name in exact])
    for name, a in wanted.items():
        b = found[name]
        assert b is not None
        off = ~((a - b).abs() <= TOLERANCE * a.abs().max())
        if float(off.double().mean()) > SPIKES_OFF:
            return f"gradient of {name} differs"
    return None


register_check("neuron", check_neuron)
