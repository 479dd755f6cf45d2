"""First-use check of the neuron's kernels: small random cases, forward and backward, against the plain definition."""

from typing import Any, NamedTuple

import torch

from snn_sparse.ops.backend import register_check
from snn_sparse.ops.neuron.batch_norm import Norm
from snn_sparse.ops.neuron.call import DIFFERENTIABLE, Settings, Tensors
from snn_sparse.ops.neuron.reference import plain_stage
from snn_sparse.ops.spikes import NHWC, ordered, plain_unpack
from snn_sparse.specs import BatchNormSpec, NeuronSpec

TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 2e-2}  # of the largest gradient; a wrong kernel is off by far more
SPIKES_OFF = 1e-3  # share of spikes, and of entries of a gradient, that may differ: h within rounding of the threshold
SIZES = (2, 37, 7, 10)  # images, channels, height, width


class Case(NamedTuple):
    """One call: timesteps, layout and dtype of y, which statistics, and whether maps are pooled."""

    steps: int
    channels_last: bool
    pooled_statistics: bool
    pool: bool
    dtype: torch.dtype = torch.float32


CASES = (Case(3, False, False, False), Case(3, True, True, True))
# As networks train on a GPU. Triton's interpreter computes bfloat16 wrongly.
TRAINED = (Case(5, True, False, True, torch.bfloat16), Case(5, True, False, False, torch.bfloat16))


def check_neuron(device: torch.device) -> str | None:
    """Check neuron, norm, residual, pool and packed spikes, on a GPU in bfloat16 too; what is wrong, or None."""
    problems = (_check_case(device, case) for case in (*CASES, *(TRAINED if device.type == "cuda" else ())))
    return next((problem for problem in problems if problem is not None), None)


def _leaves(device: torch.device, case: Case) -> dict[str, torch.Tensor]:
    """Values in float64 that the case's dtype holds exactly."""
    generator = torch.Generator().manual_seed(int(case.channels_last) + 2 * int(case.pooled_statistics))

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(device)

    shape, c = (case.steps, *SIZES), SIZES[1]
    y = draw(*shape).to(case.dtype).double()
    y = ordered(y, NHWC) if case.channels_last else y
    weight, bias = (x.float().double() for x in (draw(c).abs() + 0.5, draw(c)))
    return {"y": y, "weight": weight, "bias": bias, "residual": (draw(*shape) > 1).double()}


def _check_case(device: torch.device, case: Case) -> str | None:
    from snn_sparse.ops.neuron.triton_backward import backward
    from snn_sparse.ops.neuron.triton_forward import forward
    from snn_sparse.ops.neuron.triton_statistics import batch_statistics

    exact = {name: x.requires_grad_() for name, x in _leaves(device, case).items()}
    low = {"weight": torch.float32, "bias": torch.float32}
    given: dict[str, Any] = {name: x.detach().to(low.get(name, case.dtype)) for name, x in exact.items()}
    spec, steps, pooled = NeuronSpec(), case.steps, case.pooled_statistics
    norm = Norm(
        BatchNormSpec("pooled" if pooled else "per_step"),
        exact["weight"],
        exact["bias"],
        factors=(0.1,) * (1 if pooled else steps),
    )
    expected, _ = plain_stage(exact["y"], spec, steps, norm, exact["residual"], pool=case.pool)
    affine = {name: given[name] for name in ("weight", "bias")}
    mean, spread = batch_statistics(given["y"], norm.spec.eps, pooled=pooled, **affine)
    t, s = Tensors(**given, mean=mean, spread=spread), Settings.of(spec, steps, SIZES[0], norm=norm, pool=case.pool)
    said = "" if case in CASES else f", {case}"
    spikes, _ = forward(t, s)
    packed, _ = forward(t, s, bits=True)
    if float((spikes != expected).double().mean()) > SPIKES_OFF:
        return f"spikes differ{said}"
    if not torch.equal(plain_unpack(packed, tuple(spikes.shape), spikes.dtype), spikes):
        return f"packed spikes differ{said}"
    weights = torch.linspace(-1, 1, spikes.numel(), dtype=torch.float64, device=device).view(spikes.shape)
    weights = weights.to(case.dtype).double()
    wanted = dict(zip(exact, torch.autograd.grad((expected * weights).sum(), list(exact.values())), strict=True))
    found = backward(t, s, weights.to(case.dtype), None, [name for name in DIFFERENTIABLE if name in exact])
    for name, a in wanted.items():
        b = found[name]
        assert b is not None
        off = ~((a - b).abs() <= TOLERANCE[case.dtype] * a.abs().max())
        if float(off.double().mean()) > SPIKES_OFF:
            return f"gradient of {name} differs{said}"
    return None


register_check("neuron", check_neuron)
