"""A tiny search for the tests of the drivers."""

import torch

from snn_sparse.tickets.drivers import run_search
from snn_sparse.tickets.progress import Progress
from snn_sparse.tickets.run_files import RunFiles
from snn_sparse.tickets.search import Search, snapshot
from snn_sparse.tickets.settings import Settings

TINY = {
    "arch": "vgg_small",
    "dataset": "digits",
    "timestep": 4,
    "batch_size": 50,
    "end_iter": 3,
    "rewinding_epoch": 1,
    "prune_percent": 50.0,
    "prune_iterations": 3,
    "sparsity_round": 6,
    "valid_freq": 2,
    "learning_rate": 0.1,
    "seed": 5,
}


class Recorder(Progress):
    def __init__(self):
        self.notes, self.epochs, self.left = [], [], []

    def note(self, text):
        self.notes.append(text)

    def epoch(self, report, seconds_left):
        self.epochs.append((report.level, report.epoch, report.timesteps))
        self.left.append(seconds_left)


class Killed(Exception):
    pass


class KillAfter(Recorder):
    """Stops a search in the middle, after a number of epochs."""

    def __init__(self, epochs):
        super().__init__()
        self.remaining = epochs

    def epoch(self, report, seconds_left):
        super().epoch(report, seconds_left)
        self.remaining -= 1
        if self.remaining == 0:
            raise Killed  # before the checkpoint of this epoch is written


class Watched(Search):
    """A search that remembers what each level starts from."""

    def __post_init__(self):
        super().__post_init__()
        self.starts = {}

    def train(self, model, mask, level, *args, **kwargs):
        self.starts[level] = snapshot(model)
        return super().train(model, mask, level, *args, **kwargs)


def under(mask, state):
    """A ``state_dict`` with zeros where the mask prunes."""
    return {n: v * mask[n] if n in mask else v for n, v in state.items()}


def same(a, b):
    """Whether two ``state_dict`` are equal to the bit."""
    return a.keys() == b.keys() and all(torch.equal(v, b[n]) for n, v in a.items())


def make(data, root, progress=None, **changes):
    if "like" in changes:
        changes["like"] = str(changes["like"])
    settings = Settings(**{**TINY, **changes})
    files = RunFiles(root)
    files.start(settings)
    return Watched(settings, data, files, progress or Recorder())


def run(data, root, progress=None, **changes):
    search = make(data, root, progress, **changes)
    run_search(search)
    return search


def tickets(search):
    return [search.files.load_ticket(n) for n in search.files.levels()]
