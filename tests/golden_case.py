"""The golden figures: computed in float64 with the published code (see golden/README.md)."""

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import nn

FOLDER = Path(__file__).parent / "golden"
CASES = ("vgg16_T5_dense", "vgg16_T3_pruned8")


def draw(name, shape):
    values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(tuple(shape))
    return torch.from_numpy(np.asarray(values))


def load(case):
    figures = np.load(FOLDER / f"{case}.npz")
    return figures, json.loads(str(figures["meta"]))


@torch.no_grad()
def fill_(model):
    """Set every parameter to its golden value, by its published name."""
    norms = {name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    for name, p in model.named_parameters():
        if p.dim() > 1:
            value = draw(name, p.shape) * (2 / p[0].numel()) ** 0.5
        elif name.rsplit(".", 1)[0] in norms:
            value = (1.0 if name.endswith("weight") else 0.3) + 0.1 * draw(name, p.shape)
        else:
            value = 0.1 * draw(name, p.shape)
        p.copy_(value)
    return model


def inputs(case, meta):
    return draw(f"{case}.x", (meta["B"], meta["in_ch"], 32, 32)), torch.arange(meta["B"]) * 3 % 10


def sample(tensor, count):
    index = np.linspace(0, tensor.numel() - 1, min(count, tensor.numel())).astype(np.int64)
    return tensor.detach().flatten()[torch.from_numpy(index)].cpu().numpy()
