"""A sweep's YAML file, read into one dictionary of flags for each search; what the flags mean is not known here."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

PARTS = ("out", "common", "grid", "searches")
Flags = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """One search as the file gives it.

    Attributes:
        where: which part of the file, for messages.
        name: the one it was given, or None.
        own: what the grid or the entry itself says; names the search.
        common: what all searches share; ``own`` goes before it.
        from_grid: it is a combination of the grid.
    """

    where: str
    name: str | None
    own: Flags
    common: Flags
    from_grid: bool

    @property
    def flags(self) -> Flags:
        """All flags."""
        return {**self.common, **self.own}


def read_entries(path: Path, known: Iterable[str]) -> tuple[str, list[Entry]]:
    """Read a sweep's file.

    Args:
        path: the YAML file.
        known: names of flags, written with ``_``.

    Returns:
        the directory of the sweep, and its searches: the combinations of ``grid``, then the list ``searches``.

    Raises:
        FileNotFoundError: no such file. ValueError: it is no YAML, has an unknown or a repeated key, or is no sweep.
    """
    content = load_yaml(path)
    if not isinstance(content, dict):
        raise ValueError("a sweep is a mapping with out, common, grid and searches")
    content = checked_keys(content, PARTS, "the sweep")
    out = content.get("out")
    if not isinstance(out, str) or not out:
        raise ValueError("out must say where the runs go, such as out: runs/NAME")
    known = list(known)
    common = _flags(content.get("common") or {}, known, "common")
    for key, value in common.items():
        _check_value(key, value, "common")
    entries = [
        *_grid_entries(_flags(content.get("grid") or {}, known, "grid"), common),
        *_listed_entries(content.get("searches") or [], known, common),
    ]
    if not entries:
        raise ValueError("there is no search: give a grid, a list of searches, or both")
    return out, entries


def _grid_entries(grid: Flags, common: Flags) -> list[Entry]:
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"grid: {key} must be a list of values, got {values!r}")
        for i, value in enumerate(values):
            _check_value(key, value, "grid")
            if value in values[:i]:
                raise ValueError(f"grid: {key} lists {value!r} twice")
    combinations = product(*grid.values()) if grid else []
    return [Entry("grid", None, dict(zip(grid, values, strict=True)), common, True) for values in combinations]


def _listed_entries(listed: Any, known: list[str], common: Flags) -> list[Entry]:
    if not isinstance(listed, list):
        raise ValueError("searches must be a list, each search a mapping of flags")
    entries = []
    for number, item in enumerate(listed, 1):
        where = f"search {number} of searches"
        own = _flags(item, [*known, "name"], where)
        for key, value in own.items():
            _check_value(key, value, where)
        name = own.pop("name", None)
        entries.append(Entry(where, None if name is None else str(name), own, common, False))
    return entries


def _flags(part: Any, known: list[str], where: str) -> Flags:
    if not isinstance(part, dict):
        raise ValueError(f"{where} must be a mapping of flags, got {part!r}")
    return checked_keys(part, known, where)


def checked_keys(part: Mapping[Any, Any], known: Iterable[str], where: str) -> Flags:
    """Return the same with ``_`` in every key; an unknown or a repeated key is a ValueError, named with ``where``."""
    known = list(known)
    found: Flags = {}
    for given, value in part.items():
        key = str(given).replace("-", "_")
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            raise ValueError(f"{where}: unknown key {given!r}" + (f"; did you mean {near[0]}?" if near else ""))
        if key in found:
            raise ValueError(f"{where}: {key} is given twice")
        found[key] = value
    return found


def _check_value(key: str, value: Any, where: str) -> None:
    if value is not None and not isinstance(value, (str, int, float)):
        raise ValueError(f"{where}: {key} must be one value, got {value!r}; lists of values go into grid")


def flag_arguments(flags: Flags, switches: Mapping[str, bool]) -> list[str]:
    """Write flags as a command line; those that are None are left out, and switches that are off.

    Args:
        flags: names with ``_``, and their values.
        switches: every flag, and whether it is a switch that takes no value.

    Raises:
        ValueError: a switch with a value, or a flag that is true or false.
    """
    arguments = []
    for key, value in flags.items():
        if value is None:
            continue
        if isinstance(value, bool) != switches[key]:
            raise ValueError(f"{key} {'is true or false' if switches[key] else 'takes a value'}, got {value!r}")
        if not switches[key]:
            arguments.append(f"--{key}={value}")
        elif value:
            arguments.append(f"--{key}")
    return arguments


def load_yaml(path: Path) -> Any:
    """Read a YAML file.

    Raises:
        FileNotFoundError: no such file. ValueError: it is no YAML, or has a key twice.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses a key that stands twice in a mapping, which YAML forbids and PyYAML lets pass."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [self.construct_object(key, deep) for key, _ in node.value]
            for i, key in enumerate(keys):
                if key in keys[:i]:
                    raise ValueError(f"{key} is given twice, again in line {node.value[i][0].start_mark.line + 1}")
            return super().construct_mapping(node, deep)

    if not path.exists():
        raise FileNotFoundError("no such file")
    try:
        return yaml.load(path.read_bytes(), Loader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"not YAML{line}: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {error}") from error
