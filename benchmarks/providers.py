"""Whose training steps are compared, as a table, and how a step is made: forward, loss, backward, SGD."""

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

import snn_sparse as ss
from benchmarks.masks import TicketMask, uniform_mask, zero_small
from benchmarks.refusals import insist
from benchmarks.spikingjelly_nets import MultiStep, TimeLoop, use_triton
from snn_sparse.models import SpikingNetwork
from snn_sparse.training import make_optimizer

Step = Callable[[], torch.Tensor]
Images = tuple[SpikingNetwork, torch.Tensor, torch.Tensor]  # network, images and labels
FP32, FP16, BF16 = torch.float32, torch.float16, torch.bfloat16
_SGD: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}


def _fused(model: SpikingNetwork) -> nn.Module:
    return ss.fuse(copy.deepcopy(model))


@dataclass(frozen=True)
class Provider:
    """One row of the table.

    Attributes:
        name: under which its figures go.
        device: where it takes part, ``cpu`` or ``cuda``.
        network: made of a plain one, which is not changed.
        dtype: of the products, by autocast if not float32.
        mask: draws the mask of a plain network, for fused ones; None: dense.
        compiled: whether ``torch.compile`` fuses what it can.
        channels_last: whether images and weights lie so on a CPU too.
    """

    name: str
    device: str
    network: Callable[[SpikingNetwork], nn.Module]
    dtype: torch.dtype = FP32
    mask: Callable[[SpikingNetwork], ss.Mask] | None = None
    compiled: bool = False
    channels_last: bool = False

    @property
    def published(self) -> bool:
        """Whether it runs as the published scripts do: NCHW, autocast without a gradient scaler."""
        return self.network is TimeLoop

    @property
    def fused(self) -> bool:
        """Whether it is ours, and refuses to run on plain PyTorch."""
        return self.network is _fused


# The first of each device is what the others are compared with.
PROVIDERS = (
    Provider("SpikingJelly time loop", "cpu", TimeLoop),
    Provider("SpikingJelly multi-step", "cpu", MultiStep),
    Provider("SpikingJelly multi-step channels-last", "cpu", MultiStep, channels_last=True),
    Provider("plain", "cpu", copy.deepcopy),
    Provider("plain compiled", "cpu", copy.deepcopy, compiled=True),
    Provider("fused dense", "cpu", _fused),
    *(
        Provider(f"fused {s} % uniform", "cpu", _fused, mask=partial(uniform_mask, sparsity=s))
        for s in (75, 90, 95, 98)
    ),
    *(
        Provider(f"fused {s} % magnitude", "cpu", _fused, mask=partial(ss.magnitude_mask, percent=s))
        for s in (75, 90, 95, 98)
    ),
    Provider("SpikingJelly time loop fp32", "cuda", TimeLoop),
    Provider("SpikingJelly time loop autocast fp16", "cuda", TimeLoop, FP16),
    Provider("SpikingJelly multi-step Triton bf16", "cuda", MultiStep, BF16),
    Provider("SpikingJelly multi-step Triton bf16 compiled", "cuda", MultiStep, BF16, compiled=True),
    Provider("plain bf16", "cuda", copy.deepcopy, BF16),
    Provider("fused dense fp32", "cuda", _fused),
    Provider("fused dense bf16", "cuda", _fused, BF16),
    *(
        Provider(f"fused {s} % uniform bf16", "cuda", _fused, BF16, partial(uniform_mask, sparsity=s))
        for s in (90, 95, 98)
    ),
    *(
        Provider(f"fused {s} % magnitude bf16", "cuda", _fused, BF16, partial(ss.magnitude_mask, percent=s))
        for s in (90, 95, 98)
    ),
)


def of_ticket(ticket: TicketMask) -> Provider:
    """The fused network under a ticket's mask, on a GPU."""
    return Provider(ticket.provider, "cuda", _fused, BF16, ticket.of)


def choose_providers(names: Sequence[str], device: str) -> list[Provider]:
    """Those of a device that are named (none: all), behind the one that they are compared with.

    Raises:
        ValueError: an unknown name.
    """
    known = {p.name: p for p in PROVIDERS if device.startswith(p.device)}
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(f"unknown provider {unknown[0]!r}: choose from {', '.join(known)}")
    return [known[name] for name in dict.fromkeys([next(iter(known)), *(names or known)])]


def prepare(arch: str, timesteps: int, batch_size: int, device: str) -> Images:
    """The same in every process."""
    torch.manual_seed(0)
    model = ss.build_model(arch, timesteps=timesteps)
    x = torch.randn(batch_size, 3, 32, 32, device=device)
    return model, x, torch.randint(0, 10, (batch_size,), device=device)


def make_step(provider: Provider, images: Images) -> Step:
    """A training step of one provider; the host does not wait for it.

    Args:
        provider: whose.
        images: plain network, not changed; images ``[N, C, H, W]``, on a GPU taken channels last, as the weights, by
            all but the published code, on a CPU by those that say so; labels ``[N]``.

    Returns:
        calling it makes a step and returns the loss, a tensor ``[]``.

    Raises:
        Refused: a fused network would run on plain PyTorch.
    """
    model, x, y = images
    if provider.fused:
        live = ("live",) if provider.mask is not None and not x.is_cuda else ()
        insist("neuron", "convolution", *live, device=x.device, dtype=provider.dtype)
    channels_last = provider.channels_last or (x.is_cuda and not provider.published)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = x.contiguous(memory_format=layout)
    net: Any = provider.network(model).to(x.device, memory_format=layout).train()  # type: ignore[call-overload]
    if isinstance(net, MultiStep):
        use_triton(net, x.device, provider.dtype)
    if provider.compiled and isinstance(net, MultiStep):
        net.compile_logits()
    elif provider.compiled:
        net.compile(dynamic=False)
    if not provider.fused:
        return _ordinary_step(provider, net, x, y)
    mask = None if provider.mask is None else provider.mask(model)
    if mask is not None:
        mask.apply_(net)
    optimizer = make_optimizer(net, "sgd", _SGD["lr"], _SGD["momentum"], _SGD["weight_decay"], mask)
    train_step = ss.TrainStep(net, optimizer, dtype=provider.dtype, graph=True if x.is_cuda else None)
    return lambda: train_step(x, y)


def _ordinary_step(provider: Provider, net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Step:
    optimizer = torch.optim.SGD(net.parameters(), **_SGD, fused=True if x.is_cuda and not provider.published else None)

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        with nullcontext() if provider.dtype == FP32 else torch.autocast(x.device.type, provider.dtype):
            loss = ss.temporal_cross_entropy(net(x), y)
        loss.backward()
        if provider.published:
            zero_small(net)
        optimizer.step()
        return loss.detach()

    return step
