"""Training of one level: from its checkpoint if there is one, to its end or a checkpoint wherever it stops."""

import signal
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch

from snn_sparse.models import SpikingNetwork
from snn_sparse.tickets.firing_rates import follow_rates, rates_of, set_rates
from snn_sparse.tickets.mask import Mask
from snn_sparse.tickets.progress import BatchReport, EpochReport
from snn_sparse.training import (
    GradientAverage,
    NonFiniteLossError,
    TrainStep,
    evaluate,
    make_optimizer,
    make_scheduler,
    train_epoch,
)
from snn_sparse.training.data import batch_bounds
from snn_sparse.training.loop import Sums, check_finite, dealt
from snn_sparse.training.step import PRECISIONS
from snn_sparse.training.stopping import StoppedError

CHECKPOINT_SHARE = 0.05  # checkpoints may cost this share of the training time
STOP_EVERY = 16  # steps on a GPU after which processes ask each other whether to stop, for which they wait for it
BETWEEN_CHECKPOINTS = 60.0  # seconds of an epoch after which it is saved in the middle


class DivergedError(RuntimeError):
    """The loss of a search became NaN or infinite; names level and epoch."""


@dataclass
class Level:
    """Result of training one level.

    Attributes:
        epochs: done.
        accuracy: of the test set in percent, when last measured.
        seconds: of training and evaluation.
    """

    epochs: int = 0
    accuracy: float = 0.0
    seconds: float = 0.0


@dataclass
class Hooks:
    """Where a search looks on while a level trains.

    Attributes:
        before_epoch: called with the number of epochs done; true: stop here.
        after_epoch: called with the number of epochs done.
    """

    before_epoch: Callable[[int], bool] = lambda _done: False
    after_epoch: Callable[[int], None] = lambda _done: None


