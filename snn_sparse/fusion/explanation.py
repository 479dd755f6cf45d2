"""Explain: what of a network runs inside stages, what does not, and why."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from snn_sparse.fusion.network import FusedNetwork
from snn_sparse.ops.backend import interpreted, library_problem


@dataclass(frozen=True)
class Explanation:
    """Account of what :func:`fuse` made of a network; printed as a table.

    Attributes:
        fused: names of the original's modules that run inside stages.
        left: names of modules that were left as they are -> why; ``""`` is the whole network.
        stages: the modules of each stage, in order.
        plain: why stages on a CPU run on plain PyTorch here, which is slow; empty where the C++ operators run.
    """

    fused: tuple[str, ...]
    left: Mapping[str, str]
    stages: tuple[tuple[str, ...], ...]
    plain: str = ""

    def rows(self) -> list[tuple[str, str]]:
        """List what :meth:`__str__` prints: (stage or module, its parts or the reason)."""
        found = [(f"stage {i}", " -> ".join(parts)) for i, parts in enumerate(self.stages)]
        return found + [(name or "the network", f"left: {reason}") for name, reason in self.left.items()]

    def summary(self) -> str:
        """Tell in a line how many modules run in stages; in a second one if a CPU has only plain PyTorch for them."""
        count = f"{len(self.fused)} modules run in {len(self.stages)} stages, {len(self.left)} were left as they are"
        return f"{count}\non a CPU they run on plain PyTorch, which is slow: {self.plain}" if self.plain else count

    def __str__(self) -> str:
        rows = self.rows()
        width = max((len(name) for name, _ in rows), default=0)
        lines = [f"{name:<{width}}  {text}" for name, text in rows]
        return "\n".join([*lines, self.summary()])


def explain(model: nn.Module) -> Explanation:
    """Tell what of a fused network runs inside stages, and why the rest does not.

    Args:
        model: of :func:`snn_sparse.fuse`, called at least once, or fused with an example.

    Raises:
        TypeError: ``model`` was not fused. ValueError: nothing was captured yet.
    """
    if not isinstance(model, FusedNetwork):
        raise TypeError(f"model must be a fused network, got {type(model).__name__}")
    compiler: Any = model.__dict__["_fused_compiler"]
    if compiler.reason:
        return Explanation((), {"": compiler.reason}, ())
    if compiler.last is None:
        raise ValueError("model has not been called yet: call it, or fuse it with an example")
    walk, sites = compiler.last.walk, compiler.last.sites
    stages = tuple(tuple(node.meta["parts"]) for node in walk.new.nodes if "stage" in node.meta)
    fused = tuple(dict.fromkeys(name for parts in stages for name in parts))
    looked = {name for name in sites.reasons if name in compiler.last.leaves}
    left = {name: sites.reasons.get(name, reason) for name, reason in walk.left.items()}
    left |= {name: sites.reasons[name] for name in looked if name not in fused}
    # Loaded where Triton's interpreter runs, they would take its place.
    return Explanation(fused, left, stages, "" if interpreted() else library_problem())
