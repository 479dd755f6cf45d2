"""Networks for masks from elsewhere."""

import torch
from torch import nn

import snn_sparse as ss


def small():
    return ss.build_model("vgg_small", 4, 1, 2)


class Odd(nn.Module):
    """Weights that are not called ``weight``, and layers inside layers."""

    def __init__(self):
        super().__init__()
        self.block = nn.ModuleDict({"weight": nn.Linear(3, 2), "weight_orig": nn.Linear(2, 2, bias=False)})
        self.cell = nn.LSTMCell(2, 3)
        self.norm = nn.LayerNorm(3)
        self.weights = nn.ParameterList([nn.Parameter(torch.randn(3, 2))])


def random_mask_of(model, live=0.4):
    return ss.Mask({n: torch.rand(p.shape) < live for n, p in ss.tickets.prunable(model).items()})
