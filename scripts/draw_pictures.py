"""Draws the pictures of docs/kernels.md: memory traffic of a layer, counted, and what each way of a convolution skips.

Run it as ``python scripts/draw_pictures.py`` from the repository's root; the pictures go to docs/images/.
"""

import io
from collections import Counter
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib.figure import Figure
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import snn_sparse as ss

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
SHAPE = (5, 4, 8, 16, 16)  # [T, N, C, H, W]; bytes a neuron and step do not depend on it
GREY, ORANGE, BLUE, GREEN = "#9AA5AE", "#E69F00", "#0072B2", "#009E73"
matplotlib.rcParams.update({"svg.hashsalt": "snn_sparse", "font.family": "DejaVu Sans", "font.size": 10})


class Traffic(TorchDispatchMode):
    """Counts the bytes of the maps that operators take and give; views cost nothing, small tensors are left out.

    Args:
        smallest: number of elements from which a tensor counts as a map.
    """

    def __init__(self, smallest: int) -> None:
        super().__init__()
        self.smallest, self.bytes, self.phase = smallest, Counter[str](), "forward"

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view and "detach" not in str(func) and "empty" not in str(func):
            maps = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, torch.Tensor)]
            self.bytes[self.phase] += sum(x.nbytes for x in maps if x.numel() >= self.smallest)
        return out


def counted(net: nn.Module, y: torch.Tensor) -> dict[str, float]:
    """Bytes a neuron and step, forward and backward, of batch norm and neuron on a convolution's output ``y``."""
    given: Any = y.clone().requires_grad_()
    if isinstance(net, TimeLoop):
        given = [y_t.clone().requires_grad_() for y_t in y]
    functional.reset_net(net)
    with Traffic(y[0].numel() // 32) as traffic:
        out = net(given)
    out = out if isinstance(out, list) else [out]
    ones = [torch.ones_like(o) for o in out]
    traffic.phase = "backward"
    with traffic:
        torch.autograd.backward(out, ones)
    return {phase: total / y.numel() for phase, total in traffic.bytes.items()}


class TimeLoop(nn.Module):
    """Batch norm and neuron a step at a time, as the published code runs them; gives a tensor a step."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.lif = neuron.LIFNode(tau=4 / 3, surrogate_function=surrogate.ATan(), detach_reset=True)

    def forward(self, y: list[torch.Tensor]) -> list[torch.Tensor]:
        """T times [N, C, H, W] -> spikes."""
        return [self.lif(self.bn(y_t)) for y_t in y]


def layers() -> dict[str, nn.Module]:
    """The same layer, written three ways."""
    channels = SHAPE[2]
    lif = neuron.LIFNode(tau=4 / 3, surrogate_function=surrogate.ATan(), detach_reset=True, step_mode="m")
    multi = nn.Sequential(layer.BatchNorm2d(channels, step_mode="m"), lif)
    stage = ss.nn.Stage(norm=ss.nn.BatchNorm2d(channels), neuron=ss.nn.LIF(tau=4 / 3))
    return {"time loop": TimeLoop(channels), "multi-step": multi, "one stage": stage}


def draw_traffic() -> Figure:
    """Bars of bytes a neuron and step."""
    y = torch.randn(SHAPE)
    found = {name: counted(net, y) for name, net in layers().items()}
    figure = Figure(figsize=(5.4, 2.6), layout="constrained")
    axes = figure.subplots()
    names = ["time loop", "multi-step", "one fused\nstage"]
    for y_at, bytes_of in enumerate(found.values()):
        left = 0.0
        for phase, colour in (("forward", BLUE), ("backward", ORANGE)):
            axes.barh(y_at, bytes_of[phase], left=left, color=colour, label=phase if y_at == 0 else None)
            left += bytes_of[phase]
        axes.text(left, y_at, f" {left:.0f} bytes", va="center")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("bytes for each neuron and timestep, float32")
    axes.legend(frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.14)
    return figure


def draw_ways() -> Figure:
    """Products of weights (rows) and inputs (columns) that each way computes."""
    generator = torch.Generator().manual_seed(3)
    rows, columns = 8, 15
    alive = torch.randperm(rows, generator=generator)[:, None] < rows // 4
    spikes = torch.randperm(columns, generator=generator)[None] < columns // 5
    ways = {"dense": alive | ~alive, "at live weights": alive, "spike-driven": spikes}
    figure = Figure(figsize=(5.4, 2), layout="constrained")
    for axes, (name, computed) in zip(figure.subplots(1, 3), ways.items(), strict=True):
        done = computed.expand(rows, columns)
        for row, column in done.nonzero().tolist():
            colour = GREEN if alive[row, 0] and spikes[0, column] else GREY
            axes.add_patch(matplotlib.patches.Rectangle((column, row), 0.9, 0.9, color=colour, linewidth=0))
        axes.set(xlim=(-0.3, columns + 0.2), ylim=(rows + 0.2, -0.3), xticks=[], yticks=[], aspect="equal")
        axes.set_title(f"{name}: {100 * float(done.float().mean()):.0f} %", fontsize=10)
        axes.set_xlabel("inputs")
        axes.set_ylabel("weights" if name == "dense" else "")
    figure.supxlabel("green: needed; grey: computed, but zero; white: left out", fontsize=10)
    return figure


def svg(figure: Figure) -> bytes:
    """A figure as SVG, the same bytes in every run."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def main() -> None:
    """Draw all."""
    for name, draw in (("traffic", draw_traffic), ("ways", draw_ways)):
        path = IMAGES / f"{name}.svg"
        path.write_bytes(svg(draw()))
        print(path)


if __name__ == "__main__":
    main()
