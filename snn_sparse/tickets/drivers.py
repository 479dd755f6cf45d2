"""Which driver runs which method: the one place to register a new search."""

from collections.abc import Callable

from snn_sparse.tickets.controls import random_tickets, snip, transferred_tickets
from snn_sparse.tickets.early_bird import early_bird
from snn_sparse.tickets.imp import iterative_magnitude_pruning
from snn_sparse.tickets.search import Search

DRIVERS: dict[str, Callable[[Search], None]] = {
    "imp": iterative_magnitude_pruning,
    "imp+et": iterative_magnitude_pruning,
    "eb": early_bird,
    "eb+et": early_bird,
    "random": random_tickets,
    "snip": snip,
    "transfer": transferred_tickets,
}


def run_search(search: Search) -> None:
    """Run the search that ``search.settings.method`` names, or go on with it.

    Args:
        search: settings, data and directory.

    Raises:
        RunInUseError: another process has its directory.
        TicketError, DamagedFileError: a file that cannot be made again is damaged; named.
    """
    with search.session():
        DRIVERS[search.settings.method](search)
