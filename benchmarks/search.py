"""A whole IMP search of the demo's size on digits: fused layers against plain ones, seed by seed."""

import argparse
import tempfile
import time
from pathlib import Path

from benchmarks.rows import Row, make_rows
from benchmarks.timing import Timing, ratios
from snn_sparse.demo import COMMON
from snn_sparse.tickets.drivers import run_search
from snn_sparse.tickets.progress import Progress
from snn_sparse.tickets.run_files import RunFiles
from snn_sparse.tickets.search import Search
from snn_sparse.tickets.settings import Settings
from snn_sparse.training import load_dataset

REFERENCE = "plain"


def one_search(backend: str, seed: int, epochs: int) -> tuple[float, list[float]]:
    """Seconds, and the test accuracy in percent at every level."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(**{**COMMON, "method": "imp", "backend": backend, "seed": seed, "end_iter": epochs})
        files = RunFiles(Path(folder) / "run")
        files.start(settings)
        search = Search(settings, load_dataset("digits"), files, Progress())
        started = time.perf_counter()
        run_search(search)
        seconds = time.perf_counter() - started
        tickets = [files.load_ticket(level) for level in files.levels()]
        return seconds, [float(t.meta["accuracy"]) for t in tickets if t is not None]


def run(args: argparse.Namespace) -> list[Row]:
    """Time both backends in turn, a seed a round; the first round (which times the plans) does not count."""
    seconds: dict[str, list[float]] = {REFERENCE: [], "fused": []}
    accuracy: dict[str, list[float]] = {REFERENCE: [], "fused": []}
    for number in range(args.rounds + 1):
        for backend in seconds:
            took, levels = one_search(backend, number, args.end_iter)
            if number > 0:
                seconds[backend].append(took)
                accuracy[backend].append(levels[-1])
    timings = {name: Timing(times) for name, times in seconds.items()}
    size = f"T={COMMON['timestep']} {COMMON['prune_iterations']} levels, {args.end_iter} epochs"
    case = f"imp search vgg_small digits {size}"
    rows = make_rows(case, "seconds", timings, args.device)
    rows += make_rows(case, "times faster", ratios(timings, REFERENCE), args.device)
    shown = {name: Timing(values) for name, values in accuracy.items()}
    return rows + make_rows(case, "% accuracy at the last level", shown, args.device)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of this case."""
    parser.add_argument("--end_iter", type=int, default=COMMON["end_iter"], help="epochs of level 0")
