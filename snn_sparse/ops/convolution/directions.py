"""One direction of the convolution alone, for timing and checking configurations."""

import torch

from snn_sparse.ops.convolution.configuration import LayerConfiguration
from snn_sparse.ops.convolution.op import convolution
from snn_sparse.ops.spikes import Packed
from snn_sparse.specs import ConvGeometry

Tensor = torch.Tensor
NEEDS = {"grad_input": 1, "grad_weight": 2}


def run_direction(
    direction: str, x: Packed, weight: Tensor, grad: Tensor, geometry: ConvGeometry, configuration: LayerConfiguration,
    statistics: bool = False,
) -> Tensor:  # fmt: skip
    """Run one direction of a convolution of packed spikes, as a training step does.

    Args:
        direction: ``output``, ``grad_input`` or ``grad_weight``.
        x: spikes ``[T, N, Cin, H, W]``.
        weight: ``[Cout, Cin, kh, kw]`` in the dtype of the products.
        grad: of the output ``[T, N, Cout, Ho, Wo]``.
        geometry: of the convolution.
        configuration: of the layer.
        statistics: whether the output's parts of batch statistics are computed too, where a kernel gives them.
    """
    g, c = geometry, configuration
    if direction == "output":
        with torch.no_grad():
            return convolution(x, weight, None, g.stride, g.padding, c, statistics=statistics)[0]
    how = (g.stride, g.padding, c.keep, c.lists, c.numbers, False, NEEDS[direction])
    shape, channels_last = list(x.carrier.shape), x.bits.dim() == 5
    found = torch.ops.snn_sparse.convolution_backward(
        grad, None, x.bits, weight, weight.new_empty(0), shape, channels_last, *how
    )
    return found[NEEDS[direction] - 1]