class LevelTraining:
    """One level under way.

    Args:
        search: a :class:`snn_sparse.tickets.search.Search`, of which the level is one.
        model: starts from its present weights and timesteps.
        mask: applied first.
        level: its number.
        epochs: how many it takes.
        learning_rate: at the first epoch.
    """

    def __init__(
        self, search: Any, model: SpikingNetwork, mask: Mask, level: int, epochs: int, learning_rate: float
    ) -> None:
        s = search.settings
        mask.apply_(model)
        live_only = s.backend == "fused" and mask.sparsity > 0
        keep = mask if live_only else None
        self.optimizer = make_optimizer(model, s.optimizer, learning_rate, s.momentum, s.weight_decay, keep)
        self.scheduler = make_scheduler(self.optimizer, s.scheduler, epochs)
        self.search, self.model, self.mask, self.level, self.epochs = search, model, mask, level, epochs
        self._sparsity, self._batches = mask.sparsity, 0  # counted once; batches: of the epoch under way
        self.sums = Sums()  # of the epoch under way
        self.result = Level()
        self._parts: dict[str, Any] = {"model": model, "optimizer": self.optimizer, "scheduler": self.scheduler}
        self._resume()
        self.group = search.group
        self.group.check_same(f"mask and weights at the start of level {level}", (dict(mask), model.state_dict()))
        keep = mask if mask.sparsity > 0 else None
        self._average = GradientAverage(self.group, model, keep) if self.group.size > 1 else None
        self.step = TrainStep(model, self.optimizer, dtype=PRECISIONS[s.precision], reduce=self._average)
        self._saved_at, self._save_seconds = time.perf_counter(), 0.0

    def run(self, hooks: Hooks) -> Level:
        """Train to the end, or to where ``hooks.before_epoch`` stops.

        Raises:
            DivergedError: the loss became NaN or infinite.
            StoppedError: on request; a checkpoint of this moment is written.
        """
        s, result = self.search.settings, self.result
        while result.epochs < self.epochs:
            self._started = time.perf_counter()
            if not self.sums.batches and hooks.before_epoch(result.epochs):
                break
            loss = self._epoch()
            rate, timesteps = float(self.optimizer.param_groups[0]["lr"]), self.model.timesteps
            self.scheduler.step()
            result.epochs += 1
            hooks.after_epoch(result.epochs)
            due = result.epochs % s.valid_freq == 0 or result.epochs == self.epochs
            result.accuracy = self._accuracy() if due else result.accuracy
            seconds = self._lap()
            self._tell(loss, result.accuracy if due else None, timesteps, rate, seconds)
            self._end_epoch()
        if result.epochs % s.valid_freq and result.epochs != self.epochs:  # stopped between two evaluations
            result.accuracy = self._accuracy()
        return result

    def _lap(self) -> float:
        """Count the seconds since the last lap; returns those of this epoch, laps before a stop included."""
        now = time.perf_counter()
        self.result.seconds += now - self._started
        self.sums.seconds += now - self._started
        self._started = now
        return self.sums.seconds

    def _epoch(self) -> float:
        search, level, done, group = self.search, self.level, self.result.epochs, self.group
        images, batch_size, smallest = search.data.train, search.settings.batch_size, group.smallest_batch
        if not self.sums.batches:
            self._follow_rates()
        sizes = [part.stop - part.start for part in batch_bounds(len(images), batch_size, smallest)]
        self._batches = len(sizes)
        pieces = images.batches(
            batch_size,
            augmentation=search.data.augmentation,
            generator=search.generator(level, done),
            memory_format=torch.channels_last,
            start=self.sums.batches,
            timesteps=self.model.timesteps,  # of a sequence its first frames
            shard=group.shard,
            smallest=smallest,
        )
        try:
            with closing(dealt(pieces, sizes[self.sums.batches :], group)) as batches:
                return train_epoch(self.model, batches, self.optimizer, self.step, self.sums, self._after_step, group)
        except NonFiniteLossError as error:
            kept = search.files.checkpoint(level)
            where = f"last good checkpoint: {kept}" if kept.exists() else "no checkpoint of this level yet"
            raise DivergedError(f"{error} at level {level}, epoch {done + 1}; {where}") from error

    def _follow_rates(self) -> None:
        """Look at firing rates before an epoch: they depend on its weights alone, so a resumed run sees the same."""
        s, group = self.search.settings, self.group
        if s.backend == "fused" and torch.device(s.device).type == "cpu" and not s.deterministic:
            images, _ = next(
                self.search.data.train.batches(
                    s.batch_size, timesteps=self.model.timesteps, shard=group.shard, smallest=group.smallest_batch
                )
            )
            follow_rates(self.model, images, PRECISIONS[s.precision], group)

    def _accuracy(self) -> float:
        dtype = PRECISIONS[self.search.settings.precision]
        return evaluate(self.model, self.search.data.test, dtype=dtype, group=self.group)

    def _tell_batch(self) -> None:
        search, batch, size = self.search, self.sums.batches, len(self.search.data.train)
        images = size if batch == self._batches else batch * search.settings.batch_size
        left = max(0, search.planned_epochs - search.epochs_done - 1)
        where = (self.level, self.result.epochs + 1, self.epochs, batch, self._batches, images, left)
        search.progress.batch(BatchReport(*where, self._sparsity, self.model.timesteps))

    def _tell(self, loss: float, accuracy: float | None, timesteps: int, rate: float, seconds: float) -> None:
        line = EpochReport(
            self.level, self.result.epochs, self.epochs, loss, accuracy, self.mask.sparsity, timesteps, rate, seconds
        )
        self.search.tell(line)

    # ---- checkpoints -------------------------------------------------------------------------------------------------

    def _resume(self) -> None:
        search, files = self.search, self.search.files
        saved = files.load_checkpoint(self.level, search.settings.device)
        if saved is not None:
            for name, part in self._parts.items():
                part.load_state_dict(saved[name])
            self.model.timesteps = saved["timesteps"]
            search.memory = saved["memory"]
            self.result, self.sums = Level(**saved["result"]), Sums(**saved.get("sums", {}))
            search.progress.note(f"level {self.level}: going on after epoch {self.result.epochs}{self.sums.describe()}")
        set_rates(self.model, {} if saved is None else saved.get("rates", {}))
        files.forget_metrics(self.level, self.result.epochs)
        files.miss_metrics(self.level, self.result.epochs)
        search.pass_on_notes()
        search.epochs_done += self.result.epochs

    def _after_step(self) -> None:
        """Tell of a batch; look whether to stop, and whether a long epoch is worth a checkpoint in its middle."""
        self._tell_batch()
        stop = self._asked_to_stop()
        if stop is None and time.perf_counter() - self._saved_at < BETWEEN_CHECKPOINTS:
            return
        if stop is not None or not self._dear():
            self._lap()
            check_finite(self.model, float(self.sums.loss))
            self._save()
        if stop is not None:
            raise StoppedError(stop)

    def _end_epoch(self) -> None:
        self.sums = Sums()
        stop = self.search.stop.signal if self._average is None else None  # the next step asks the others
        if stop is not None or not self._dear():
            self._save()
        if stop is not None:
            raise StoppedError(stop)

    def _asked_to_stop(self) -> int | None:
        """The signal that asks to stop after this step; processes of a group all hear of it after the same step."""
        own = self.search.stop.signal
        if self._average is None:
            return own
        self._average.stop = own is not None
        looks = self.group.device.type == "cpu" or self.sums.batches % STOP_EVERY == 0
        return (own or signal.SIGTERM) if looks and self._average.stopping() else None

    def _dear(self) -> bool:
        """Whether checkpoints cost too much of the time."""
        return self._save_seconds > CHECKPOINT_SHARE * (time.perf_counter() - self._saved_at)

    def _save(self) -> None:
        started = time.perf_counter()
        state: dict[str, Any] = {name: part.state_dict() for name, part in self._parts.items()}
        state |= {"timesteps": self.model.timesteps, "memory": self.search.memory}
        state["rates"] = rates_of(self.model)
        state |= {"result": vars(self.result), "sums": vars(self.sums)}
        self.search.files.save_checkpoint(self.level, state)
        self._saved_at = time.perf_counter()
        self._save_seconds = self._saved_at - started
