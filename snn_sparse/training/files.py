"""Files whose writing leaves the old content or the new, killed at any moment, and whose reading shows damage."""

import hashlib
import io
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import torch

SEAL = b"\nsha256 "  # before the checksum that ends a checkpoint
_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}(\.tmp)?")


class DamagedFileError(ValueError):
    """A file's content is not what was written."""


def write_atomic(path: str | Path, content: bytes, keep: Path | None = None) -> None:
    """Write through a temporary file in the same folder, flushed to disk, then renamed over ``path``.

    Args:
        path: where.
        content: what.
        keep: where the file that was there before goes; it is lost if left out.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        os.chmod(temporary, 0o644)
        if keep is not None and path.exists():
            os.replace(path, keep)
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:
            error.filename = str(path)  # a full disk does not say what it was full for
        raise


def remove_temporaries(folder: Path) -> None:
    """Remove what writes that were killed have left in ``folder``; nobody else may be writing there."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if _TEMPORARY.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


def is_temporary(path: Path) -> bool:
    """Whether a file is what a killed write has left."""
    return _TEMPORARY.fullmatch(path.name) is not None


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; NaN and infinity are refused."""
    write_atomic(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def save_checkpoint(path: str | Path, value: dict[str, Any], keep: Path | None = None) -> None:
    """Write tensors, numbers, strings, lists and dicts, atomically; :func:`load_checkpoint` reads them back.

    Args:
        path: where; torch itself reads the file too.
        value: what.
        keep: where the checkpoint that was there before goes; it is lost if left out.
    """
    buffer = io.BytesIO()
    torch.save(value, buffer)
    content = buffer.getvalue()
    write_atomic(path, content + SEAL + hashlib.sha256(content).hexdigest().encode() + b"\n", keep)


def load_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint; no code in the file is run (``weights_only``).

    Raises:
        DamagedFileError: it is not what was written.
    """
    content, seal, rest = Path(path).read_bytes().rpartition(SEAL)
    if not seal:  # of a version that wrote no checksum
        content = rest
    elif hashlib.sha256(content).hexdigest().encode() + b"\n" != rest:
        raise DamagedFileError(f"{path} is damaged: its checksum is wrong")
    try:
        found = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except Exception as error:  # torch tells damage by errors of many kinds
        raise DamagedFileError(f"{path} is damaged: {type(error).__name__}") from error
    if not isinstance(found, dict):
        raise DamagedFileError(f"{path} is damaged: it holds no checkpoint")
    return found
