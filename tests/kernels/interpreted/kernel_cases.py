"""Random problems for the Triton kernels: the same inputs through the plain definition, in float64, and the kernels."""

from dataclasses import dataclass, field, replace

import torch

from snn_sparse.kernels.inputs import Inputs
from snn_sparse.kernels.neuron import backward, forward
from snn_sparse.kernels.settings import Neuron, Normalisation
from snn_sparse.kernels.spike_bits import pack, unpack
from snn_sparse.kernels.statistics import batch_statistics
from snn_sparse.ops.fused_neuron import NeuronSpec, Norm, reference
from snn_sparse.ops.neuron import Firing
from snn_sparse.ops.surrogate import as_surrogate

UNNORMED = (None, "dense", "bits")


@dataclass(frozen=True)
class Case:
    """One combination of what the kernels support."""

    shape: tuple = (3, 2, 3, 4, 4)
    neuron: Neuron = field(default_factory=Neuron)
    norm: str | None = None  # None | per_step | pooled | running
    affine: bool = True
    residual: str | None = None  # None | dense | bits | per_step | pooled | running
    static: bool = False
    v_init: bool = False
    final_v: bool = False
    pool: bool = False
    bits: bool = False
    channels_last: bool = False
    dtype: torch.dtype = torch.float32
    grad: str = "same"  # layout of the spikes' gradient: same | other | expanded | none


