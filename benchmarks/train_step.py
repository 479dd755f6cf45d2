"""One training step (forward, loss, backward, SGD) of the published networks, providers side by side."""

import argparse
import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import snn_sparse as ss
from benchmarks.memory import measure_peaks
from benchmarks.rows import Row, make_rows
from benchmarks.spikingjelly_nets import MultiStep, TimeLoop
from benchmarks.timing import interleaved, ratios

REFERENCE = "SpikingJelly time loop"
SPARSITIES = (75, 90, 95, 98)
MASKS = ("uniform", "magnitude")
FUSED = ("fused dense", *(f"fused {s} % {kind}" for kind in MASKS for s in SPARSITIES))
PROVIDERS = (REFERENCE, "SpikingJelly multi-step", "plain", *FUSED)


def zero_small(model: nn.Module) -> None:
    """The published code's way of keeping pruned weights at zero: no gradient where ``|w| < 1e-6``."""
    for name, p in model.named_parameters():
        if "weight" in name and p.dim() > 1 and p.grad is not None:
            p.grad.data = torch.where(p.data.abs() < 1e-6, torch.zeros_like(p.grad), p.grad)


def mask_of(model: nn.Module, provider: str) -> ss.Mask | None:
    """The mask that a provider's name asks for: uniform random, or by global magnitude of the initial weights."""
    if "%" not in provider:
        return None
    sparsity = float(provider.split()[1])
    if provider.endswith("magnitude"):
        return ss.magnitude_mask(model, sparsity)
    generator = torch.Generator().manual_seed(1)
    weights = ss.tickets.prunable(model)
    return ss.Mask({n: torch.rand(p.shape, generator=generator) >= sparsity / 100 for n, p in weights.items()})


def make_step(provider: str, model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Callable[[], float]:
    """A training step of one provider at the weights of ``model``; :data:`REFERENCE` as the published scripts do."""
    net = copy.deepcopy(model)
    if provider == REFERENCE:
        net = TimeLoop(model)  # type: ignore[arg-type]
    elif provider == "SpikingJelly multi-step":
        net = MultiStep(model)  # type: ignore[arg-type]
    elif provider in FUSED:
        net = ss.fuse(net)
    net = net.to(x.device).train()
    mask = mask_of(net, provider)
    options: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
    if mask is None:
        optimizer: torch.optim.Optimizer = torch.optim.SGD(net.parameters(), **options)
    else:
        mask.apply_(net)
        optimizer = ss.live_optimizer(torch.optim.SGD, net, mask, **options)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = ss.temporal_cross_entropy(net(x), y)
        loss.backward()
        if provider == REFERENCE:
            zero_small(net)
        optimizer.step()
        return float(loss.detach())

    return step


def prepare(args: argparse.Namespace, arch: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """Network and one batch, the same in every process."""
    torch.manual_seed(0)
    model = ss.build_model(arch, timesteps=args.timestep)
    x = torch.randn(args.batch_size, 3, 32, 32, device=args.device)
    return model, x, torch.randint(0, 10, (args.batch_size,), device=args.device)


def run(args: argparse.Namespace) -> list[Row]:
    """Time all providers in turn, then measure the peak memory of each in a process of its own (on a CPU)."""
    rows: list[Row] = []
    unknown = sorted(set(args.providers) - set(PROVIDERS))
    if unknown:
        raise ValueError(f"unknown provider {unknown[0]!r}: choose from {', '.join(PROVIDERS)}")
    chosen = list(dict.fromkeys([REFERENCE, *args.providers]))
    for arch in args.arch:
        model, x, y = prepare(args, arch)
        case = f"train-step {arch} 3x32x32 T={args.timestep} batch {args.batch_size}"
        if args.only != "memory":
            timings = interleaved({p: make_step(p, model, x, y) for p in chosen}, args.rounds, 1, args.device)
            rows += make_rows(case, "seconds", timings, args.device)
            rows += make_rows(case, "times faster", ratios(timings, REFERENCE), args.device)
        if args.device == "cpu" and args.only != "time":  # after the timing, which leaves its plans on disk
            peaks = measure_peaks(chosen, arch, args.batch_size, args.timestep)
            rows += make_rows(case, "peak MB", peaks, args.device)
            rows += make_rows(case, "of the reference's memory", ratios(peaks, REFERENCE, inverse=True), args.device)
    return rows


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of this case."""
    parser.add_argument("--arch", nargs="+", default=["vgg16", "resnet19"], help="networks (default vgg16 resnet19)")
    parser.add_argument("--batch_size", type=int, default=16, help="images a step (default 16)")
    parser.add_argument("--timestep", type=int, default=5, help="timesteps T (default 5)")
    parser.add_argument("--only", choices=("time", "memory"), help="one of the two (default both)")
    parser.add_argument("--providers", nargs="+", default=list(PROVIDERS), help="which ones (default all)")
