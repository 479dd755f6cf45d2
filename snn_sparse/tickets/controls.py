"""Controls of winning tickets: random masks, SNIP, and tickets found on a conventional network."""

from dataclasses import replace
from pathlib import Path

from snn_sparse.models import SpikingNetwork
from snn_sparse.tickets.imp import iterative_magnitude_pruning
from snn_sparse.tickets.mask import Mask
from snn_sparse.tickets.pruning import random_mask, snip_mask
from snn_sparse.tickets.run_files import RunFiles
from snn_sparse.tickets.search import Search, rewind, run_directory_of, snapshot
from snn_sparse.tickets.settings import SPARSITIES
from snn_sparse.tickets.ticket import Ticket
from snn_sparse.tickets.ticket_header import complete_config


def random_tickets(search: Search) -> None:
    """For each ticket of another search: a random mask with the same number of live weights in every layer.

    Training starts from the same weights as the ticket's (those that its search rewound to) and takes as many epochs.

    Args:
        search: settings, data and directory of the control; ``settings.like`` is a run directory (every level but the
            dense one), or one ticket file in it.

    Raises:
        ValueError: ``like`` holds no ticket, belongs to another network, or has changed since this control began.
    """
    like = Path(search.settings.like or "")
    tickets, dense = search.group.on_first(lambda: _tickets_of(like))
    model = search.new_model()
    for ticket in tickets:
        if not {"level", "epochs"} <= ticket.meta.keys():
            raise ValueError(f"like {like} is a ticket from no search of snn-sparse: its meta has no level or epochs")
        if {**complete_config(ticket.config), "timesteps": 0} != {**model.config, "timesteps": 0}:
            raise ValueError(f"like {like} is a ticket of another network: {ticket.config}")
    search.planned_epochs = sum(int(t.meta["epochs"]) for t in tickets)
    for ticket in tickets:
        level = int(ticket.meta["level"])
        copied = ticket.mask.fingerprint()
        earlier = search.finished(level)
        if earlier is not None:
            if earlier.meta.get("like", copied) != copied:
                raise ValueError(f"like {like} has changed since this control began: level {level} has another mask")
            continue
        mask = random_mask(ticket.mask, search.generator("random mask", level)).to(search.settings.device)
        rewind(model, dense.rewind)
        result = search.train(model, mask, level, int(ticket.meta["epochs"]))
        search.finish(model, mask, dense.rewind, level, result, like=copied)


def _tickets_of(like: Path) -> tuple[list[Ticket], Ticket]:
    """The pruned tickets that ``like`` names, and the dense one."""
    files = RunFiles(run_directory_of(like))
    tickets = [Ticket.load(like)] if like.is_file() else [t for n in files.levels() if (t := files.load_ticket(n))]
    tickets = [t for t in tickets if t.mask.sparsity > 0]
    dense = files.load_ticket(0)
    if not tickets or dense is None:
        raise ValueError(f"like {like} holds no finished ticket to compare with (and its dense level 0)")
    return tickets, dense


def snip(search: Search) -> None:
    """Prune the initial weights by SNIP to ``sparsity_round``'s sparsity, on one batch, and train them.

    Args:
        search: settings, data and directory.
    """
    s = search.settings
    search.planned_epochs = s.end_iter
    if search.finished(1) is not None:
        return
    model = search.new_model()
    initial, percent = snapshot(model), SPARSITIES[s.sparsity_round]
    images = search.data.train
    x, y = next(iter(images.batches(s.batch_size, generator=search.generator("snip"))))
    mask = snip_mask(model, x, y, percent) if percent else Mask.dense(model)
    mask = Mask(search.group.broadcast_state(dict(mask)))
    result = search.train(model, mask, 1, s.end_iter)
    search.finish(model, mask, initial, 1, result)


def transferred_tickets(search: Search) -> None:
    """IMP on the same network with ReLU, one step; its masks then take the place of magnitude pruning on the SNN.

    The conventional network sees a sequence frame by frame. Its search lives in the sub-directory ``relu/``.

    Args:
        search: settings, data and directory.
    """
    relu = Search(
        replace(search.settings, method="imp", neuron="relu", timestep=search.data.timesteps or 1),
        search.data,
        search.files.inside("relu"),
        search.progress,
        stop=search.stop,
        group=search.group,
    )
    relu.files.start(relu.settings)
    search.progress.note("transfer: searching on the conventional network (ReLU)")
    iterative_magnitude_pruning(relu)
    search.progress.note("transfer: training the spiking network under those masks")

    def from_relu(level: int, _model: SpikingNetwork, _mask: Mask) -> Mask:
        ticket = relu.files.load_ticket(level)
        assert ticket is not None
        return ticket.mask.to(search.settings.device)

    iterative_magnitude_pruning(search, from_relu)
