"""What the examples share: sizes on the command line, and a network side by side with its fused twin."""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import snn_sparse as ss

Loss = Callable[[Any], torch.Tensor]
QUICK = {"timesteps": 2, "batch_size": 2, "width": 8, "rounds": 1}


def arguments(text: str | None, **sizes: int) -> argparse.Namespace:
    """Read the sizes of an example from the command line.

    Args:
        text: what the example is about.
        **sizes: names and defaults; ``--quick`` makes them small.
    """
    parser = argparse.ArgumentParser(description=text)
    sizes = {**sizes, "rounds": 5}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, help=f"default {default}")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs; no figures to go by")
    args = parser.parse_args()
    for name, default in sizes.items():
        if getattr(args, name) is None:
            setattr(args, name, QUICK.get(name, default) if args.quick else default)
        elif getattr(args, name) < 1:
            parser.error(f"{name} must be at least 1, got {getattr(args, name)}")
    return args


def compare(
    model: nn.Module,
    fast: nn.Module,
    x: torch.Tensor,
    loss: Loss,
    reset: Callable[[nn.Module], object],
    rounds: int,
    dtype: torch.dtype = torch.float64,
) -> None:
    """Print what was fused, how far outputs and gradients are apart, and the time of a training step before and after.

    Args:
        model: as its author wrote it.
        fast: ``ss.fuse(model)``.
        x: a batch.
        loss: of the network's answer.
        reset: puts the neurons of a network to rest.
        rounds: timed steps of each.
        dtype: to compare in; in float64, spikes do not depend on the order in which a sum is rounded.
    """
    output, gradient = _differences(model, x, loss, reset, dtype)
    fast(x)  # captured, and checked against the original
    print(str(ss.explain(fast)).splitlines()[-1])
    print(f"largest difference in {str(dtype)[6:]}: outputs {output:.0e}, gradients {gradient:.0e} (of the largest)")
    before, after = _seconds({"before": model, "after": fast}, x, loss, reset, rounds)
    print(
        f"a training step: {1e3 * before:.1f} ms before, {1e3 * after:.1f} ms after: {before / after:.2f} times faster"
    )


def _differences(model: nn.Module, x: torch.Tensor, loss: Loss, reset: Any, dtype: torch.dtype) -> tuple[float, float]:
    found = []
    for net in (copy.deepcopy(model).to(dtype), ss.fuse(copy.deepcopy(model).to(dtype), verify=False)):
        reset(net)
        out = net(x.to(dtype))
        loss(out).backward()
        found.append((torch.cat([v.detach().flatten() for v in _tensors(out)]), [p.grad for p in net.parameters()]))
    (a, gradients), (b, others) = found
    scale = max(float(g.abs().max()) for g in gradients)
    apart = max(float((g - h).abs().max()) for g, h in zip(gradients, others, strict=True))
    return float((a - b).abs().max() / a.abs().max()), apart / scale


def _tensors(out: Any) -> tuple[torch.Tensor, ...]:
    return (out,) if isinstance(out, torch.Tensor) else tuple(out)


def _seconds(nets: dict[str, nn.Module], x: torch.Tensor, loss: Loss, reset: Any, rounds: int) -> list[float]:
    """Median of each, timed in turn so that a slow moment of the machine hits both; the first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in nets}
    optimizers = {name: torch.optim.SGD(net.parameters(), lr=1e-3) for name, net in nets.items()}
    for _ in range(1 + rounds):
        for name, net in nets.items():
            started = time.perf_counter()
            reset(net)
            optimizers[name].zero_grad()
            loss(net(x)).backward()
            optimizers[name].step()
            seconds[name].append(time.perf_counter() - started)
    return [statistics.median(times[1:]) for times in seconds.values()]
