"""How layers compute, timed by one process of a group for all."""

import itertools
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from snn_sparse.training.distributed import PATIENCE, Group
from snn_sparse.tuning import Winner
from snn_sparse.tuning.tuner import Store


class SharedPlans:
    """Winners of races for all ranks: had each timed its layers for itself, they might choose differently.

    Rank 0 looks into its own store, and publishes what it finds there or is given; the others wait for that. So all
    must compute layers of the same sizes inside :func:`snn_sparse.tuning.choosing`, as
    :func:`snn_sparse.training.loop.dealt` sees to.

    Args:
        group: the processes.
        own: rank 0's store; other ranks need none.
        patience: seconds that another rank waits for rank 0.
    """

    _made = itertools.count()  # the same on all ranks, which go through the same runs

    def __init__(self, group: Group, own: Store | None, patience: float = PATIENCE.total_seconds()) -> None:
        self._group, self._own, self._patience = group, own, timedelta(seconds=patience)
        self._store: Any = None
        if group.size > 1:
            name, everywhere = f"snn_sparse/plans/{next(self._made)}", dist.distributed_c10d._get_default_store()
            self._store = dist.PrefixStore(name, everywhere)

    def get(self, key: str, parse: Callable[[Any], Winner]) -> Winner | None:
        """Return what ``parse`` makes of the winner of a race; None, on rank 0 alone: it must be run.

        Raises:
            RuntimeError: rank 0 has published nothing for too long.
        """
        if self._group.first and self._own is not None:
            found = self._own.get(key, parse)
            if found is not None:
                self._publish(key, found.as_dict())
            return found
        try:
            self._store.wait([key], self._patience)
        except dist.DistStoreError:
            raise RuntimeError(f"rank 0 has not told rank {self._group.rank} how to compute {key!r}") from None
        return parse(json.loads(self._store.get(key)))

    def put(self, key: str, value: Any) -> None:
        """Remember a winner and publish it; does nothing on other ranks than 0."""
        if self._group.first and self._own is not None:
            self._own.put(key, value)
            self._publish(key, value)

    def _publish(self, key: str, value: Any) -> None:
        if self._store is not None:
            self._store.set(key, json.dumps(value))
