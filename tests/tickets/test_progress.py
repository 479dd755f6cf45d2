"""What a listener hears while a search runs: every batch, in order, with figures that add up."""

import pytest
from searching import Killed, Recorder, make, run

from snn_sparse.tickets.drivers import run_search
from snn_sparse.training.data import batch_bounds


class Listener(Recorder):
    """Remembers batches and epochs in order; stops the search after some batch."""

    def __init__(self, stop_after=None):
        super().__init__()
        self.heard, self.batches, self.stop_after = [], [], stop_after

    def batch(self, report):
        self.heard.append("batch")
        self.batches.append(report)
        if len(self.batches) == self.stop_after:
            raise Killed

    def epoch(self, report, seconds_left):
        super().epoch(report, seconds_left)
        self.heard.append("epoch")


def test_every_batch_is_told(tiny, tmp_path):
    listener = Listener()
    search = run(tiny, tmp_path / "run", listener, method="imp")
    sizes = [part.stop - part.start for part in batch_bounds(len(tiny.train), search.settings.batch_size)]
    epochs = [(0, 3, 0.0)] * 3 + [(1, 2, 50.0)] * 2 + [(2, 2, 75.0)] * 2  # level, its epochs, sparsity
    assert listener.heard == (["batch"] * len(sizes) + ["epoch"]) * len(epochs)
    told = iter(listener.batches)
    for number, (level, of, sparsity) in enumerate(epochs):
        for done in range(1, len(sizes) + 1):
            report = next(told)
            assert (report.level, report.epochs, report.batch, report.batches) == (level, of, done, len(sizes))
            assert report.images == sum(sizes[:done])
            assert report.epochs_left == len(epochs) - 1 - number
            assert abs(report.sparsity - sparsity) < 0.1
            assert report.timesteps == search.settings.timestep
    assert [r.epoch for r in listener.batches[:: len(sizes)]] == [1, 2, 3, 1, 2, 1, 2]


def test_an_epoch_that_goes_on_counts_its_earlier_batches(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("snn_sparse.tickets.level.BETWEEN_CHECKPOINTS", 0.0)
    monkeypatch.setattr("snn_sparse.tickets.level.CHECKPOINT_SHARE", 1e9)  # a checkpoint after every batch
    stopped = Listener(stop_after=3)
    search = make(tiny, tmp_path / "run", stopped, method="snip", batch_size=20, end_iter=2)
    with pytest.raises(Killed):
        run_search(search)
    again = Listener()
    run(tiny, tmp_path / "run", again, method="snip", batch_size=20, end_iter=2)
    first = again.batches[0]
    assert (first.epoch, first.batch, first.images) == (1, 3, 60)  # the third batch had been told, not yet saved
    assert again.batches[-1].images == len(tiny.train)
