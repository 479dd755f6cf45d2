"""What one of two processes does with a run directory; see ``test_distributed_search.py``."""

import dataclasses

import torch

from snn_sparse.tickets.group_files import GroupFiles
from snn_sparse.tickets.run_files import RunExistsError
from snn_sparse.tickets.run_lock import RunInUseError
from snn_sparse.tickets.settings import Settings


def run_directory(group, root):
    """Everything that a search asks of its directory, where only rank 0 may look."""
    files = GroupFiles(root if group.first else "/nowhere", group)
    settings = Settings(dataset="digits", arch="vgg_small")
    files.start(settings)
    said = []
    try:
        files.start(dataclasses.replace(settings, seed=settings.seed + 1))
    except RunExistsError as error:
        said.append(str(error).replace(str(root), "ROOT"))
    with files.alone():
        try:
            with GroupFiles(root, group).alone():
                said.append("not reached")
        except RunInUseError as error:
            said.append(type(error).__name__)
    assert files.load_checkpoint(0, "cpu") is None
    assert files.load_memory("cpu") == {}
    assert files.load_ticket(0) is None
    files.save_checkpoint(0, {"weights": torch.arange(3.0) + group.rank})
    files.append_metrics({"level": 0, "epoch": 1, "rank": group.rank})
    found = files.load_checkpoint(0, "cpu")["weights"].tolist()
    files.forget_metrics(0, 1)
    files.forget_checkpoints(0)
    nothing = files.load_checkpoint(0, "cpu") is None
    files.inside("relu").start(settings)
    return said, found, nothing, files.run, files.config()["settings"]["arch"]
