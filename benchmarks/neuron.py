"""LIF over a sequence, forward and backward: ours against SpikingJelly's multi-step node."""

import argparse

import torch

from benchmarks.rows import Row, make_rows
from benchmarks.timing import interleaved, ratios
from snn_sparse.nn import LIF

REFERENCE = "SpikingJelly multi-step"


def run(args: argparse.Namespace) -> list[Row]:
    """Time one layer of 64 channels at 32x32 for each T."""
    from spikingjelly.activation_based import functional, neuron, surrogate

    rows: list[Row] = []
    for timesteps in args.timesteps:
        x = torch.randn(timesteps, args.batch_size, 64, 32, 32, device=args.device, requires_grad=True)
        grad = torch.randn_like(x)
        theirs = neuron.LIFNode(tau=4 / 3, surrogate_function=surrogate.ATan(), detach_reset=True, step_mode="m")
        ours = LIF()

        def reference(node: torch.nn.Module = theirs, x: torch.Tensor = x, grad: torch.Tensor = grad) -> None:
            functional.reset_net(node)
            torch.autograd.grad(node(x), x, grad)

        def plain(node: torch.nn.Module = ours, x: torch.Tensor = x, grad: torch.Tensor = grad) -> None:
            torch.autograd.grad(node(x), x, grad)

        timings = interleaved({REFERENCE: reference, "plain": plain}, args.rounds, device=args.device)
        case = f"lif 64x32x32 T={timesteps} batch {args.batch_size}"
        rows += make_rows(case, "seconds", timings, args.device)
        rows += make_rows(case, "times faster", ratios(timings, REFERENCE), args.device)
    return rows


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of this case."""
    parser.add_argument("--timesteps", nargs="+", type=int, default=[1, 4], help="values of T (default 1 4)")
    parser.add_argument("--batch_size", type=int, default=16, help="samples (default 16)")
