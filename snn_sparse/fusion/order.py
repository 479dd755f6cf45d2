"""Orders and circles of a dependency graph."""

import heapq
from collections.abc import Mapping
from typing import Any


def components(depends: Mapping[Any, set[Any]]) -> list[list[Any]]:
    """Group units that depend on each other (Tarjan's strongly connected components, without recursion)."""
    index: dict[Any, int] = {}
    low: dict[Any, int] = {}
    on_stack: set[Any] = set()
    stack: list[Any] = []
    found: list[list[Any]] = []
    for root in depends:
        if root in index:
            continue
        work = [(root, iter(depends[root]))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        while work:
            unit, others = work[-1]
            following = next((o for o in others if o not in index or o in on_stack), None)
            if following is None:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[unit])
                if low[unit] == index[unit]:
                    at = stack.index(unit)
                    found.append(stack[at:])
                    on_stack.difference_update(stack[at:])
                    del stack[at:]
            elif following in index:
                low[unit] = min(low[unit], index[following])
            else:
                index[following] = low[following] = len(index)
                stack.append(following)
                on_stack.add(following)
                work.append((following, iter(depends[following])))
    return found


def in_order(depends: Mapping[Any, set[Any]], rank: Mapping[Any, int]) -> list[Any]:
    """List units so that each comes behind what it depends on, those of lower rank first where there is a choice."""
    waiting = {unit: len(read) for unit, read in depends.items()}
    readers: dict[Any, list[Any]] = {}
    for unit, read in depends.items():
        for other in read:
            readers.setdefault(other, []).append(unit)
    ready = [(rank[u], i, u) for i, (u, count) in enumerate(waiting.items()) if count == 0]
    heapq.heapify(ready)
    found, count = [], len(ready)
    while ready:
        _, _, unit = heapq.heappop(ready)
        found.append(unit)
        for reader in readers.get(unit, ()):
            waiting[reader] -= 1
            if waiting[reader] == 0:
                count += 1
                heapq.heappush(ready, (rank[reader], len(depends) + count, reader))
    return found
