"""One search on disk: what the drivers (IMP, EB, controls) share, so that they can read like the paper.

A search lives in ``runs/NAME/`` and may be killed at any moment: finished levels are tickets, the level under way is a
checkpoint, and each epoch draws its random numbers from (seed, level, epoch) alone. The same command then goes on.
"""

import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from snn_sparse.fusion import fuse
from snn_sparse.models import SpikingNetwork, build_model
from snn_sparse.tickets.early_time import find_early_timestep
from snn_sparse.tickets.mask import Mask
from snn_sparse.tickets.progress import EpochReport, Progress
from snn_sparse.tickets.run_files import RunFiles
from snn_sparse.tickets.settings import Settings
from snn_sparse.tickets.ticket import State, Ticket
from snn_sparse.training import (
    Dataset,
    NonFiniteLossError,
    TrainStep,
    evaluate,
    make_optimizer,
    make_scheduler,
    train_epoch,
)
from snn_sparse.training.step import PRECISIONS

EARLY_TIME_IMAGES = 1000
CHECKPOINT_SHARE = 0.05  # checkpoints may cost this share of the training time


class DivergedError(RuntimeError):
    """The loss of a search became NaN or infinite; names level and epoch."""


def snapshot(model: torch.nn.Module) -> State:
    """A copy of a network's ``state_dict`` that training does not touch."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def rewind(model: torch.nn.Module, state: State) -> None:
    """Take ``model`` back to a ``state_dict``; no earlier mask holds any more."""
    Mask.remove_(model)
    model.load_state_dict(state)


@dataclass
class Level:
    """Result of training one level."""

    epochs: int
    accuracy: float
    seconds: float


@dataclass
class Search:
    """Settings, data and directory of one search.

    Attributes:
        settings: what to do.
        data: on the training device.
        files: the run directory.
        progress: told of every epoch.
        memory: what the search must not forget (rewind weights, T_early, drawn masks); goes into every checkpoint.
    """

    settings: Settings
    data: Dataset
    files: RunFiles
    progress: Progress
    planned_epochs: int = 0

    def __post_init__(self) -> None:
        self.memory: dict[str, Any] = self.files.load_memory(self.settings.device)
        self._epochs_done = 0
        self._trained: list[float] = []
        # identical masks from the same seed need convolutions that add in the same order every time
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False

    def new_model(self) -> SpikingNetwork:
        """The network at its initial weights, which depend on the seed alone."""
        s = self.settings
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(s.effective_seed)
            model = build_model(
                s.arch,
                self.data.num_classes,
                self.data.in_channels,
                s.timestep,
                neuron=s.neuron,
                bn_statistics=s.bn_statistics,  # type: ignore[arg-type]
            )
        model = model.to(s.device)
        if torch.device(s.device).type == "cuda":
            model = model.to(memory_format=torch.channels_last)
        if s.backend == "plain":
            return model
        fused = fuse(model)
        assert isinstance(fused, SpikingNetwork)
        return fused

    def generator(self, *keys: Any) -> torch.Generator:
        """A generator of random numbers that depends on the seed and ``keys`` alone."""
        text = "/".join(str(k) for k in (self.settings.effective_seed, *keys))
        return torch.Generator().manual_seed(zlib.crc32(text.encode()))

    def choose_timesteps(self, model: SpikingNetwork) -> int:
        """T_early from one batch of 1000 training images; kept in :attr:`memory`."""
        n = min(EARLY_TIME_IMAGES, len(self.data.train))
        pick = torch.randperm(len(self.data.train), generator=self.generator("early time"))[:n]
        images = self.data.train.normalise(self.data.train.images[pick.to(self.data.train.images.device)])
        early, divergence = find_early_timestep(model, images, self.settings.early_time_threshold)
        self.memory["timesteps_early"] = early
        listed = ", ".join(f"T={t}: {d:.2f}" for t, d in divergence.items())
        self.progress.note(
            f"Early-Time: search goes on with {early} of {model.timesteps} timesteps (divergence {listed})"
        )
        return early

    def train(
        self,
        model: SpikingNetwork,
        mask: Mask,
        level: int,
        epochs: int,
        learning_rate: float | None = None,
        before_epoch: Callable[[int], bool] | None = None,
        after_epoch: Callable[[int], None] | None = None,
    ) -> Level:
        """Train ``model`` under ``mask``, from the checkpoint of this level if there is one.

        Args:
            model: starts from its present weights and timesteps.
            mask: applied first.
            level: for files and messages.
            epochs: how many.
            learning_rate: at the first epoch; the settings' if left out.
            before_epoch: called with the number of epochs done; true: stop here.
            after_epoch: called with the number of epochs done.

        Raises:
            DivergedError: the loss became NaN or infinite.
        """
        s = self.settings
        mask.apply_(model)
        rate = s.learning_rate if learning_rate is None else learning_rate
        live_only = s.backend == "fused" and mask.sparsity > 0
        optimizer = make_optimizer(model, s.optimizer, rate, s.momentum, s.weight_decay, mask if live_only else None)
        scheduler = make_scheduler(optimizer, s.scheduler, epochs)
        parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
        result, done = self._resume(level, model, parts)
        step = TrainStep(model, optimizer, dtype=PRECISIONS[s.precision])
        self._epochs_done += done
        while done < epochs:
            started = time.perf_counter()
            if before_epoch is not None and before_epoch(done):
                break
            loss = self._one_epoch(step, level, done)
            lr = float(optimizer.param_groups[0]["lr"])
            scheduler.step()
            timesteps, done = model.timesteps, done + 1
            if after_epoch is not None:
                after_epoch(done)
            due = done % s.valid_freq == 0 or done == epochs
            result.accuracy = self._accuracy(model) if due else result.accuracy
            result.seconds += time.perf_counter() - started
            result.epochs = done
            self._tell(level, done, epochs, loss, result.accuracy if due else None, mask, timesteps, lr, started)
            self._checkpoint(level, model, parts, result)
        if result.epochs % s.valid_freq and result.epochs != epochs:  # stopped between two evaluations
            result.accuracy = self._accuracy(model)
        return result

    def _accuracy(self, model: SpikingNetwork) -> float:
        return evaluate(model, self.data.test, dtype=PRECISIONS[self.settings.precision])

    def _one_epoch(self, step: TrainStep, level: int, done: int) -> float:
        batches = self.data.train.batches(
            self.settings.batch_size,
            augmentation=self.data.augmentation,
            generator=self.generator(level, done),
            memory_format=torch.channels_last,
        )
        try:
            return train_epoch(step.model, batches, step.optimizer, step)
        except NonFiniteLossError as error:
            kept = self.files.checkpoint(level)
            where = f"last good checkpoint: {kept}" if kept.exists() else "no checkpoint of this level yet"
            raise DivergedError(f"{error} at level {level}, epoch {done + 1}; {where}") from error

    def _resume(self, level: int, model: SpikingNetwork, parts: dict[str, Any]) -> tuple[Level, int]:
        saved = self.files.load_checkpoint(level, self.settings.device)
        self._last_checkpoint, self._checkpoint_cost = time.perf_counter(), 0.0
        if saved is None:
            self.files.forget_metrics(level, 0)
            return Level(0, 0.0, 0.0), 0
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        model.timesteps = saved["timesteps"]
        self.memory = saved["memory"]
        result = Level(**saved["result"])
        self.files.forget_metrics(level, result.epochs)
        self.progress.note(f"level {level}: going on after epoch {result.epochs}")
        return result, result.epochs

    def _checkpoint(self, level: int, model: SpikingNetwork, parts: dict[str, Any], result: Level) -> None:
        now = time.perf_counter()
        if self._checkpoint_cost > CHECKPOINT_SHARE * (now - self._last_checkpoint):
            return
        state: dict[str, Any] = {name: part.state_dict() for name, part in parts.items()}
        state |= {"timesteps": model.timesteps, "memory": self.memory, "result": vars(result)}
        self.files.save_checkpoint(level, state)
        self._last_checkpoint = time.perf_counter()
        self._checkpoint_cost = self._last_checkpoint - now

    def _tell(
        self,
        level: int,
        epoch: int,
        epochs: int,
        loss: float,
        accuracy: float | None,
        mask: Mask,
        timesteps: int,
        lr: float,
        started: float,
    ) -> None:
        self._trained.append(time.perf_counter() - started)
        self._epochs_done += 1
        left = max(0, self.planned_epochs - self._epochs_done) * sum(self._trained) / len(self._trained)
        line = EpochReport(level, epoch, epochs, loss, accuracy, mask.sparsity, timesteps, lr, self._trained[-1])
        self.files.append_metrics(line.as_dict())
        self.progress.epoch(line, left)

    def finished(self, level: int) -> Ticket | None:
        """The ticket of a level that an earlier start of this search has finished."""
        ticket = self.files.load_ticket(level)
        if ticket is not None:
            self._epochs_done += int(ticket.meta["epochs"])
            self.progress.note(f"level {level}: finished before, {ticket.meta['accuracy']:.2f} %")
        return ticket

    def finish(
        self, model: SpikingNetwork, mask: Mask, rewind: State, level: int, result: Level, **extra: Any
    ) -> Ticket:
        """Write the ticket of a level; ``rewind`` are the weights that its training started from."""
        s = self.settings
        config = {**model.config, "timesteps": model.timesteps}
        meta = {
            "method": s.method,
            "dataset": self.data.name,
            "level": level,
            "sparsity": mask.sparsity,
            "accuracy": result.accuracy,
            "epochs": result.epochs,
            "seconds": result.seconds,
            "timesteps": model.timesteps,
            "timesteps_early": self.memory.get("timesteps_early"),
            "seed": s.effective_seed,
            "settings": s.as_dict(),
            **extra,
        }
        masked = {n: v.masked_fill(~mask[n].to(v.device), 0) if n in mask else v for n, v in rewind.items()}
        ticket = Ticket(config, mask.to("cpu"), snapshot(model), masked, meta)
        self.files.save_memory(self.memory)
        self.files.finish_level(level, ticket)
        self.progress.level_done(level, mask.sparsity, result.accuracy, result.seconds, self.files.ticket(level))
        return ticket


def run_directory_of(path: Path) -> Path:
    """The run directory that a ticket file or a run directory belongs to."""
    return path.parent.parent if path.is_file() else path
