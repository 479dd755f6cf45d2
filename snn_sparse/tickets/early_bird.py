"""Early-Bird tickets (You et al., ICLR 2020; Kim et al., ECCV 2022): the mask settles long before the weights do."""

from snn_sparse.models import SpikingNetwork
from snn_sparse.tickets.level import Hooks
from snn_sparse.tickets.mask import Mask, mask_distance
from snn_sparse.tickets.pruning import magnitude_mask
from snn_sparse.tickets.search import Search, snapshot
from snn_sparse.tickets.settings import SPARSITIES
from snn_sparse.tickets.ticket import Ticket

WINDOW = 5  # masks that are compared
DISTANCE = 0.02  # largest fraction of differing entries at which the mask counts as settled


def early_bird(search: Search) -> None:
    """Train densely until the mask at the target sparsity settles; then train the *initial* weights under that mask.

    Level 0 is the dense run (learning rate doubled), level 1 the ticket. With Early-Time (``settings.early_time``) the
    dense run goes on at T_early after two epochs. A mask that never settles within ``end_iter`` epochs is taken as last
    drawn, before the last epoch.

    Args:
        search: settings, data and directory.
    """
    s = search.settings
    search.planned_epochs = 2 * s.end_iter
    model = search.new_model()
    initial = snapshot(model)
    dense = search.finished(0)
    if search.finished(1) is not None:
        return
    if dense is not None and search.memory_lost:
        search.progress.note("level 0 is trained again, since the mask that it drew is lost")
    if dense is None or search.memory_lost:
        dense = _dense_run(search, model)
    search.planned_epochs = int(dense.meta["epochs"]) + s.end_iter
    mask = Mask(search.memory["masks"][-1])
    model = search.new_model()
    result = search.train(model, mask, 1, s.end_iter)
    search.finish(model, mask, initial, 1, result, early_bird_epoch=search.memory["drawn"])


def _dense_run(search: Search, model: SpikingNetwork) -> Ticket:
    s = search.settings
    percent = SPARSITIES[s.sparsity_round]
    initial = snapshot(model)
    dense = Mask.dense(model)

    def settled(done: int) -> bool:
        """Draw the mask before epoch ``done + 1``; whether it differs little from the four before it."""
        drawn = magnitude_mask(model, percent) if percent else dense
        masks = [*search.memory.get("masks", []), dict(drawn)][-WINDOW:]
        search.memory.update(masks=masks, drawn=done)
        if len(masks) < WINDOW:
            return False
        farthest = max(mask_distance(drawn, Mask(earlier)) for earlier in masks[:-1])
        if farthest < DISTANCE:
            search.progress.note(
                f"Early-Bird: the mask at {percent} % settled after epoch {done} (distance {farthest:.4f})"
            )
        return farthest < DISTANCE

    def after_epoch(done: int) -> None:
        if s.early_time and done == 2:
            model.timesteps = search.choose_timesteps(model)

    result = search.train(model, dense, 0, s.end_iter, 2 * s.learning_rate, Hooks(settled, after_epoch))
    search.memory["masks"] = search.memory["masks"][-1:]
    return search.finish(model, dense, initial, 0, result)
