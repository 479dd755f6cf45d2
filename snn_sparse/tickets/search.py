"""One search on disk: what the drivers (IMP, EB, controls) share, so that they can read like the paper.

A search lives in ``runs/NAME/`` and may be killed at any moment: finished levels are tickets, the level under way is a
checkpoint, and each epoch draws its random numbers from (seed, level, epoch) alone. The same command then goes on.
"""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from snn_sparse.fusion import fuse
from snn_sparse.models import SpikingNetwork, build_model
from snn_sparse.nn import synchronise_batch_norms
from snn_sparse.tickets.early_time import find_early_timestep
from snn_sparse.tickets.environment import changes
from snn_sparse.tickets.group_files import GroupFiles
from snn_sparse.tickets.level import Hooks, Level, LevelTraining
from snn_sparse.tickets.mask import Mask
from snn_sparse.tickets.progress import EpochReport, Progress
from snn_sparse.tickets.run_files import RunFiles
from snn_sparse.tickets.settings import Settings
from snn_sparse.tickets.ticket import State, Ticket
from snn_sparse.training import Dataset, Group
from snn_sparse.training.profile import profile_network
from snn_sparse.training.stopping import Stop
from snn_sparse.tuning import choosing

EARLY_TIME_IMAGES = 1000
PROFILE_IMAGES, PROFILE_BATCH = 256, 64


def snapshot(model: torch.nn.Module) -> State:
    """A copy of a network's ``state_dict`` that training does not touch."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def rewind(model: torch.nn.Module, state: State) -> None:
    """Take ``model`` back to a ``state_dict``; no earlier mask holds any more."""
    Mask.remove_(model)
    model.load_state_dict(state)


@dataclass
class Search:
    """Settings, data and directory of one search.

    Attributes:
        settings: what to do.
        data: on the training device.
        files: the run directory.
        progress: told of every epoch.
        planned_epochs: of the whole search, for the time left.
        stop: whoever wants the search to end early asks here.
        group: the processes that make this search together, each with a ``Search`` of its own.
        memory: what the search must not forget (rewind weights, T_early, drawn masks); goes into every checkpoint.
        memory_lost: whether the file of it is damaged, though levels are finished.
        epochs_done: of the whole search.
    """

    settings: Settings
    data: Dataset
    files: RunFiles | GroupFiles
    progress: Progress
    planned_epochs: int = 0
    stop: Stop = field(default_factory=Stop)
    group: Group = field(default_factory=Group)

    def __post_init__(self) -> None:
        if self.data.timesteps not in (None, self.settings.timestep):
            raise ValueError(
                f"timestep must be {self.data.timesteps}, as many as the data has frames, got {self.settings.timestep}"
            )
        self.group.check_batch_size(self.settings.batch_size)
        memory = self.files.load_memory(self.settings.device)
        self.memory_lost = memory is None
        self.memory: dict[str, Any] = memory or {}
        self.epochs_done = 0
        self._seconds: list[float] = []

    @contextmanager
    def session(self) -> Iterator[None]:
        """Inside, this process alone has the run, and computes as the run began: layers, threads, order of sums.

        Raises:
            RunInUseError: another process has it.
        """
        cudnn, threads = torch.backends.cudnn, torch.get_num_threads()
        before = cudnn.deterministic, cudnn.benchmark
        began = self.files.config()["environment"]
        with self.files.alone(), choosing(self.files.plans(), timed=not self.settings.deterministic):
            cudnn.deterministic, cudnn.benchmark = True, False
            if began.get("threads", threads) != threads:
                torch.set_num_threads(began["threads"])
                self.progress.note(f"computing with {began['threads']} threads, as this run began (here: {threads})")
            for change in changes(began, self.settings.device):
                self.progress.note(f"this run began elsewhere: {change}; from here on, results may round another way")
            self.pass_on_notes()
            try:
                yield
            finally:
                cudnn.deterministic, cudnn.benchmark = before
                torch.set_num_threads(threads)

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
                width=s.width,
            )
        model = model.to(s.device)
        if torch.device(s.device).type == "cuda":
            model = model.to(memory_format=torch.channels_last)
        if s.backend == "fused":
            fused = fuse(model)
            assert isinstance(fused, SpikingNetwork)
            model = fused
        self.group.broadcast_((*model.parameters(), *model.buffers()))
        if s.sync_statistics:
            synchronise_batch_norms(model)
        return model

    def generator(self, *keys: Any) -> torch.Generator:
        """A generator of random numbers that depends on the seed and ``keys`` alone."""
        text = "/".join(str(k) for k in (self.settings.effective_seed, *keys))
        return torch.Generator().manual_seed(zlib.crc32(text.encode()))

    def choose_timesteps(self, model: SpikingNetwork) -> int:
        """T_early from one batch of 1000 training images; kept in :attr:`memory`."""
        n = min(EARLY_TIME_IMAGES, len(self.data.train))
        pick = torch.randperm(len(self.data.train), generator=self.generator("early time"))[:n]
        images = self.data.train.normalise(self.data.train.images[pick.to(self.data.train.images.device)])
        found = find_early_timestep(model, images, self.settings.early_time_threshold)
        early, divergence = self.group.broadcast_object(found)
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
        hooks: Hooks | None = None,
    ) -> Level:
        """Train ``model`` under ``mask``, from the checkpoint of this level if there is one.

        Args:
            model: starts from its present weights and timesteps.
            mask: applied first.
            level: for files and messages.
            epochs: how many.
            learning_rate: at the first epoch; the settings' if left out.
            hooks: called before and after each epoch.

        Raises:
            DivergedError: the loss became NaN or infinite.
            StoppedError: somebody asked :attr:`stop` to; a checkpoint is written.
        """
        rate = self.settings.learning_rate if learning_rate is None else learning_rate
        return LevelTraining(self, model, mask, level, epochs, rate).run(hooks or Hooks())

    def tell(self, line: EpochReport) -> None:
        """Write down and report an epoch, with the time that the rest of the search will take."""
        self.epochs_done += 1
        self._seconds.append(line.seconds)
        left = max(0, self.planned_epochs - self.epochs_done) * sum(self._seconds) / len(self._seconds)
        self.files.append_metrics(line.as_dict())
        self.progress.epoch(line, left)

    def pass_on_notes(self) -> None:
        """Tell of files that were repaired or left out."""
        while self.files.notes:
            self.progress.note(self.files.notes.pop(0))

    def finished(self, level: int) -> Ticket | None:
        """The ticket of a level that an earlier start of this search has finished."""
        ticket = self.files.load_ticket(level)
        if ticket is not None:
            self.epochs_done += int(ticket.meta["epochs"])
            self.progress.note(f"level {level}: finished before, {ticket.meta['accuracy']:.2f} %")
            self.files.forget_checkpoints(level)
            self.files.miss_metrics(level, int(ticket.meta["epochs"]))
            self.pass_on_notes()
        return ticket

    def _profile(self, model: SpikingNetwork, mask: Mask) -> dict[str, Any]:
        """Cost of the network, measured on the first test images, few at a time: large ones fill the memory."""
        test = self.data.test
        parts = test.images[:PROFILE_IMAGES].split(PROFILE_BATCH)
        return profile_network(model, map(test.normalise, parts), mask).as_dict()

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
            "run": self.files.run,
            "profile": self._profile(model, mask),
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
