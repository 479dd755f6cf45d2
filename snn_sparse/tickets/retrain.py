"""Train a ticket again: its rewound weights under its mask, at full T."""

from snn_sparse.tickets.search import Search
from snn_sparse.tickets.settings import Settings
from snn_sparse.tickets.ticket import Ticket
from snn_sparse.tickets.ticket_file import check_network
from snn_sparse.training import Dataset


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
    model.load_state_dict(ticket.state("rewind"))
    result = search.train(model, ticket.mask.to(s.device), level, s.end_iter)
    search.finish(model, ticket.mask, ticket.rewind, level, result)


def settings_of(ticket: Ticket) -> Settings:
    """Settings of the search that found a ticket.

    Raises:
        ValueError: it comes from no search, or one is out of range. TypeError: one is unknown or of the wrong type.
    """
    for name in ("settings", "epochs", "level"):
        if name not in ticket.meta:
            raise ValueError(f"ticket comes from no search of snn-sparse: its meta has no {name!r}")
    return Settings(**ticket.meta["settings"])


def check_trainable(ticket: Ticket, settings: Settings, data: Dataset) -> None:
    """Check that a ticket fits the network which ``settings`` and the data set ask for; nothing is built.

    Raises:
        ValueError: the ticket has no weights to start from, or a weight of another shape; named.
    """
    config = {
        "arch": settings.arch,
        "num_classes": data.num_classes,
        "in_channels": data.in_channels,
        "neuron": settings.neuron,
        "width": settings.width,
    }
    try:
        check_network(config, ticket.mask, {"rewind": ticket.state("rewind")})
    except ValueError as error:
        raise ValueError(f"ticket cannot be trained as {settings.arch} on {data.name}: {error}") from None
