"""The first-use checks, one for each family of kernels: small random cases against the plain definitions.

A check returns what is wrong in a few words, or None; ``self_check.py`` says when it runs.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from snn_sparse.kernels.conv_settings import Geometry, Way
from snn_sparse.ops.channel_groups import Grouper
from snn_sparse.ops.conv_plan import DIRECTIONS, ConvPlan, Ways
from snn_sparse.ops.fused_neuron import NeuronSpec, Norm, reference
from snn_sparse.ops.packed_conv import run_direction
from snn_sparse.ops.packed_conv_neuron import packed_conv_neuron
from snn_sparse.ops.spike_bits import Packed, plain_pack, plain_unpack

NEURON_CASES = ((False, False), (True, True))  # (channels last, statistics and maps pooled)
CONVOLUTION_WAYS = (Way(64, 32, 32, num_warps=4), Way(32, 32, 32, True, True, True, num_warps=4))
TOLERANCE = 2e-3  # of the largest gradient; a wrong kernel is off by far more
SPIKES_OFF = 1e-3  # share of spikes, and of entries of a gradient, that may differ: h within rounding of the threshold
ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 2e-2}  # of the largest result of a convolution


def check_neuron(device: torch.device) -> str | None:
    """Neuron, batch norm, residual and pool, forward and backward, in float32; packed spikes."""
    for channels_last, pooled in NEURON_CASES:
        problem = _check_neuron_case(device, channels_last, pooled)
        if problem is not None:
            return problem
    return None


def _neuron_case(device: torch.device, channels_last: bool, pooled: bool) -> tuple[dict[str, torch.Tensor], Any]:
    """Random leaves, in float64, and the batch norm around some of them."""
    generator = torch.Generator().manual_seed(int(channels_last) + 2 * int(pooled))
    t, n, c, h, w = 3, 2, 37, 7, 10

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(device)

    y = draw(t, n, h, w, c).movedim(-1, 2) if channels_last else draw(t, n, c, h, w)
    leaves = {"y": y, "weight": draw(c).abs() + 0.5, "bias": draw(c), "residual": (draw(t, n, c, h, w) > 1).double()}

    def norm(given: dict[str, torch.Tensor]) -> Norm:
        kind = "pooled" if pooled else "per_step"
        return Norm(given["weight"], given["bias"], None, None, (0.1,) * (1 if pooled else t), True, 1e-5, kind)  # type: ignore[arg-type]

    return leaves, norm


def _check_neuron_case(device: torch.device, channels_last: bool, pooled: bool) -> str | None:
    from snn_sparse.kernels.spike_bits import unpack
    from snn_sparse.ops.neuron_operator import run_kernels

    leaves, norm = _neuron_case(device, channels_last, pooled)
    exact = {name: x.clone().requires_grad_() for name, x in leaves.items()}
    given = {name: x.float().requires_grad_() for name, x in leaves.items()}
    spec, steps = NeuronSpec(), leaves["y"].shape[0]
    expected, _ = reference(exact["y"], spec, steps, norm(exact), exact["residual"], pool=pooled)
    call: dict[str, Any] = {"norm": norm(given), "residual": given["residual"], "pool": pooled}
    spikes, _ = run_kernels(given["y"], spec, steps, **call)
    packed, _ = run_kernels(given["y"], spec, steps, **call, packed=True)
    if float((spikes != expected).double().mean()) > SPIKES_OFF:
        return "spikes differ"
    if not torch.equal(unpack(packed.bits, tuple(spikes.shape), spikes.dtype), spikes):
        return "packed spikes differ"
    weights = torch.linspace(-1, 1, spikes.numel(), dtype=torch.float64, device=device).view(spikes.shape)
    wanted = torch.autograd.grad((expected * weights).sum(), list(exact.values()))
    found = torch.autograd.grad((spikes * weights.float()).sum(), list(given.values()))
    for name, a, b in zip(leaves, wanted, found, strict=True):
        off = ~((a - b).abs() <= TOLERANCE * a.abs().max())
        if float(off.double().mean()) > SPIKES_OFF:
            return f"gradient of {name} differs"
    return None


def check_convolution(device: torch.device) -> str | None:
    """Each direction by lists of neighbours and by gathered ones, in float32 and, on a GPU, in bfloat16."""
    for way in CONVOLUTION_WAYS:
        for dtype in (torch.float32, torch.bfloat16) if device.type == "cuda" else (torch.float32,):
            problem = _check_convolution_way(device, way, dtype)
            if problem is not None:
                return f"{problem}, {way.describe()}, {dtype}"
    return None


def _check_convolution_way(device: torch.device, way: Way, dtype: torch.dtype) -> str | None:
    generator, g = torch.Generator().manual_seed(0), Geometry(2, 3, 40, 36, 3, 4, (3, 3), 1, 1)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    t, n, c, h, w = g.input_shape()
    spikes = (draw(t, n, h, w, c) > 0.5).to(dtype).movedim(-1, 2)
    mask = torch.rand(g.outputs, g.inputs, 3, 3, generator=generator) < 0.3
    weight, grad = draw(*mask.shape) * mask, draw(*g.output_shape)
    exact = [x.double().requires_grad_() for x in (spikes, weight)]
    y = F.conv2d(exact[0].flatten(0, 1), exact[1], None, 1, 1).unflatten(0, (t, n))
    grads = torch.autograd.grad((y * grad.double()).sum(), exact)
    wanted = [y.detach(), grads[0], grads[1] * mask]
    packed = Packed(torch.zeros(1, dtype=dtype, device=device).expand(g.input_shape()), plain_pack(spikes).to(device))
    on_device = weight.to(device), grad.to(device)
    grouper = Grouper(mask, tuple(mask.shape))
    for direction, expected in zip(DIRECTIONS[:3], wanted, strict=True):
        plan = ConvPlan.make(Ways()._replace(**{direction: way}), grouper, device)
        found = run_direction(direction, packed, *on_device, g, plan).cpu().double()
        if not float((found - expected).abs().max()) <= ROUNDING[dtype] * float(expected.abs().max()):
            return f"{direction} differs"
    return None if way.reorder else _check_spikes(packed, weight, grouper, way, wanted[0])


def _check_spikes(packed: Packed, weight: torch.Tensor, grouper: Grouper, way: Way, y: torch.Tensor) -> str | None:
    """Convolution, batch norm and neuron in one kernel; ``y [T, N, C, H, W]`` is the exact convolution."""
    device = packed.bits.device
    mean, variance = y.mean((0, 1, 3, 4)), y.var((0, 1, 3, 4))
    exact = Norm(None, None, mean, variance, (0.0,) * y.shape[0], False)
    norm = Norm(None, None, mean.float().to(device), variance.float().to(device), (0.0,) * y.shape[0], False)
    plan = ConvPlan.make(Ways(spikes=way), grouper, device)
    found = packed_conv_neuron(packed, weight.to(device), None, 1, 1, plan, norm, NeuronSpec())
    expected, _ = reference(y, NeuronSpec(), y.shape[0], exact)
    spikes = plain_unpack(found.bits.cpu(), tuple(y.shape), torch.float64)
    off = float((spikes != expected).double().mean())
    return "spikes differ" if off > 10 * SPIKES_OFF else None


def check_optimizer(device: torch.device) -> str | None:
    """Masked SGD with momentum and Adam against their definitions, two steps."""
    from snn_sparse.kernels.optimizer import AdamRule, SgdRule, StepLauncher, table_row
    from snn_sparse.ops.optimizer_step import adam_step, sgd_step

    generator = torch.Generator().manual_seed(0)
    start, gradient = (torch.randn(5000, generator=generator).to(device) for _ in range(2))
    alive = (torch.rand(5000, generator=generator) < 0.3).to(device)
    start = start * alive
    for rule in (SgdRule(0.9, 5e-4), AdamRule(weight_decay=1e-3)):
        weights, buffers = [start.clone(), start.clone()], [[torch.zeros_like(start) for _ in "ab"] for _ in "ab"]
        launcher = StepLauncher([5000], device)
        launcher.set_lr(0.1)
        for step in (1, 2):
            launcher.step([table_row(weights[0], gradient, buffers[0], alive)], rule)
            if isinstance(rule, SgdRule):
                options: dict[str, Any] = {"momentum": rule.momentum, "weight_decay": rule.weight_decay}
                sgd_step(weights[1], gradient, buffers[1][0], lr=0.1, alive=alive, **options)
            else:
                options = {"weight_decay": rule.weight_decay, "alive": alive}
                adam_step(weights[1], gradient, buffers[1][0], buffers[1][1], step, lr=0.1, **options)
        if not torch.allclose(weights[0], weights[1], rtol=1e-4, atol=1e-5) or bool(weights[0][~alive].any()):
            return f"{type(rule).__name__} differs"
    return None


def check_batches(device: torch.device) -> str | None:
    """A gathered, augmented, normalised batch against plain PyTorch on the CPU."""
    from snn_sparse.kernels.augment import image_batch
    from snn_sparse.ops.image_batch import Draws, channel_statistics
    from snn_sparse.ops.image_batch import reference as plain_batch

    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (7, 3, 9, 10), dtype=torch.uint8, generator=generator)
    index = torch.randint(0, 7, (5,), generator=generator)
    values = torch.stack([torch.randint(0, high, (5,), generator=generator) for high in (2, 5, 5, 9, 10)])
    draws, mean, std = Draws(values.to(torch.int32), True, 2, 4), (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    found = image_batch(
        images.to(device), index.to(device), channel_statistics(mean, std, device), draws.values.to(device),
        flip=True, crop_padding=2, cutout=4,
    )  # fmt: skip
    return (
        None
        if torch.allclose(found.cpu(), plain_batch(images, index, mean, std, draws), atol=1e-6)
        else "batches differ"
    )


CHECKS: dict[str, Callable[[torch.device], str | None]] = {
    "neuron": check_neuron,
    "convolution": check_convolution,
    "optimizer": check_optimizer,
    "batches": check_batches,
}
