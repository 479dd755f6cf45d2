"""Firing rates of a network's layers, which decide how a CPU computes them: looked at between epochs of a search."""

from collections.abc import Mapping

import torch
from torch import nn

from snn_sparse.nn.masked import Masked
from snn_sparse.training.distributed import Group
from snn_sparse.training.step import autocast
from snn_sparse.tuning import LayerTuner, looking


def _layers(model: nn.Module) -> dict[str, Masked]:
    return {name: module for name, module in model.named_modules() if isinstance(module, Masked)}


def rates_of(model: nn.Module) -> dict[str, int]:
    """Percent of the input that is taken to spike, by the name of a layer that owns its mask."""
    return {name: layer.tuner.rate for name, layer in _layers(model).items()}


def set_rates(model: nn.Module, rates: Mapping[str, int]) -> None:
    """Plan all layers for these rates; those that are not named for the rate of layers that nobody has looked at."""
    for name, layer in _layers(model).items():
        layer.tuner = LayerTuner(layer.keep_mask, *([rates[name]] if name in rates else []))


@torch.no_grad()
def follow_rates(
    model: nn.Module, x: torch.Tensor, dtype: torch.dtype = torch.float32, group: Group | None = None
) -> None:
    """Look how much of each layer's input spikes in a training step, and plan layers anew whose rates have moved.

    Weights and buffers stay as they are. What is found depends on them, on the images and on the rates so far alone,
    not on what else this process has computed.

    Args:
        model: fused, on a CPU.
        x: images ``[N, C, H, W]`` or sequences ``[T, N, C, H, W]``.
        dtype: of the products, by autocast if not float32.
        group: processes that do this together; the rates of rank 0 are those of all.
    """
    group, layers = Group() if group is None else group, _layers(model)
    known, before = {name: layer.tuner for name, layer in layers.items()}, rates_of(model)
    set_rates(model, before)  # with no plans yet: earlier ones might round another way
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    was_training = model.training
    model.train()
    try:
        with looking(), autocast(x.device, dtype):
            model(x)
    finally:
        model.train(was_training)
        for buffer, value in buffers:
            buffer.copy_(value)
    rates = group.broadcast_object(rates_of(model))
    set_rates(model, rates)
    for name, layer in layers.items():
        if rates[name] == before[name]:
            layer.tuner = known[name]
