"""Copies of networks in the middle of their work."""

import copy
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves


def copied(model: nn.Module, shared: bool = False) -> nn.Module:
    """Copy a network; what neurons keep of the last step is copied without the graph that computed it.

    Args:
        model: the network.
        shared: whether the copy has the very parameters and buffers.
    """
    memo: dict[int, Any] = {id(t): t for t in (*model.parameters(), *model.buffers())} if shared else {}
    for value in tree_leaves([m.__dict__ for m in model.modules()]):
        if isinstance(value, torch.Tensor) and not value.is_leaf:
            memo[id(value)] = value.detach().clone()
    return copy.deepcopy(model, memo)
