"""TensorBoard events of a search: scalars an epoch and a level, histograms of live weights a level."""

from pathlib import Path
from typing import Any

from snn_sparse.tickets import Ticket
from snn_sparse.tickets.progress import EpochReport, Progress
from snn_sparse.tickets.run_files import RunFiles

MISSING = "tensorboard needs the package tensorboard: pip install 'snn_sparse[tensorboard]'"
OF_AN_EPOCH = ("loss", "accuracy", "sparsity", "learning_rate", "timesteps", "seconds")
TRANSFERRED = "relu"  # run inside a run of method transfer


class TensorBoardProgress(Progress):
    """Writer of a search's events.

    ``epoch/*`` count the epochs of the whole search, ``level/*`` the levels; ``weights/LAYER`` are the live weights of
    a level after training, ``firing_rate/LAYER`` the percent of a layer's neurons that spike. A search that goes on
    writes into the same directory: what had been written of epochs that are trained again no longer counts there.

    Args:
        folder: where the events go.
        run: the run directory.

    Raises:
        ImportError: tensorboard is not installed.
    """

    def __init__(self, folder: str | Path, run: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ImportError(MISSING) from None
        self.folder, self._run = Path(folder), Path(run)
        self._make: Any = SummaryWriter
        self._writer: Any = None  # made when there is something to write
        self._epochs = 0  # of the whole search, written before or now

    def epoch(self, report: EpochReport, seconds_left: float) -> None:
        """Write the scalars of an epoch; accuracy only where it was measured."""
        if self._writer is None:
            self._open(self._epochs_so_far() - 1)
        self._epochs += 1
        for name in OF_AN_EPOCH:
            value = getattr(report, name)
            if value is not None:
                self._writer.add_scalar(f"epoch/{name}", value, self._epochs)
        self._writer.flush()  # a kill costs no point

    def level_done(self, level: int, sparsity: float, accuracy: float, seconds: float, ticket: Path) -> None:
        """Write the result of a level, and what its ticket holds: live weights and firing rates, a layer each."""
        if self._writer is None:
            self._open(self._epochs_so_far())
        writer, found = self._writer, Ticket.load(ticket)
        run = ticket.parent.parent.name
        inside = f"{run}/" if run == TRANSFERRED and ticket.parent.parent != self._run else ""
        figures = {"accuracy": accuracy, "sparsity": sparsity, "seconds": seconds}
        for name, value in (figures | {key: found.meta[key] for key in ("epochs", "timesteps")}).items():
            writer.add_scalar(f"{inside}level/{name}", value, level)
        for name, keep in found.mask.items():
            live = found.trained[name][keep]
            if live.numel():
                writer.add_histogram(f"{inside}weights/{name.removesuffix('.weight')}", live.float(), level)
        for layer in found.meta["profile"]["layers"]:
            if layer["firing_rate"] is not None:
                writer.add_scalar(f"{inside}firing_rate/{layer['name']}", layer["firing_rate"], level)
        writer.flush()

    def close(self) -> None:
        """Write what is left and close the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _open(self, epochs: int) -> None:
        """Go on after so many epochs; whatever was written of later ones is void."""
        self._epochs = epochs
        self._writer = self._make(str(self.folder), purge_step=epochs + 1)

    def _epochs_so_far(self) -> int:
        """Epochs in the run's metrics, the newest among them; the conventional network's of a transfer count too."""
        runs = (self._run, self._run / TRANSFERRED)
        return sum(len(RunFiles(run).metrics()) for run in runs if (run / "metrics.jsonl").exists())
