"""Stages: convolution, batch norm, residual, neuron and pool of a rolled-up graph, joined where they follow each other.

The graph is walked once. A layer opens a stage, and what follows it, if nobody else reads what is between, joins the
stage; views in between are only remembered (``axes.py``), so that stages hand each other [T, N, C, H, W] whatever way
the network merges, splits and transposes. What is no part of a stage stays as it was written, on the arrangement that
it was written for.
"""

import torch
from torch import fx

from snn_sparse.fusion.functions import getitem
from snn_sparse.fusion.join_layers import join_convolution, join_norm
from snn_sparse.fusion.join_maps import join_addition, join_pool, on_maps
from snn_sparse.fusion.join_neurons import join_neuron, join_part
from snn_sparse.fusion.sites import Sites
from snn_sparse.fusion.tidy import shape_of
from snn_sparse.fusion.walk import VIEWS, Value, Walk

_LAYERS = {"conv": join_convolution, "linear": join_convolution, "norm": join_norm, "neuron": join_neuron}


def build(graph: fx.Graph, sites: Sites) -> Walk:
    """Join the layers of a rolled-up graph to stages.

    Args:
        graph: of :func:`snn_sparse.fusion.roll_up.roll_up`.
        sites: what the modules at ``call_module`` nodes are.

    Returns:
        the walk: its ``new`` graph, the ``stages`` by name, and what was ``left``.
    """
    walk = Walk(graph, sites)
    for node in graph.nodes:
        if node.op == "output":
            walk.new.output([walk.original(v) if isinstance(v, fx.Node) else v for v in node.args[0]])
        elif not _joins(walk, node):
            _copy(walk, node)
    return walk


def _joins(walk: Walk, node: fx.Node) -> bool:
    """Take a node into a stage, or remember a view; False: it is to be copied."""
    if node.op == "call_module":
        join = _LAYERS.get(walk.sites.kind_of(node) or "")
        return join is not None and join(walk, node)
    x = node.args[0] if node.op == "call_function" and node.args else None
    if not isinstance(x, fx.Node) or x not in walk.values:
        return False
    if node.target is getitem and walk.sites.kind_of(x) == "neuron":
        return join_part(walk, node, x)
    if shape_of(node) is None:
        return False
    if node.target in VIEWS and walk.same_atoms(node, x):
        walk.values[node] = walk.values[x]
        return True
    if node.target is torch.add and len(node.args) == 2 and not node.kwargs and join_addition(walk, node):
        return True
    return join_pool(walk, node) or on_maps(walk, node)


def _copy(walk: Walk, node: fx.Node) -> None:
    """Write a node as it was."""
    if node.op == "call_module":
        walk.left.setdefault(str(node.target), walk.sites.reason(node))
    new = walk.new.node_copy(node, walk.original)
    walk.nodes[node] = new
    if shape_of(node) is not None and node in walk.axes.forms:
        walk.axes.missing[node] = set()
        walk.values[node] = Value(new, walk.axes.form(node))
