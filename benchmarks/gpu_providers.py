"""Training steps on an NVIDIA GPU: SpikingJelly's as published and at its fastest, our plain and our fused networks."""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

import snn_sparse as ss
from benchmarks.masks import KINDS, zero_small
from benchmarks.spikingjelly_nets import MultiStep, TimeLoop, use_triton
from snn_sparse.models import SpikingNetwork
from snn_sparse.training import make_optimizer

REFERENCE = "SpikingJelly time loop fp32"
AUTOCAST = "SpikingJelly time loop autocast fp16"
MULTI_STEP = "SpikingJelly multi-step Triton bf16"
COMPILED = f"{MULTI_STEP} compiled"
PLAIN = "plain bf16"
FUSED_DENSE = "fused dense bf16"
SPARSITIES = (90, 95, 98)
PROVIDERS = (
    *(REFERENCE, AUTOCAST, MULTI_STEP, COMPILED, PLAIN, "fused dense fp32", FUSED_DENSE),
    *(f"fused {s} % {kind} bf16" for kind in KINDS for s in SPARSITIES),
)
Step = Callable[[], torch.Tensor]
_SGD: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def dtype_of(provider: str) -> torch.dtype:
    """The precision that a provider's name ends in."""
    return _DTYPES[provider.removesuffix(" compiled").split()[-1]]


def _time_loop(provider: str, model: SpikingNetwork, device: torch.device) -> tuple[nn.Module, torch.optim.Optimizer]:
    """As the published scripts run: NCHW, autocast without a gradient scaler."""
    net = TimeLoop(model).to(device).train()
    return net, torch.optim.SGD(net.parameters(), **_SGD)


def _multi_step(provider: str, model: SpikingNetwork, device: torch.device) -> tuple[nn.Module, torch.optim.Optimizer]:
    net = MultiStep(model).to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    use_triton(net, device, dtype_of(provider))
    if provider == COMPILED:
        net.compile_logits()
    return net, torch.optim.SGD(net.parameters(), fused=True, **_SGD)


def _plain(provider: str, model: SpikingNetwork, device: torch.device) -> tuple[nn.Module, torch.optim.Optimizer]:
    net = copy.deepcopy(model).to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    return net, torch.optim.SGD(net.parameters(), fused=True, **_SGD)


def _eager_step(provider: str, model: SpikingNetwork, x: torch.Tensor, y: torch.Tensor) -> Step:
    loop = provider in (REFERENCE, AUTOCAST)
    make = _time_loop if loop else _plain if provider == PLAIN else _multi_step
    net, optimizer = make(provider, model, x.device)
    dtype = dtype_of(provider)
    x = x.contiguous() if loop else x

    def precision() -> AbstractContextManager:
        return nullcontext() if dtype == torch.float32 else torch.autocast(x.device.type, dtype)

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        with precision():
            loss = ss.temporal_cross_entropy(net(x), y)
        loss.backward()
        if loop:
            zero_small(net)
        optimizer.step()
        return loss.detach()

    return step


def _fused_step(
    provider: str, model: SpikingNetwork, x: torch.Tensor, y: torch.Tensor, mask: ss.Mask | None = None
) -> Step:
    from snn_sparse.training.step import TrainStep

    net = ss.fuse(copy.deepcopy(model)).to(x.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    net.train()
    if mask is not None:
        mask.apply_(net)
    optimizer = make_optimizer(net, "sgd", _SGD["lr"], _SGD["momentum"], _SGD["weight_decay"], alive=mask)
    train_step = TrainStep(net, optimizer, dtype=dtype_of(provider))
    return lambda: train_step(x, y)


def make_step(
    provider: str, model: SpikingNetwork, x: torch.Tensor, y: torch.Tensor, mask: ss.Mask | None = None
) -> Step:
    """A training step of one provider, from the weights of ``model``; the host does not wait for it.

    Args:
        provider: one of :data:`PROVIDERS`, or of a ticket.
        model: plain network, not changed.
        x: images ``[N, C, H, W]`` in channels-last memory; copied to NCHW where the published code runs.
        y: labels ``[N]``.
        mask: of the live weights, for fused networks.

    Returns:
        calling it makes a step and returns the loss, a tensor ``[]``.
    """
    if provider.startswith("fused"):
        return _fused_step(provider, model, x, y, mask)
    return _eager_step(provider, model, x, y)
