"""Iterative magnitude pruning with late rewinding (Frankle et al., ICML 2020; Kim et al., ECCV 2022, Algorithm 1)."""

from collections.abc import Callable

from snn_sparse.models import SpikingNetwork
from snn_sparse.tickets.level import Hooks
from snn_sparse.tickets.mask import Mask
from snn_sparse.tickets.pruning import prune_magnitude
from snn_sparse.tickets.search import Search, rewind, snapshot

NextMask = Callable[[int, SpikingNetwork, Mask], Mask]


def iterative_magnitude_pruning(search: Search, next_mask: NextMask | None = None) -> None:
    """Train; then again and again: prune a quarter of the live weights, rewind the survivors, train.

    With Early-Time (``settings.early_time``) the timesteps are chosen after two epochs of level 0 and kept until the
    last level, which trains at full T.

    Args:
        search: settings, data and directory.
        next_mask: where a level's mask comes from: (level, trained network, mask) -> mask; by magnitude if left out.
    """
    s = search.settings

    def by_magnitude(_level: int, model: SpikingNetwork, mask: Mask) -> Mask:
        return prune_magnitude(model, mask, s.prune_percent, s.pruning_scope)

    next_mask = next_mask or by_magnitude
    search.planned_epochs = s.end_iter + (s.prune_iterations - 1) * (s.end_iter - s.rewinding_epoch)
    if search.memory_lost:
        _recall(search)
    model = search.new_model()
    mask = Mask.dense(model)
    for level in range(s.prune_iterations):
        ticket = search.finished(level)
        if ticket is not None:
            model.load_state_dict(ticket.trained)
            mask = ticket.mask.to(s.device)
            continue
        if level == 0:
            _train_dense(search, model, mask)
            continue
        mask = next_mask(level, model, mask)
        rewind(model, search.memory["rewind"])
        last = level == s.prune_iterations - 1
        model.timesteps = s.timestep if last else search.memory.get("timesteps_early", s.timestep)
        result = search.train(model, mask, level, s.end_iter - s.rewinding_epoch)
        search.finish(model, mask, search.memory["rewind"], level, result)


def _recall(search: Search) -> None:
    """Take from the ticket of level 0, under whose mask all weights are alive, what was to be remembered."""
    dense = search.files.load_ticket(0)
    if dense is not None:
        early = dense.meta["timesteps_early"]
        search.memory = {"rewind": dense.rewind} | ({} if early is None else {"timesteps_early": early})
        search.progress.note("the weights to rewind to are taken from the ticket of level 0")


def _train_dense(search: Search, model: SpikingNetwork, mask: Mask) -> None:
    """Level 0: remember the weights to rewind to, and choose T_early if asked to."""
    s = search.settings

    def after_epoch(done: int) -> None:
        if s.early_time and done == 2:
            model.timesteps = search.choose_timesteps(model)
        if done == s.rewinding_epoch:
            search.memory["rewind"] = snapshot(model)

    if s.rewinding_epoch == 0:
        search.memory["rewind"] = snapshot(model)
    result = search.train(model, mask, 0, s.end_iter, hooks=Hooks(after_epoch=after_epoch))
    search.finish(model, mask, search.memory["rewind"], 0, result)
