"""One training step (forward, loss, backward, SGD) of the published networks, providers side by side."""

import argparse
import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import snn_sparse as ss
from benchmarks import gpu_train_step
from benchmarks.masks import KINDS, mask_of, zero_small
from benchmarks.memory import measure_peaks
from benchmarks.rows import Row, make_rows
from benchmarks.spikingjelly_nets import MultiStep, TimeLoop
from benchmarks.timing import interleaved, ratios
from snn_sparse.models import SpikingNetwork

REFERENCE = "SpikingJelly time loop"
SPARSITIES = (75, 90, 95, 98)
FUSED = ("fused dense", *(f"fused {s} % {kind}" for kind in KINDS for s in SPARSITIES))
PROVIDERS = (REFERENCE, "SpikingJelly multi-step", "plain", *FUSED)


def make_step(provider: str, model: SpikingNetwork, x: torch.Tensor, y: torch.Tensor) -> Callable[[], float]:
    """A training step of one provider at the weights of ``model``; :data:`REFERENCE` as the published scripts do."""
    net: nn.Module = copy.deepcopy(model)
    if provider == REFERENCE:
        net = TimeLoop(model)
    elif provider == "SpikingJelly multi-step":
        net = MultiStep(model)
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


def prepare(args: argparse.Namespace, arch: str) -> tuple[SpikingNetwork, torch.Tensor, torch.Tensor]:
    """Network and one batch, the same in every process."""
    torch.manual_seed(0)
    model = ss.build_model(arch, timesteps=args.timestep)
    x = torch.randn(args.batch_size, 3, 32, 32, device=args.device)
    return model, x, torch.randint(0, 10, (args.batch_size,), device=args.device)


def run(args: argparse.Namespace) -> list[Row]:
    """Time all providers in turn, then measure the peak memory of each in a process of its own (on a CPU)."""
    on_gpu = args.device.startswith("cuda")
    args.providers = args.providers or list(gpu_train_step.PROVIDERS if on_gpu else PROVIDERS)
    if args.batch_size is None:
        args.batch_size = 128 if on_gpu else 16
    if args.batch_size < 1:
        raise ValueError(f"--batch_size must be at least 1, got {args.batch_size}")
    if on_gpu:
        return gpu_train_step.run(args, prepare)
    return _run_on_cpu(args)


def _run_on_cpu(args: argparse.Namespace) -> list[Row]:
    rows: list[Row] = []
    unknown = sorted(set(args.providers) - set(PROVIDERS))
    if unknown:
        raise ValueError(f"unknown provider {unknown[0]!r}: choose from {', '.join(PROVIDERS)}")
    if args.ticket:
        raise ValueError("--ticket needs --device cuda")
    chosen = list(dict.fromkeys([REFERENCE, *args.providers]))
    for arch in args.arch:
        model, x, y = prepare(args, arch)
        case = f"train-step {arch} 3x32x32 T={args.timestep} batch {args.batch_size}"
        if args.only != "memory":
            timings = interleaved({p: make_step(p, model, x, y) for p in chosen}, args.rounds, 1, args.device)
            rows += make_rows(case, "seconds", timings, args.device)
            rows += make_rows(case, "times faster", ratios(timings, REFERENCE), args.device)
        if args.only != "time":  # after the timing, which leaves its plans on disk
            peaks = measure_peaks(chosen, arch, args.batch_size, args.timestep)
            rows += make_rows(case, "peak MB", peaks, args.device)
            rows += make_rows(case, "of the reference's memory", ratios(peaks, REFERENCE, inverse=True), args.device)
    return rows


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of this case."""
    parser.add_argument("--arch", nargs="+", default=["vgg16", "resnet19"], help="networks (default vgg16 resnet19)")
    parser.add_argument("--batch_size", type=int, help="images a step (default 16, on a GPU 128)")
    parser.add_argument("--timestep", type=int, default=5, help="timesteps T (default 5)")
    parser.add_argument("--only", choices=("time", "memory"), help="one of the two (default both)")
    parser.add_argument("--providers", nargs="+", help="which ones (default all)")
    parser.add_argument(
        "--ticket", nargs="+", default=[], metavar="FILE", help="on a GPU: step under the masks of these tickets too"
    )
