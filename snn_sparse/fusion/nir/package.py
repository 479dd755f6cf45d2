"""The optional package ``nir``."""

from typing import Any


def require_nir() -> Any:
    """Import ``nir``.

    Raises:
        ImportError: it is not installed; says how to install it.
    """
    try:
        import nir
    except ImportError:
        raise ImportError("NIR needs the package nir: pip install 'snn_sparse[nir]'") from None
    return nir


def check_dt(dt: float) -> float:
    """Return ``dt`` if it is a positive number, else raise a ValueError."""
    if not (isinstance(dt, int | float) and 0 < dt < float("inf")):
        raise ValueError(f"dt must be a positive number, got {dt!r}")
    return float(dt)
