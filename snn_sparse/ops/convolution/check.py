"""First-use check of the convolution's GPU kernels: each direction against torch in float64, and the fused neuron."""

import torch
import torch.nn.functional as F

from snn_sparse.ops.backend import register_check
from snn_sparse.ops.convolution.channel_groups import Grouper, tiled
from snn_sparse.ops.convolution.configuration import Directions, TileConfiguration
from snn_sparse.ops.convolution.directions import run_direction
from snn_sparse.ops.convolution.fused_neuron import convolution_neuron
from snn_sparse.ops.neuron import Norm, plain_stage
from snn_sparse.ops.spikes import NHWC, Packed, ordered, plain_pack, plain_unpack
from snn_sparse.specs import BatchNormSpec, ConvGeometry, NeuronSpec

CONFIGURATIONS = (TileConfiguration(64, 32, 32), TileConfiguration(32, 32, 32, True, True, True))
SPIKES_OFF = 1e-2  # share of spikes that may differ: a potential within rounding of the threshold
ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 2e-2}  # of the largest result
GEOMETRY = ConvGeometry(2, 3, 40, 36, 3, 4, (3, 3), 1, 1)


def check_convolution(device: torch.device) -> str | None:
    """Check lists of neighbours and gathered ones, in float32 and, on a GPU, bfloat16; what is wrong, or None."""
    for configuration in CONFIGURATIONS:
        for dtype in (torch.float32, torch.bfloat16) if device.type == "cuda" else (torch.float32,):
            problem = _check_configuration(device, configuration, dtype)
            if problem is not None:
                return f"{problem}, {configuration.describe()}, {dtype}"
    return None


def _check_configuration(device: torch.device, configuration: TileConfiguration, dtype: torch.dtype) -> str | None:
    generator, g = torch.Generator().manual_seed(0), GEOMETRY

    def draw(shape: tuple[int, ...]) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    spikes = ordered((draw(g.input_shape) > 0.5).to(dtype), NHWC)
    keep = torch.rand(g.weight_shape, generator=generator) < 0.3
    weight, grad = draw(g.weight_shape) * keep, draw(g.output_shape)
    exact = [x.double().requires_grad_() for x in (spikes, weight)]
    y = F.conv2d(exact[0].flatten(0, 1), exact[1], None, 1, 1).unflatten(0, (g.steps, g.images))
    grads = torch.autograd.grad((y * grad.double()).sum(), exact)
    wanted = {"output": y.detach(), "grad_input": grads[0], "grad_weight": grads[1] * keep}
    carrier = torch.zeros(1, dtype=dtype, device=device).expand(g.input_shape)
    packed, grouper = Packed(carrier, plain_pack(spikes).to(device)), Grouper(keep, g.weight_shape)
    for direction, expected in wanted.items():
        how = tiled(Directions()._replace(**{direction: configuration}), grouper, device)
        found = run_direction(direction, packed, weight.to(device), grad.to(device), g, how).cpu().double()
        if not float((found - expected).abs().max()) <= ROUNDING[dtype] * float(expected.abs().max()):
            return f"{direction} differs"
    return None if configuration.reorder else _check_spikes(packed, weight, grouper, configuration, wanted["output"])


def _check_spikes(
    packed: Packed, weight: torch.Tensor, grouper: Grouper, configuration: TileConfiguration, y: torch.Tensor
) -> str | None:
    """Convolution, batch norm and neuron in one kernel; ``y [T, N, C, H, W]`` is the exact convolution."""
    device, spec = packed.bits.device, BatchNormSpec(frozen=True)
    mean, variance = y.mean((0, 1, 3, 4)), y.var((0, 1, 3, 4))
    norm = Norm(spec, running_mean=mean.float().to(device), running_var=variance.float().to(device))
    how = tiled(Directions(spikes=configuration), grouper, device)
    found = convolution_neuron(packed, weight.to(device), None, 1, 1, how, norm, NeuronSpec())
    exact = Norm(spec, running_mean=mean, running_var=variance)
    expected, _ = plain_stage(y, NeuronSpec(), y.shape[0], exact)
    spikes = plain_unpack(found.bits.cpu(), tuple(y.shape), torch.float64)
    return "spikes differ" if float((spikes != expected).double().mean()) > SPIKES_OFF else None


register_check("convolution", check_convolution)
