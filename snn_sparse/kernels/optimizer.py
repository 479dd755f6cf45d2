"""One step of SGD or Adam for all parameters of a network in one launch; pruned entries are not touched.

Where everything is, a table on the device tells: a row (:func:`table_row`) for each parameter.
"""
# mypy: allow-untyped-defs
# Arguments of kernels have no Python types.

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import triton
import triton.language as tl

from snn_sparse.kernels.launch import launch

_ELEMENTS = 2048  # a program
SGD = tl.constexpr(0)
ADAM = tl.constexpr(1)
# Columns of the table: addresses (0: absent), and the number of elements.
_WEIGHT = tl.constexpr(0)
_GRADIENT = tl.constexpr(1)
_FIRST = tl.constexpr(2)
_SECOND = tl.constexpr(3)
_ALIVE = tl.constexpr(4)
_COUNT = tl.constexpr(5)
_COLUMNS = tl.constexpr(6)


@triton.jit
def _chunk(row, column, start, dtype: tl.constexpr):
    """Pointer to an element of what a column of the table points to."""
    return tl.load(row + column).to(tl.pointer_type(dtype)) + start


@triton.jit
def _power_complement(log_base, exponent):
    """1 - base ** exponent in float32, exact to a few roundings for a base near 1 too (exponent > 0)."""
    x = tl.cast(log_base, tl.float32) * exponent
    series = 1.0 + x / 2 * (1.0 + x / 3 * (1.0 + x / 4 * (1.0 + x / 5 * (1.0 + x / 6 * (1.0 + x / 7)))))
    return tl.where(x > -0.25, -x * series, 1.0 - tl.exp(x))


@triton.jit
def _sgd(g, buffers, alive, momentum, NESTEROV: tl.constexpr):
    """What lr is multiplied with; moves the momentum buffer."""
    update = g
    if momentum is not None:
        factor = tl.cast(momentum, tl.float32)
        buffer = factor * tl.load(buffers, mask=alive, other=0.0) + g
        tl.store(buffers, buffer, mask=alive)
        update = buffer
        if NESTEROV:
            update = g + factor * buffer
    return update


@triton.jit
def _adam(
    g, means, squares, alive, step, old_mean, mean_share, old_square, square_share, log_beta1, log_beta2, eps
):  # fmt: skip
    """What lr is multiplied with; moves the running means."""
    mean = tl.cast(old_mean, tl.float32) * tl.load(means, mask=alive, other=0.0)
    mean += tl.cast(mean_share, tl.float32) * g
    tl.store(means, mean, mask=alive)
    square = tl.cast(old_square, tl.float32) * tl.load(squares, mask=alive, other=0.0)
    square += tl.cast(square_share, tl.float32) * g * g
    tl.store(squares, square, mask=alive)
    root = tl.div_rn(tl.sqrt_rn(square), tl.sqrt_rn(_power_complement(log_beta2, step)))
    return tl.div_rn(tl.div_rn(mean, root + tl.cast(eps, tl.float32)), _power_complement(log_beta1, step))


# fmt: off
@triton.jit
def _optimizer_step_kernel(
    table, programs, steps, lr,
    weight_decay, momentum, old_mean, mean_share, old_square, square_share, log_beta1, log_beta2, eps,
    RULE: tl.constexpr, NESTEROV: tl.constexpr, ELEMENTS: tl.constexpr,
):
    """Each program counts the steps of its tensor itself: no other may read the count while it is raised."""
    # fmt: on
    program = tl.program_id(0)
    row = table + tl.load(programs + 2 * program).to(tl.int64) * _COLUMNS
    start = tl.load(programs + 2 * program + 1).to(tl.int64) * ELEMENTS
    at = tl.arange(0, ELEMENTS)
    given = tl.load(row + _GRADIENT) != 0
    left = tl.where(given, tl.minimum(tl.load(row + _COUNT) - start, ELEMENTS), 0).to(tl.int32)
    # the mask first, and all else under it: memory without live weights is not read
    everything = tl.where(tl.load(row + _ALIVE) == 0, left, 0)
    mask = tl.load(_chunk(row, _ALIVE, start, tl.int8) + at, mask=(at >= everything) & (at < left), other=1)
    alive = (at < left) & (mask != 0)
    weights = _chunk(row, _WEIGHT, start, tl.float32) + at
    first = _chunk(row, _FIRST, start, tl.float32) + at
    w = tl.load(weights, mask=alive, other=0.0)
    g = tl.load(_chunk(row, _GRADIENT, start, tl.float32) + at, mask=alive, other=0.0)
    if weight_decay is not None:
        g += tl.cast(weight_decay, tl.float32) * w
    if RULE == SGD:
        update = _sgd(g, first, alive, momentum, NESTEROV)
    else:
        second = _chunk(row, _SECOND, start, tl.float32) + at
        step = tl.load(steps + program) + 1.0
        update = _adam(
            g, first, second, alive, step,
            old_mean, mean_share, old_square, square_share, log_beta1, log_beta2, eps,
        )  # fmt: skip
        tl.debug_barrier()  # every warp has loaded the count before one raises it
        tl.store(steps + program, step, mask=given)
    tl.store(weights, w - tl.load(lr) * update, mask=alive)


_SCALARS = (
    "weight_decay", "momentum", "old_mean", "mean_share", "old_square", "square_share", "log_beta1", "log_beta2", "eps",
)  # fmt: skip


