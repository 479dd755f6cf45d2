"""Structure that a mask leaves for a blocked kernel: dead filters and channels, columns that a group of rows uses.

A convolution's mask ``[Cout, Cin, kh, kw]`` is seen as a matrix: a row for each filter, a column for each of the
``Cin kh kw`` places of its input. A tile of a matrix unit works on 8, 16 or 32 rows at once and must read every column
that any of them uses; putting rows with similar columns together makes that union smaller.
"""

import torch


def as_matrix(mask: torch.Tensor) -> torch.Tensor:
    """``[rows, columns]``, bool.

    Raises:
        TypeError: ``mask`` is no bool tensor. ValueError: it is empty or has fewer than two dimensions.
    """
    if not isinstance(mask, torch.Tensor) or mask.dtype != torch.bool:
        raise TypeError(f"mask must be a bool tensor, got {getattr(mask, 'dtype', type(mask).__name__)}")
    if mask.dim() < 2 or mask.numel() == 0:
        raise ValueError(f"mask must be [Cout, Cin, ...] and not empty, got shape {tuple(mask.shape)}")
    return mask.flatten(1)


def dead_filters(mask: torch.Tensor) -> int:
    """Filters without a live weight. (They still emit batch norm's beta: dead to read, not to leave out.)"""
    return int((~as_matrix(mask).any(1)).sum())


def dead_channels(mask: torch.Tensor) -> int:
    """Input channels that no live weight reads."""
    return int((~as_matrix(mask).view(*mask.shape[:2], -1).any(2).any(0)).sum())


def _check_rows(rows: int) -> None:
    if isinstance(rows, bool) or not isinstance(rows, int) or rows < 1:
        raise ValueError(f"rows must be a whole number of at least 1, got {rows!r}")


def row_order(mask: torch.Tensor, rows: int) -> torch.Tensor:
    """An order of the filters in which groups of ``rows`` use few columns together; greedy, int64 ``[Cout]``.

    A group starts with the fullest filter that is left and takes, one by one, the filter that adds the fewest columns.

    Raises:
        ValueError: ``rows`` is less than 1, or ``mask`` is empty. TypeError: ``mask`` is no bool tensor.
    """
    _check_rows(rows)
    matrix = as_matrix(mask).to(torch.float32).cpu()
    live, left = matrix.sum(1), torch.ones(len(matrix), dtype=torch.bool)
    order: list[int] = []
    for place in range(len(matrix)):
        if place % rows == 0:
            gain, union = live.clone(), torch.zeros(matrix.shape[1])
        else:
            gain = matrix @ union - live  # minus the columns that a filter would add
        pick = int(gain.masked_fill(~left, -torch.inf).argmax())
        order.append(pick)
        left[pick] = False
        union = torch.maximum(union, matrix[pick])
    return torch.tensor(order)


def union_fraction(mask: torch.Tensor, rows: int, order: torch.Tensor | None = None) -> float:
    """Share of the columns that a group of ``rows`` filters uses, mean over the groups, for an order of the filters.

    Raises:
        ValueError: ``rows`` is less than 1, or ``mask`` is empty. TypeError: ``mask`` is no bool tensor.
    """
    _check_rows(rows)
    matrix = as_matrix(mask)
    groups = (matrix if order is None else matrix[order]).split(rows)
    return sum(float(g.any(0).float().mean()) for g in groups) / len(groups)
