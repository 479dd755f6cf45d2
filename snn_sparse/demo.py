"""Demo: all four searches and the random control on digits, small enough for two CPU cores."""

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

SEEDS = (1, 2)
EARLY_BIRD_ROUND = 14  # 98.13 %, next to IMP's last level of 98.44 %
PRINT_NOTHING_BETWEEN = 10**9
COMMON: dict[str, Any] = {
    "arch": "vgg_small",
    "dataset": "digits",
    "timestep": 5,
    "batch_size": 64,
    "end_iter": 10,
    "rewinding_epoch": 2,
    "prune_percent": 75.0,
    "prune_iterations": 4,
    "valid_freq": 10,
    "sparsity_round": EARLY_BIRD_ROUND,
}
METHODS = ("imp", "imp+et", "eb", "eb+et", "random")


def run_demo(out: Path, start: Callable[..., Any]) -> None:
    """Run every method with every seed, then print one table and where the page is.

    Args:
        out: directory of the runs; finished ones are not run again.
        start: makes a search ready: (settings, data, directory, print_freq, levels) -> Search.
    """
    from snn_sparse.console import print_table
    from snn_sparse.reports import HEADER, table_rows, write_report, write_summary
    from snn_sparse.tickets.drivers import run_search
    from snn_sparse.tickets.settings import METHODS as MEANING
    from snn_sparse.tickets.settings import Settings
    from snn_sparse.training import load_dataset

    started = time.perf_counter()
    data = load_dataset("digits")
    print(
        f"digits: {len(data.train)} training and {len(data.test)} test images of 8x8 pixels; T = {COMMON['timestep']}"
    )
    print(f"searches: {', '.join(METHODS)}; seeds {', '.join(map(str, SEEDS))}; runs in {out}")
    reports = []
    for seed in SEEDS:
        for method in METHODS:
            print(f"\nseed {seed}, {method}: {MEANING[method]}")
            like = str(out / f"imp-seed{seed}") if method == "random" else None
            settings = Settings(method=method, seed=seed, like=like, **COMMON)
            run = out / f"{method.replace('+', '-')}-seed{seed}"
            search = start(settings, data, run, PRINT_NOTHING_BETWEEN, settings.prune_iterations)
            with closing(search.progress), search.stop.on_signals():
                run_search(search)
            reports.append(write_summary(run))
    page = write_report(reports, out)
    print()
    print_table(HEADER, table_rows(reports))
    print(f"\n{verdict(reports)}")
    print(f"\ndone in {time.perf_counter() - started:.0f} s; tickets under {out}/*/level_*/\nreport: {page}")


def verdict(reports: list[dict[str, Any]]) -> str:
    """Sentence that sets IMP's tickets against random masks at the highest sparsity, as measured."""
    last = {
        method: [r["levels"][-1]["accuracy"] for r in reports if r["method"] == method] for method in ("imp", "random")
    }
    imp, random = (sum(v) / len(v) for v in last.values())
    sparsity = reports[0]["levels"][-1]["sparsity"]
    return (
        f"At {sparsity:.2f} % sparsity the winning tickets reach {imp:.2f} %, random masks of the same layer densities "
        f"{random:.2f} % (mean of {len(last['imp'])} seeds)."
    )
