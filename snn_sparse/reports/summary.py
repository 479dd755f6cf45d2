"""Summary of a run, read from its tickets: the contents of ``report.json``."""

from pathlib import Path
from typing import Any

from snn_sparse.tickets.run_files import RunFiles
from snn_sparse.training.files import write_json

NO_SEARCH = ("random", "snip", "train")  # their masks cost nothing to find


def planned_levels(settings: dict[str, Any]) -> int | None:
    """Levels that a run of these settings has when it is done; None where that cannot be told."""
    method, like = settings["method"], settings.get("like")
    if method in ("imp", "imp+et", "transfer"):
        return int(settings["prune_iterations"])
    if method != "random":
        return 2 if method in ("eb", "eb+et") else 1
    if like is None or not Path(like).exists():
        return None
    return 1 if Path(like).is_file() else sum(level > 0 for level in RunFiles(like).levels())


def summarise(run: str | Path) -> dict[str, Any]:
    """The report of a run, from the levels that are finished; where that is not all, ``unfinished`` says how many.

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
    planned = planned_levels(settings) or 0
    rest = {"unfinished": {"levels": len(levels), "of": planned}} if len(levels) < planned else {}
    return rest | {
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


def unfinished(reports: list[dict[str, Any]]) -> list[str]:
    """Lines about the runs that go on, or were stopped: ``imp, seed 3: 4 of 15 levels done``."""
    return [
        f"{r['method']}, seed {r['seed']}: {r['unfinished']['levels']} of {r['unfinished']['of']} levels done"
        for r in reports
        if "unfinished" in r
    ]
