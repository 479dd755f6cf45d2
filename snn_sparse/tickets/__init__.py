"""Winning tickets: masks, how they are drawn, the searches of Kim et al. (ECCV 2022), and ticket files."""

from snn_sparse.tickets.early_time import early_timestep
from snn_sparse.tickets.hub import pull_ticket, push_ticket
from snn_sparse.tickets.layer_summary import layer_summary
from snn_sparse.tickets.mask import Mask, mask_distance, prunable
from snn_sparse.tickets.pruning import magnitude_mask, prune_magnitude, random_mask, snip_mask
from snn_sparse.tickets.ticket import Ticket
from snn_sparse.tickets.ticket_file import TicketError, read_header
from snn_sparse.tickets.ticket_header import TicketHeader

__all__ = [
    "Mask",
    "Ticket",
    "TicketError",
    "TicketHeader",
    "early_timestep",
    "layer_summary",
    "magnitude_mask",
    "mask_distance",
    "prunable",
    "prune_magnitude",
    "pull_ticket",
    "push_ticket",
    "random_mask",
    "read_header",
    "snip_mask",
]
