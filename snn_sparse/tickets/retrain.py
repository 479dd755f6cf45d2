"""Train a ticket again: its rewound weights under its mask, at full T."""

from snn_sparse.tickets.search import Search
from snn_sparse.tickets.ticket import Ticket


def retrain(search: Search, ticket: Ticket) -> None:
    """Train ``ticket`` from its rewound weights for ``settings.end_iter`` epochs at ``settings.timestep`` timesteps.

    Args:
        search: settings, data and directory of the new training.
        ticket: what to train.
    """
    with search.session():
        _retrain(search, ticket)


def _retrain(search: Search, ticket: Ticket) -> None:
    s, level = search.settings, int(ticket.meta.get("level", 0))
    search.planned_epochs = s.end_iter
    if search.finished(level) is not None:
        return
    model = search.new_model()
    model.load_state_dict(ticket.rewind)
    result = search.train(model, ticket.mask.to(s.device), level, s.end_iter)
    search.finish(model, ticket.mask, ticket.rewind, level, result)
