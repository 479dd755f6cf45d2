"""Tiny searches in processes of their own, which can be killed, and what two of them have in common."""

import io
import json
import multiprocessing
import os
import signal
import traceback
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from snn_sparse.ops.cache import Cache
from snn_sparse.tickets.run_files import RunFiles
from snn_sparse.tickets.run_plans import RunPlans
from snn_sparse.training import Augmentation, Dataset, ImageSet, load_dataset

METHODS = ("imp", "imp+et", "eb", "eb+et", "snip", "random", "transfer")
SIZE = {
    "batch_size": 50,
    "timestep": 3,
    "end_iter": 3,
    "rewinding_epoch": 1,
    "prune_iterations": 3,
    "prune_percent": 60,
    "sparsity_round": 6,
    "valid_freq": 2,
    "print_freq": 1,
}
EVENTS = ("fsync", "replace", "unlink", "ftruncate", "fdatasync")  # of `os`: before and after each the disk is another
PATIENCE = 300  # seconds that a tiny search may take


def command(method: str, out: Path, like: Path | None = None, deterministic: bool = True, seed: int = 5) -> list[str]:
    """Command line of a tiny search."""
    size = [word for name, value in SIZE.items() for word in (f"--{name}", str(value))]
    more = [*(["--deterministic"] if deterministic else []), *(["--like", str(like)] if like else [])]
    return ["search", "--method", method, "--seed", str(seed), *size, *more, "--device", "cpu", "--out", str(out)]


def few_digits(*_args: Any, **_options: Any) -> Dataset:
    """150 training and 50 test digits: an epoch takes a fraction of a second."""
    whole = load_dataset("digits")

    def cut(part: ImageSet, n: int) -> ImageSet:
        return ImageSet(part.images[:n], part.labels[:n], part.mean, part.std)

    return Dataset("digits", cut(whole.train, 150), cut(whole.test, 50), 10, Augmentation(crop_padding=1))


@dataclass(frozen=True)
class Death:
    """When a process is to be killed by SIGKILL; without numbers it lives.

    Attributes:
        event: before this one of all its calls that change the disk, counted from 1.
        seconds: after the command began.
    """

    event: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        status: exit status; -9: killed.
        out, err: what it printed.
    """

    status: int
    out: str = ""
    err: str = ""


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _deadly(event: int) -> None:
    """Count the calls that change the disk, and die before number ``event``."""
    seen = 0

    def counting(call: Any) -> Any:
        def counted(*args: Any, **options: Any) -> Any:
            nonlocal seen
            seen += 1
            if seen == event:
                _kill()
            return call(*args, **options)

        return counted

    for name in EVENTS:
        setattr(os, name, counting(getattr(os, name)))


def carry_out(argv: Sequence[str]) -> Outcome:
    """Run a command line in this process, on few digits."""
    import snn_sparse.training
    from snn_sparse.cli import main
    from snn_sparse.tickets import level

    out, err = io.StringIO(), io.StringIO()
    usual, share = snn_sparse.training.load_dataset, level.CHECKPOINT_SHARE
    snn_sparse.training.load_dataset, level.CHECKPOINT_SHARE = few_digits, 1e9  # a checkpoint every epoch
    try:
        with redirect_stdout(out), redirect_stderr(err):
            status = main(argv)
    except SystemExit as stop:
        status = int(stop.code or 0)
    except BaseException:
        status = 99
        err.write(traceback.format_exc())
    finally:
        snn_sparse.training.load_dataset, level.CHECKPOINT_SHARE = usual, share
    return Outcome(status, out.getvalue(), err.getvalue())


def _child(argv: Sequence[str], cache: str, death: Death, pipe: Any) -> None:
    torch.set_num_threads(1)
    os.environ["SNN_SPARSE_CACHE"] = cache
    if death.seconds is not None:
        signal.signal(signal.SIGALRM, lambda *_: _kill())
        signal.setitimer(signal.ITIMER_REAL, death.seconds)
    if death.event is not None:
        _deadly(death.event)
    pipe.send(carry_out(argv))
    pipe.close()


def start(argv: Sequence[str], cache: Path, death: Death | None = None) -> Outcome:
    """Run a command line in a process of its own, which may be killed; packages are imported once for all of them.

    Args:
        argv: the command line.
        cache: file of the machine's measurements.
        death: when to kill it.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["snn_sparse.tickets.drivers", "snn_sparse.cli.search", __name__])
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(list(argv), str(cache), death or Death(), writer))
    process.start()
    writer.close()
    try:
        outcome = reader.recv() if reader.poll(PATIENCE) else Outcome(98, err="it hangs")
    except EOFError:
        outcome = Outcome(-9)
    process.join(PATIENCE)
    if process.is_alive():
        process.kill()
    return outcome


def remember_plans(run: Path, cache: Path) -> None:
    """Make a cache of the machine's measurements that holds what a run has planned."""
    plans = RunPlans(run / "plans.jsonl", RunFiles(run).run or "")
    before = os.environ.get("SNN_SPARSE_CACHE")
    os.environ["SNN_SPARSE_CACHE"] = str(cache)
    try:
        for key, value in plans.used.items():
            Cache().put(key, value)
    finally:
        os.environ.pop("SNN_SPARSE_CACHE") if before is None else os.environ.update(SNN_SPARSE_CACHE=before)


def differences(a: Path, b: Path) -> list[str]:
    """List what differs between two runs: masks, weights, metrics; times and identities aside."""
    found = []
    one, other = RunFiles(a), RunFiles(b)
    if one.levels() != other.levels():
        return [f"levels {one.levels()} and {other.levels()}"]
    for level in one.levels():
        first, second = one.load_ticket(level), other.load_ticket(level)
        assert first is not None
        assert second is not None
        if not first.mask.equal(second.mask):
            found.append(f"masks of level {level}")
        for group in ("trained", "rewind"):
            x, y = first.state(group), second.state(group)
            if x.keys() != y.keys() or not all(torch.equal(x[n], y[n]) for n in x):
                found.append(f"{group} weights of level {level}")
        if first.meta["accuracy"] != second.meta["accuracy"]:
            found.append(f"accuracy of level {level}")
    if metrics(a) != metrics(b):
        found.append("metrics")
    if (a / "relu").is_dir() or (b / "relu").is_dir():
        found += [f"relu: {what}" for what in differences(a / "relu", b / "relu")]
    return found


def metrics(run: Path) -> list[dict[str, Any]]:
    """Lines of ``metrics.jsonl`` without what differs from run to run; a damaged one as it is."""
    found: list[dict[str, Any]] = []
    for line in (run / "metrics.jsonl").read_bytes().splitlines():
        try:
            entry = json.loads(line)
            found.append({k: v for k, v in entry.items() if k not in ("seconds", "crc")})
        except (ValueError, AttributeError):
            found.append({"damaged": line})
    return found
