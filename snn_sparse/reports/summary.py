"""Summary of a run, read from its tickets: the contents of ``report.json``."""

from pathlib import Path
from typing import Any

from snn_sparse.tickets.run_files import RunFiles
from snn_sparse.training.files import write_json

NO_SEARCH = ("random", "snip", "train")  # their masks cost nothing to find


def summarise(run: str | Path) -> dict[str, Any]:
    """The report of a run, from the levels that are finished.

    Raises:
        ValueError: the directory is no run, or no level of it is finished.
    """
    files = RunFiles(run)
    config = files.config()
    settings = config["settings"]
    levels: list[dict[str, Any]] = []
    early = None
    for number in files.levels():
        header = files.header(number)
        early = header.meta["timesteps_early"] or early
        fields = ("level", "sparsity", "accuracy", "epochs", "seconds", "timesteps")
        level = {**{k: header.meta[k] for k in fields}, "layers": header.layers}
        if "profile" in header.meta:  # tickets from before there were profiles have none
            level["profile"] = header.meta["profile"]
        levels.append(level)
    if not levels:
        raise ValueError(f"{run} has no finished level to report on")
    seconds = sum(level["seconds"] for level in levels)
    return {
        "method": settings["method"],
        "arch": settings["arch"],
        "dataset": settings["dataset"],
        "timesteps": settings["timestep"],
        "timesteps_early": early,
        "device": config["environment"]["device"],
        "seed": settings["seed"] + settings["round"] - 1,
        "seconds": seconds,
        "search_seconds": 0.0 if settings["method"] in NO_SEARCH else seconds - levels[-1]["seconds"],
        "levels": levels,
        "settings": settings,
        "environment": config["environment"],
    }


def write_summary(run: str | Path) -> dict[str, Any]:
    """Write ``report.json`` into the run directory and return its contents."""
    report = summarise(run)
    write_json(Path(run) / "report.json", report)
    return report
