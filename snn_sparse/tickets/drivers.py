"""Which driver runs which method: the one place to register a new search."""

from collections.abc import Callable
from pathlib import Path

from snn_sparse.tickets.controls import random_tickets, snip, transferred_tickets
from snn_sparse.tickets.early_bird import early_bird
from snn_sparse.tickets.imp import iterative_magnitude_pruning
from snn_sparse.tickets.search import Search

DRIVERS: dict[str, Callable[[Search], None]] = {
    "imp": iterative_magnitude_pruning,
    "imp+et": iterative_magnitude_pruning,
    "eb": early_bird,
    "eb+et": early_bird,
    "snip": snip,
    "transfer": transferred_tickets,
}


def run_search(search: Search, like: str | Path | None = None) -> None:
    """Run the search that ``search.settings.method`` names.

    Args:
        search: settings, data and directory.
        like: for ``random`` only: the run or ticket whose layer densities the masks copy.

    Raises:
        ValueError: ``like`` is missing for ``random``, or given for another method.
    """
    method = search.settings.method
    if (method == "random") != (like is not None):
        raise ValueError("like (a run directory or ticket file) goes with method random, and only with it")
    if like is not None:
        random_tickets(search, like)
    else:
        DRIVERS[method](search)
