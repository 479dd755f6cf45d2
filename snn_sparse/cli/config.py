"""Flags from a file: ``--config FILE.yaml``, or the ``config.json`` of a run; the command line goes before them."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from snn_sparse.cli import common
from snn_sparse.sweep.yaml_file import Flags, checked_keys, flag_arguments, load_yaml


def with_config(argv: Sequence[str], switches: Mapping[str, bool]) -> list[str]:
    """Put the flags of the file that ``--config`` names before those of a command line, which so override them.

    Args:
        argv: a command and its flags.
        switches: the command's flags, written with ``_``, and whether each is a switch.

    Raises:
        InputError: no such file, no YAML, an unknown key, or a value that is not one; in one line.
    """
    finder = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    finder.add_argument("--config")
    try:
        file = finder.parse_known_args(argv)[0].config
    except argparse.ArgumentError:  # --config without a file: the command's own parser says so
        return list(argv)
    if file is None:
        return list(argv)
    return [argv[0], *common.checked(lambda: _arguments(Path(file), switches)), *argv[1:]]


def _arguments(path: Path, switches: Mapping[str, bool]) -> list[str]:
    path = path / "config.json" if path.is_dir() else path
    try:
        return flag_arguments(_flags(load_yaml(path), switches), switches)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"config {path}: {error}") from None
    except ValueError as error:
        raise ValueError(f"config {path}: {error}") from error


def _flags(content: Any, switches: Mapping[str, bool]) -> Flags:
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError("it must be a mapping of flags, such as end_iter: 30")
    if {"settings", "environment"} <= content.keys():  # a run's: of its settings those that the command has a flag for
        return {k: v for k, v in content["settings"].items() if k in switches}
    flags = checked_keys(content, [name for name in switches if name != "config"], "the file")
    for key, value in flags.items():
        if value is not None and not isinstance(value, str | int | float):
            raise ValueError(f"{key} takes one value, got {value!r}")
    return flags
