"""Training: data on the device, one epoch, optimizers, files that survive a kill. Knows nothing of pruning."""

from snn_sparse.training.augment import Augmentation
from snn_sparse.training.data import Dataset, ImageSet
from snn_sparse.training.datasets import DATASETS, SOURCES, load_dataset
from snn_sparse.training.distributed import Group
from snn_sparse.training.files import load_checkpoint, save_checkpoint, write_atomic, write_json
from snn_sparse.training.gradients import GradientAverage
from snn_sparse.training.live import live_optimizer
from snn_sparse.training.loop import NonFiniteLossError, evaluate, train_epoch
from snn_sparse.training.optim import make_optimizer, make_scheduler
from snn_sparse.training.shared_plans import SharedPlans
from snn_sparse.training.step import TrainStep

__all__ = [
    "DATASETS",
    "SOURCES",
    "Augmentation",
    "Dataset",
    "GradientAverage",
    "Group",
    "ImageSet",
    "NonFiniteLossError",
    "SharedPlans",
    "TrainStep",
    "evaluate",
    "live_optimizer",
    "load_checkpoint",
    "load_dataset",
    "make_optimizer",
    "make_scheduler",
    "save_checkpoint",
    "train_epoch",
    "write_atomic",
    "write_json",
]