@dataclass(frozen=True)
class SgdRule:
    """Options of ``torch.optim.SGD``; dampening is 0.

    Raises:
        ValueError: a negative option, or nesterov without momentum.
    """

    momentum: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        _check_not_negative(momentum=self.momentum, weight_decay=self.weight_decay)
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum above 0")

    def arguments(self) -> dict[str, Any]:
        """What the kernel is told."""
        given = {"weight_decay": float(self.weight_decay) or None, "momentum": float(self.momentum) or None}
        return {**dict.fromkeys(_SCALARS), **given, "RULE": SGD.value, "NESTEROV": bool(self.nesterov)}


@dataclass(frozen=True)
class AdamRule:
    """Options of ``torch.optim.Adam``, without AMSGrad.

    Raises:
        ValueError: a negative option, or betas outside [0, 1).
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check_not_negative(eps=self.eps, weight_decay=self.weight_decay)
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be two numbers in [0, 1), got {self.betas}")

    def arguments(self) -> dict[str, Any]:
        """What the kernel is told."""
        beta1, beta2 = (float(beta) for beta in self.betas)
        log_beta1, log_beta2 = (math.log(beta) if beta else -math.inf for beta in (beta1, beta2))
        given = {
            "weight_decay": float(self.weight_decay) or None,
            "old_mean": beta1,
            "mean_share": 1 - beta1,
            "old_square": beta2,
            "square_share": 1 - beta2,
            "log_beta1": log_beta1,
            "log_beta2": log_beta2,
            "eps": float(self.eps),
        }
        return {**dict.fromkeys(_SCALARS), **given, "RULE": ADAM.value, "NESTEROV": False}


def _check_not_negative(**options: float) -> None:
    for name, value in options.items():
        if not value >= 0:
            raise ValueError(f"{name} must not be negative, got {value}")


Row = tuple[int, ...]


def table_row(
    weight: torch.Tensor,
    gradient: torch.Tensor | None,
    buffers: Sequence[torch.Tensor] = (),
    alive: torch.Tensor | None = None,
) -> Row:
    """What the kernel is told of one tensor. It goes through memory in order, so all strides must be the weight's.

    Args:
        weight: float32, dense in memory.
        gradient: float32; None: the tensor is skipped.
        buffers: float32, up to two: momentum buffer; running mean of the gradient, of its square.
        alive: bool; None: every entry is alive.
    """
    first, second = (*(b.data_ptr() for b in buffers), 0, 0)[:2]
    # an empty tensor is not absent, though its address is 0
    gradient_at, alive_at = (0 if x is None else x.data_ptr() or 1 for x in (gradient, alive))
    return weight.data_ptr(), gradient_at, first, second, alive_at, weight.numel()


class StepLauncher:
    """Updates a fixed number of tensors by one launch, which a CUDA graph may hold.

    The kernel reads addresses, learning rate and numbers of steps from device memory, kept here. Versions of the
    tensors that it writes do not move.

    Args:
        counts: elements of each tensor.
        device: where they are; on the meta device launches can be recorded.

    Attributes:
        steps: float32, a view ``[n]`` for each tensor: how many steps it has done, n times the same (Adam only).
    """

    def __init__(self, counts: Sequence[int], device: torch.device) -> None:
        # an empty tensor has a program too: it counts steps
        plan = [(i, k) for i, count in enumerate(counts) for k in range(max(1, triton.cdiv(count, _ELEMENTS)))]
        self._programs = torch.tensor(plan, dtype=torch.int32, device=device)
        self._steps = torch.zeros(len(plan), device=device)
        firsts = [at for at, (_, chunk) in enumerate(plan) if chunk == 0]
        self.steps = [self._steps[a:b] for a, b in pairwise([*firsts, len(plan)])]
        self._lr, self._lr_holds = torch.zeros(1, device=device), 0.0
        self._table = torch.zeros((len(counts), _COLUMNS.value), dtype=torch.int64, device=device)
        self._table_holds: list[Row] = []
        self._pending: list[tuple[torch.Tensor, list[Row]]] = []
        self._captured: list[torch.Tensor] = []  # graphs read them as long as they live

    def set_lr(self, lr: float) -> None:
        """Copy a learning rate that has changed to the device; the host does not wait."""
        if lr != self._lr_holds:
            self._lr.fill_(lr)
            self._lr_holds = lr

    def upload_captured(self) -> None:
        """Fill the tables of the launches captured so far."""
        for table, rows in self._pending:
            table.copy_(torch.tensor(rows, dtype=torch.int64))
            self._captured.append(table)
        self._pending.clear()

    def step(self, rows: Sequence[Row], rule: SgdRule | AdamRule, *, capturing: bool = False) -> None:
        """One launch; while a graph is captured with a table of its own, for :meth:`upload_captured` to fill.

        Args:
            rows: :func:`table_row` of each tensor.
            rule: what to compute.
            capturing: whether a CUDA graph is being captured.
        """
        table, rows = self._table, list(rows)
        if capturing:
            table = torch.empty_like(table)
            self._pending.append((table, rows))
        elif rows != self._table_holds:
            table.copy_(torch.tensor(rows, dtype=torch.int64))
            self._table_holds = rows
        launch(
            _optimizer_step_kernel,
            self._programs.shape[0],
            table.device,
            num_warps=8,
            table=table,
            programs=self._programs,
            steps=self._steps if isinstance(rule, AdamRule) else None,
            lr=self._lr,
            ELEMENTS=_ELEMENTS,
            **rule.arguments(),
        )
