"""Configuration of a run, ``config.json``, and a copy of it, without which a run would be worth little."""

import hashlib
import json
import uuid
from pathlib import Path
from typing import Any

from snn_sparse.tickets.environment import environment
from snn_sparse.tickets.run_lock import LOCK, OWNER
from snn_sparse.tickets.settings import Settings
from snn_sparse.training.files import DamagedFileError, is_temporary, write_json

NAME, COPY = "config.json", ".config.json"


def is_new(root: Path) -> bool:
    """Whether no run was ever begun in ``root``."""
    return not (root / NAME).exists() and not (root / COPY).exists()


def is_foreign(root: Path) -> bool:
    """Whether ``root`` holds what no run of ours leaves behind, be it killed in its first moment."""
    if not root.is_dir():
        return root.exists()
    return any(not is_temporary(path) and path.name not in (LOCK, OWNER) for path in root.iterdir())


def write_config(root: Path, settings: Settings) -> None:
    """Write the configuration of a new run: settings, environment, and an identity that its files will carry."""
    config = {"settings": settings.as_dict(), "environment": environment(settings.device), "run": uuid.uuid4().hex}
    config["checksum"] = _checksum(config)
    write_json(root / COPY, config)
    write_json(root / NAME, config)


def read_config(root: Path, notes: list[str]) -> dict[str, Any]:
    """Read the configuration; where it is damaged or gone, its copy, which then replaces it.

    Args:
        root: the run directory.
        notes: gets a line if the copy had to serve.

    Raises:
        ValueError: the directory is no run. DamagedFileError: both are damaged.
    """
    path, copy = root / NAME, root / COPY
    try:
        return _read(path)
    except FileNotFoundError:
        if not copy.exists():
            raise ValueError(f"{root} is no run directory: it has no {NAME}") from None
        config = _read(copy)
    except DamagedFileError as error:
        if not copy.exists():
            raise
        try:
            config = _read(copy)
        except DamagedFileError:
            raise error from None
        notes.append(f"{error}; its copy serves")
    write_json(path, config)
    return config


def _read(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(f"{path} is damaged: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("settings"), dict):
        raise DamagedFileError(f"{path} is damaged: settings are missing")
    if ("checksum" in config or "run" in config) and config.get("checksum") != _checksum(config):
        raise DamagedFileError(f"{path} is damaged: its checksum is wrong")
    return config


def _checksum(config: dict[str, Any]) -> str:
    rest = {k: v for k, v in config.items() if k != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