def draw_inputs(case, generator):
    """Leaves in float64 whose values fit the storage dtype, running statistics, gradients of the outputs."""
    t, n, c, h, w = case.shape

    def draw(*shape, scale=1.0, shift=0.0, dtype=torch.float32):
        values = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return (values * scale + shift).to(dtype).double()

    leaves = {"y": draw(1 if case.static else t, n, c, h, w, scale=1.5, shift=0.25, dtype=case.dtype)}
    if case.residual:
        residual = draw(t, n, c, h, w, dtype=case.dtype)
        leaves["residual"] = (residual > 0.4).double() if case.residual == "bits" else residual
    if case.v_init:
        leaves["v"] = draw(n, c, h, w, scale=0.5)
    if case.neuron.kind == "plif":
        leaves["rate"] = torch.tensor([0.6]).double()
    for suffix, mode in (("", case.norm), ("_residual", case.residual)):
        if mode not in UNNORMED and case.affine:
            leaves |= {"weight" + suffix: draw(c, scale=0.25, shift=1.0), "bias" + suffix: draw(c, scale=0.25)}
    fixed = {"mean": draw(c, scale=0.2), "var": draw(c, scale=0.3).abs() + 1}
    shape = (t, n, c, h // 2, w // 2) if case.pool else case.shape
    spikes = draw(t, n, c, 1, 1, dtype=case.dtype).expand(shape) if case.grad == "expanded" else None
    grads = {"spikes": draw(*shape, dtype=case.dtype) if spikes is None else spikes, "v": draw(n, c, h, w)}
    return leaves, fixed, grads


def spec(neuron, threshold):
    """The plain definition's description of the neuron."""
    surrogate = as_surrogate({"kind": neuron.surrogate, "alpha": neuron.alpha})
    firing = Firing(threshold, neuron.v_reset, neuron.detach_reset, surrogate)
    return NeuronSpec(neuron.kind, neuron.tau, neuron.decay_input, firing)


def reference_norm(mode, leaves, fixed, suffix, steps):
    if mode in UNNORMED:
        return None
    affine = (leaves.get("weight" + suffix), leaves.get("bias" + suffix))
    running = (fixed["mean"], fixed["var"]) if mode == "running" else (None, None)
    statistics = "per_step" if mode == "per_step" else "pooled"
    factors = (0.0,) * (steps if mode == "per_step" else 1)
    return Norm(*affine, *running, factors, mode != "running", 1e-5, statistics)


def run_definition(case, leaves, fixed, shift=0.0):
    return reference(
        leaves["y"],
        spec(case.neuron, case.neuron.v_threshold + shift),
        case.shape[0],
        reference_norm(case.norm, leaves, fixed, "", leaves["y"].shape[0]),
        residual=leaves.get("residual"),
        norm_residual=reference_norm(case.residual, leaves, fixed, "_residual", case.shape[0]),
        w=torch.logit(leaves["rate"]) if "rate" in leaves else None,
        v=leaves.get("v"),
        pool=case.pool,
    )


def stable_inputs(case, generator):
    """Inputs of which no potential lies so near to the threshold that rounding decides."""
    for _ in range(50):
        inputs = draw_inputs(case, generator)
        unpooled = replace(case, pool=False)
        above, below = (run_definition(unpooled, *inputs[:2], shift)[0] for shift in (1e-5, -1e-5))
        if torch.equal(above, below):
            return inputs
    raise AssertionError("no stable inputs found")


def run_reference(case, leaves, fixed, grads):
    """Spikes, final potential and gradients by the plain definition in float64."""
    leaves = {name: x.clone().requires_grad_() for name, x in leaves.items()}
    spikes, v = run_definition(case, leaves, fixed)
    loss = (v * grads["v"]).sum() if case.final_v else 0.0 * v.sum()
    if case.grad != "none":
        loss = loss + (spikes * grads["spikes"]).sum()
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return spikes.detach(), v.detach(), dict(zip(leaves, found, strict=True))


def nhwc(x):
    return x.movedim(-3, -1).contiguous().movedim(-1, -3)


def kernel_norm(mode, data, leaves, fixed, suffix):
    if mode in UNNORMED:
        return None
    affine = {n: leaves[n + suffix].float() if n + suffix in leaves else None for n in ("weight", "bias")}
    if mode == "running":
        return Normalisation(fixed["mean"].float(), running_var=fixed["var"].float(), **affine)
    return Normalisation(*batch_statistics(data, pooled=mode == "pooled"), **affine)


def kernel_inputs(case, leaves, fixed):
    place = nhwc if case.channels_last else torch.Tensor.contiguous
    y = place(leaves["y"].to(case.dtype))
    residual = place(leaves["residual"].to(case.dtype)) if case.residual else None
    return Inputs(
        y,
        case.neuron,
        case.shape[0],
        norm=kernel_norm(case.norm, y, leaves, fixed, ""),
        residual=pack(residual) if case.residual == "bits" else residual,
        norm_residual=kernel_norm(case.residual, residual, leaves, fixed, "_residual"),
        rate=leaves["rate"].float() if "rate" in leaves else None,
        v=place(leaves["v"].float()) if "v" in leaves else None,
        pool=case.pool,
    )


def placed_gradient(case, grad):
    """The spikes' gradient as the case lays it out in memory."""
    if case.grad == "none":
        return None
    grad = grad.to(case.dtype)
    if case.grad == "expanded":
        return grad[..., :1, :1].expand(grad.shape)
    return nhwc(grad) if case.channels_last == (case.grad == "same") else grad


def run_kernels(case, leaves, fixed, grads):
    """As ``run_reference``, by the kernels; spikes unpacked."""
    inputs = kernel_inputs(case, leaves, fixed)
    spikes, v = forward(inputs, bits=case.bits, final_v=True)
    if case.bits:
        spikes = unpack(spikes, inputs.output_shape, case.dtype)
    grad = placed_gradient(case, grads["spikes"])
    found = backward(inputs, grad, grads["v"].float() if case.final_v else None, set(leaves))
    return spikes, v, {name: getattr(found, name) for name in leaves}


def assert_near(actual, expected, tolerance, name):
    expected = torch.zeros_like(actual) if expected is None else expected
    scale = max(1.0, float(expected.abs().max()))
    error = float((actual.double() - expected).abs().max())
    assert error <= tolerance * scale, f"{name}: error {error:.3g} at scale {scale:.3g}"


def check(case, generator):
    inputs = stable_inputs(case, generator)
    spikes, v, grads = run_reference(case, *inputs)
    fast_spikes, fast_v, fast_grads = run_kernels(case, *inputs)
    assert fast_spikes.dtype == case.dtype
    assert torch.equal(fast_spikes.double(), spikes)
    assert_near(fast_v, v, 2e-5, "final v")
    for name, grad in grads.items():
        stored = case.dtype if name in ("y", "residual") else torch.float32
        assert fast_grads[name].dtype == stored
        assert_near(fast_grads[name], grad, 2e-3 if stored == torch.float16 else 5e-5, f"gradient of {name}")
