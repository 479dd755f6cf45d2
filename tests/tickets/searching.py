"""A tiny search for the tests of the drivers."""

from snn_sparse.tickets.drivers import run_search
from snn_sparse.tickets.progress import Progress
from snn_sparse.tickets.run_files import RunFiles
from snn_sparse.tickets.search import Search
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


def make(data, root, progress=None, **changes):
    settings = Settings(**{**TINY, **changes})
    files = RunFiles(root)
    files.start(settings)
    return Search(settings, data, files, progress or Recorder())


def run(data, root, like=None, progress=None, **changes):
    search = make(data, root, progress, **changes)
    run_search(search, like)
    return search


def tickets(search):
    return [search.files.load_ticket(n) for n in search.files.levels()]
