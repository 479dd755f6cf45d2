"""Plan of a sweep: which searches, in which directories, by which commands, after which others; checked as a whole."""

import difflib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from snn_sparse.reports.groups import matters
from snn_sparse.sweep.planned import Plan, PlannedSearch
from snn_sparse.sweep.yaml_file import Entry, Flags, flag_arguments, read_entries
from snn_sparse.tickets.settings import Settings

SettingsOf = Callable[[list[str]], Settings]
FIRST = ("method", "arch", "dataset")  # of a directory's name
WITHOUT_DENSE = ("random", "snip")  # their runs hold no dense level 0, which random masks start from
OURS = (".log", ".done", ".html", ".png", ".lock")  # endings of the sweep's own files beside the runs


def read_plan(path: str | Path, switches: Mapping[str, bool], settings_of: SettingsOf) -> Plan:
    """Read a sweep's file and check all of it.

    Args:
        path: the YAML file.
        switches: every flag of a search, written with ``_``, and whether it is a switch that takes no value.
        settings_of: the settings that a list of such flags stands for; raises ValueError for those it refuses.

    Raises:
        FileNotFoundError: no such file. ValueError: what is wrong with it, and where.
    """
    path = Path(path)
    try:
        out, entries = read_entries(path, switches)
        return _plan(out, entries, switches, settings_of)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: {error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _plan(out: str, entries: list[Entry], switches: Mapping[str, bool], settings_of: SettingsOf) -> Plan:
    chosen: dict[str, tuple[Entry, Settings]] = {}
    seen: dict[Any, tuple[str, bool]] = {}
    left_out = 0
    for entry in entries:
        flags = entry.flags
        own = {k: v for k, v in entry.own.items() if not entry.from_grid or matters(k, str(flags.get("method", "imp")))}
        entry = Entry(entry.where, entry.name, own, entry.common, entry.from_grid)
        name = entry.name or _name(own, str(flags.get("method", "imp")))
        settings = _settings(entry, name, switches, settings_of)
        same = (settings, *(entry.flags.get(key) for key in ("like", "data_dir", "image_size")))
        if same in seen:
            other, from_grid = seen[same]
            if not (entry.from_grid and from_grid):
                raise ValueError(f"{entry.where}: {name} is the same search as {other}")
            left_out += 1
            continue
        if name in chosen:
            raise ValueError(f"{entry.where}: another search is called {name} already: give this one a name")
        seen[same] = (name, entry.from_grid)
        chosen[name] = (entry, settings)
    planned = [_planned(name, out, chosen, switches) for name in chosen]
    return Plan(Path(out), tuple(sorted(planned, key=lambda search: search.after is not None)), left_out)


def _name(own: Flags, method: str) -> str:
    """Text of an entry, in a form that is a directory's name: ``imp-et-vgg16-seed1``."""
    keys = sorted((k for k in own if k != "like"), key=lambda k: FIRST.index(k) if k in FIRST else len(FIRST))
    parts = [own[k] if isinstance(own[k], str) and not _is_number(own[k]) else f"{k}{own[k]}" for k in keys]
    return re.sub(r"[^A-Za-z0-9._]+", "-", "-".join(parts)).strip("-.") or method


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _settings(entry: Entry, name: str, switches: Mapping[str, bool], settings_of: SettingsOf) -> Settings:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", name) or name.endswith(OURS):
        raise ValueError(f"{entry.where}: name {name!r} cannot be a directory's: use letters, digits, - and _")
    if (entry.flags.get("method") == "random") != (entry.flags.get("like") is not None):
        raise ValueError(
            f"{entry.where}: {name}: like (another search of this sweep, or a run) goes with method random, "
            "and only with it"
        )
    try:
        return settings_of(flag_arguments(entry.flags, switches))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{entry.where}: {name}: {error}") from error


def _planned(
    name: str, out: str, chosen: dict[str, tuple[Entry, Settings]], switches: Mapping[str, bool]
) -> PlannedSearch:
    entry, _ = chosen[name]
    flags, like, after = entry.flags, entry.flags.get("like"), None
    if like is not None:
        after = _needed(name, str(like), chosen)
        flags["like"] = str(Path(out) / after) if after else like
    run = str(Path(out) / name)
    return PlannedSearch(name, run, ("search", *flag_arguments(flags, switches), f"--out={run}"), after)


def _needed(name: str, like: str, chosen: dict[str, tuple[Entry, Settings]]) -> str | None:
    """Name of the search that ``like`` means, None if it is a run from elsewhere."""
    where = chosen[name][0].where
    if like in chosen:
        if chosen[like][1].method in WITHOUT_DENSE:
            raise ValueError(
                f"{where}: {name}: like {like} is of method {chosen[like][1].method}, which has no tickets"
            )
        return like
    if Path(like).exists():
        return None
    near = difflib.get_close_matches(like, chosen, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ValueError(f"{where}: {name}: like {like} is neither a search of this sweep nor a run{hint}")
