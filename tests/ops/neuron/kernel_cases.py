"""Random problems for the neuron's kernels: the same inputs by the plain definition in float64 and by the operator."""

from dataclasses import dataclass, replace

import torch

from snn_sparse.ops import Norm, Packed, neuron_sequence, plain_stage, unpack_spikes
from snn_sparse.ops.spikes import NHWC, is_channels_last, ordered, plain_pack
from snn_sparse.specs import BatchNormSpec, NeuronSpec

UNNORMED = (None, "dense", "bits")
# Half an ulp, relative to the value: what rounding to nearest may be off. float32 is where kernels add up.
ROUNDING = {torch.float32: 0.0, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


LIF = NeuronSpec()


@dataclass(frozen=True)
class Case:
    """One combination of what the kernels support."""

    shape: tuple = (3, 2, 3, 4, 4)
    neuron: NeuronSpec = LIF
    learnt: bool = False  # the decay of a leaky neuron
    norm: str | None = None  # None | per_step | pooled | frozen
    affine: bool = True
    residual: str | None = None  # None | dense | bits | per_step | pooled | frozen
    constant: bool = False
    v_init: bool = False
    final_v: bool = False
    pool: bool = False
    bits: bool = False
    channels_last: bool = False
    dtype: torch.dtype = torch.float32
    strides: str = "same"  # of residual, potential and gradient: same as y | other | odd
    grad: str = "spikes"  # what has a gradient: spikes | expanded | none

    @property
    def output_shape(self):
        t, n, c, h, w = self.shape
        return (t, n, c, h // 2, w // 2) if self.pool else self.shape


def draw_inputs(case, generator):
    """Leaves in float64 whose values fit the storage dtype, frozen statistics, gradients of the outputs."""
    t, n, c, h, w = case.shape

    def draw(*shape, scale=1.0, shift=0.0, dtype=torch.float32):
        values = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return (values * scale + shift).to(dtype).double()

    leaves = {"y": draw(1 if case.constant else t, n, c, h, w, scale=1.5, shift=0.25, dtype=case.dtype)}
    if case.residual:
        residual = draw(t, n, c, h, w, dtype=case.dtype)
        leaves["residual"] = (residual > 0.4).double() if case.residual == "bits" else residual
    if case.v_init:
        leaves["v"] = draw(n, c, h, w, scale=0.5)
    if case.neuron.kind == "plif" or (case.neuron.kind == "leaky" and case.learnt):
        leaves["rate"] = torch.tensor([0.6]).double()
    for suffix, mode in (("", case.norm), ("_r", case.residual)):
        if mode not in UNNORMED and case.affine:
            leaves |= {"weight" + suffix: draw(c, scale=0.25, shift=1.0), "bias" + suffix: draw(c, scale=0.25)}
    fixed = {"mean": draw(c, scale=0.2), "var": draw(c, scale=0.3).abs() + 1}
    spikes = draw(t, n, c, 1, 1, dtype=case.dtype) if case.grad == "expanded" else None
    grads = {"spikes": draw(*case.output_shape, dtype=case.dtype) if spikes is None else spikes, "v": draw(n, c, h, w)}
    return leaves, fixed, grads


def norm_of(mode, leaves, fixed, suffix, steps):
    """The batch norm of one branch, in the dtype of the leaves."""
    if mode in UNNORMED:
        return None
    spec = BatchNormSpec("per_step" if mode == "per_step" else "pooled", frozen=mode == "frozen")
    affine = leaves.get("weight" + suffix), leaves.get("bias" + suffix)
    running = (fixed["mean"], fixed["var"]) if mode == "frozen" else (None, None)
    return Norm(spec, *affine, *running, (0.0,) * (steps if mode == "per_step" else 1))


def run_definition(case, leaves, fixed, shift=0.0):
    return plain_stage(
        leaves["y"],
        replace(case.neuron, v_threshold=case.neuron.v_threshold + shift),
        case.shape[0],
        norm_of(case.norm, leaves, fixed, "", leaves["y"].shape[0]),
        leaves.get("residual"),
        norm_of(case.residual, leaves, fixed, "_r", case.shape[0]),
        leaves.get("rate"),
        leaves.get("v"),
        case.pool,
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


def differentiate(case, spikes, v, leaves, grads):
    """Gradients of all leaves."""
    outputs, of = [], []
    if case.final_v:
        outputs, of = [v], [grads["v"]]
    if case.grad != "none":
        outputs, of = [*outputs, spikes], [*of, grads["spikes"].expand(spikes.shape)]
    found = torch.autograd.grad(outputs, list(leaves.values()), of, allow_unused=True)
    return dict(zip(leaves, found, strict=True))


def run_reference(case, leaves, fixed, grads):
    """Spikes, final potential and gradients by the plain definition in float64."""
    leaves = {name: x.clone().requires_grad_() for name, x in leaves.items()}
    spikes, v = run_definition(case, leaves, fixed)
    return spikes.detach(), v.detach(), differentiate(case, spikes, v, leaves, grads)


def nhwc(x):
    return ordered(x, NHWC)


def other_strides(x, case):
    """``x`` with the strides that the case asks for, with the same values."""
    if case.strides == "odd":
        return torch.stack([x, torch.full_like(x, 7.0)], -1)[..., 0]
    return nhwc(x) if case.channels_last == (case.strides == "same") else x.contiguous()


def stored(case, leaves):
    """Leaves as the operator gets them: maps in the case's dtype, the rest in float32; the residual perhaps in bits."""
    given = {name: x.to(case.dtype if name in ("y", "residual") else torch.float32) for name, x in leaves.items()}
    given["y"] = nhwc(given["y"]) if case.channels_last else given["y"]
    for name in ("residual", "v"):
        if name in given:
            given[name] = other_strides(given[name], case)
    residual = given.get("residual")
    given = {name: x.detach().requires_grad_() for name, x in given.items()}
    if case.residual != "bits":
        return given, given.get("residual")
    spikes = nhwc(residual) if case.channels_last else residual.contiguous()
    given["residual"] = residual.new_zeros(1).expand(residual.shape).requires_grad_()
    return given, Packed(given["residual"], plain_pack(spikes))


def run_operator(case, leaves, fixed, grads):
    """As ``run_reference``, by the operator; spikes unpacked."""
    given, residual = stored(case, leaves)
    fixed = {name: x.float() for name, x in fixed.items()}
    spikes, v = neuron_sequence(
        given["y"],
        case.neuron,
        case.shape[0],
        norm=norm_of(case.norm, given, fixed, "", given["y"].shape[0]),
        residual=residual,
        norm_residual=norm_of(case.residual, given, fixed, "_r", case.shape[0]),
        rate=given.get("rate"),
        v=given.get("v"),
        pool=case.pool,
        packed=case.bits,
        final_v=True,
    )
    if case.bits:
        assert isinstance(spikes, Packed)
        assert spikes.bits.dim() == 4 + is_channels_last(given["y"])
        spikes = unpack_spikes(spikes)
    spread = {
        "v": other_strides(grads["v"].float(), case),
        "spikes": grads["spikes"].to(case.dtype) if case.grad == "expanded" else None,
    }
    if spread["spikes"] is None:
        spread["spikes"] = other_strides(grads["spikes"].to(case.dtype), case)
    return spikes.detach(), v.detach(), differentiate(case, spikes, v, given, spread)


def assert_near(actual, expected, tolerance, name):
    """Within ``tolerance`` of the largest one, and what rounding to the dtype of ``actual`` may be off."""
    expected = torch.zeros_like(actual) if expected is None else expected
    scale = max(1.0, float(expected.abs().max()))
    off = (actual.double() - expected).abs() - ROUNDING[actual.dtype] * expected.abs()
    assert float(off.max()) <= tolerance * scale, f"{name}: error {float(off.max()):.3g} at scale {scale:.3g}"


def check(case, generator):
    inputs = stable_inputs(case, generator)
    spikes, v, grads = run_reference(case, *inputs)
    fast_spikes, fast_v, fast_grads = run_operator(case, *inputs)
    assert fast_spikes.dtype == case.dtype
    assert torch.equal(fast_spikes.double(), spikes)
    assert_near(fast_v, v, 2e-5, "final v")
    for name, grad in grads.items():
        assert fast_grads[name].dtype == (case.dtype if name in ("y", "residual") else torch.float32)
        assert_near(fast_grads[name], grad, 5e-5, f"gradient of {name}")
