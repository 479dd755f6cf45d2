"""Neurons that are written into the loop itself: their recurrence is cut out of the graph and made a module.

``mem = mem * 0.5 + conv(x[t]); s = fire(mem - 1); mem = mem - s`` leaves a circle of functions in a graph whose loop is
rolled up. What the circle reads at each step and what others read of it are a sequence in and a sequence out, so it can
be asked what it computes like any other neuron.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import fx, nn

from snn_sparse.fusion.lift import is_elementwise
from snn_sparse.fusion.tidy import shape_of, stack

Tensor = torch.Tensor
ZEROS = (torch.zeros, torch.zeros_like, Tensor.new_zeros)


def is_zeros(node: fx.Node) -> bool:
    """Whether a node is a tensor of zeros, from which a potential starts."""
    full = node.target in (torch.full_like, torch.full) and len(node.args) > 1 and node.args[1] == 0
    return node.target in ZEROS or bool(full)


def is_start(node: fx.Node) -> bool:
    """Whether a node is zeros, or computed element by element from nothing else."""
    return is_zeros(node) or (
        is_elementwise(node.target) and bool(node.all_input_nodes) and all(map(is_start, node.all_input_nodes))
    )


class Body:
    """A graph of functions that can be called; equal to another that calls the same functions in the same way."""

    def __init__(self, graph: fx.Graph) -> None:
        self._run = fx.GraphModule({}, graph)
        targets = tuple(node.target for node in graph.nodes if node.op == "call_function")
        self._what = (self._run.code, targets)

    def __call__(self, x: Tensor) -> Tensor:
        """Run it."""
        return self._run(x)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Body) and other._what == self._what

    def __hash__(self) -> int:
        return hash(self._what)

    def __deepcopy__(self, memo: Any) -> "Body":
        return self  # it holds no tensor


class InlineNeuron(nn.Module):
    """A neuron that was written into a loop: a sequence [T, N, ...] in, one out, from rest.

    Args:
        graph: of one input.
    """

    def __init__(self, graph: fx.Graph) -> None:
        super().__init__()
        self.body = Body(graph)

    def forward(self, x: Tensor) -> Tensor:
        """Run all steps."""
        return self.body(x)


def ends(circle: Collection[fx.Node]) -> tuple[list[fx.Node], list[fx.Node]] | None:
    """Find what a circle of functions reads, and what others read of it, in order; None: it is no neuron's.

    Args:
        circle: the nodes that depend on each other.
    """
    if any(node.op != "call_function" for node in circle):
        return None
    read: dict[fx.Node, None] = {}
    answers = []
    for node in circle:
        for operand in node.all_input_nodes:
            if operand in circle:
                continue
            if not is_start(operand):
                read[operand] = None
            elif shape_of(operand) != shape_of(node):
                return None
        if any(user not in circle for user in node.users):
            answers.append(node)
    shapes = {shape_of(n) for n in [*read, *answers]}
    if len(read) != len(answers) or len(answers) < 2 or len(shapes) != 1 or None in shapes:
        return None
    return list(read), answers


def cut_out(circle: Collection[fx.Node], read: list[fx.Node], answers: list[fx.Node]) -> InlineNeuron:
    """Make a circle of functions a module.

    Args:
        circle: in the order of the graph.
        read: what it reads at each step.
        answers: what others read of it at each step.
    """
    graph = fx.Graph()
    x = graph.placeholder("x")
    copies: dict[fx.Node, fx.Node] = {n: graph.call_function(torch.select, (x, 0, t)) for t, n in enumerate(read)}

    def copied(node: fx.Node) -> fx.Node:
        if node not in copies:  # zeros, from which the potential starts
            zeros = is_zeros(node)
            copies[node] = (
                graph.call_function(torch.zeros_like, (copies[read[0]],)) if zeros else graph.node_copy(node, copied)
            )
        return copies[node]

    for node in circle:
        copies[node] = graph.node_copy(node, copied)
    graph.output(graph.call_function(stack, ([copies[n] for n in answers], 0)))
    return InlineNeuron(graph)
