"""Writing files so that a kill at any moment leaves the old content or the new, never half of it."""

import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch


def write_atomic(path: str | Path, content: bytes) -> None:
    """Write through a temporary file in the same folder, flushed to disk, then renamed over ``path``."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; NaN and infinity are refused."""
    write_atomic(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def save_checkpoint(path: str | Path, value: dict[str, Any]) -> None:
    """Write tensors, numbers, strings, lists and dicts, atomically; :func:`load_checkpoint` reads them back."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    write_atomic(path, buffer.getvalue())


def load_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint; no code in the file is run (``weights_only``)."""
    return torch.load(path, map_location=device, weights_only=True)
