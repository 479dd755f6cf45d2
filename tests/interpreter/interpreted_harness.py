"""The harness itself: mistakes in small kernels show, and bf16 is what hardware computes."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from interpreter.hardware import from_bf16, to_bf16
from triton.runtime.errors import InterpreterError


@triton.jit
def _copy_kernel(x, y, n, shift, N: tl.constexpr):
    at = tl.program_id(0) * N + tl.arange(0, N)
    tl.store(y + at, tl.load(x + at + shift, mask=at < n), mask=at < n)


@triton.jit
def _overflow_kernel(y, n, N: tl.constexpr):
    tl.store(y + tl.arange(0, N), tl.full([N], 1.0, tl.float32), mask=tl.arange(0, N) <= n)


@triton.jit
def _last_kernel(y):
    tl.store(y, tl.program_id(0))


@triton.jit
def _sum_kernel(y, n, N: tl.constexpr):
    """Every program adds to what the one before it wrote."""
    p = tl.program_id(0)
    tl.store(y + p + 1, tl.load(y + p) + 1)


@triton.jit
def _order_kernel(y, counter):
    """Which of all programs came first; reading and writing one place is the point of it."""
    tl.store(y + tl.program_id(0), tl.atomic_add(counter, 1))


@triton.jit
def _bf16_kernel(a, b, added, product, fused, cast, less, N: tl.constexpr):
    at = tl.arange(0, N)
    x, y = tl.load(a + at), tl.load(b + at)
    tl.store(added + at, x + y)
    tl.store(product + at, x * y)
    tl.store(fused + at, tl.fma(x, y, x))
    tl.store(cast + at, (x.to(tl.float32) * 1.001).to(tl.bfloat16))
    tl.store(less + at, (x < y).to(tl.int32))


@triton.jit
def _dot_kernel(a, b, y, N: tl.constexpr):
    i, j = tl.arange(0, N)[:, None], tl.arange(0, N)[None, :]
    tl.store(y + i * N + j, tl.dot(tl.load(a + i * N + j), tl.load(b + i * N + j)))


def test_what_is_right_passes():
    x, y = torch.randn(30), torch.empty(30)
    _copy_kernel[(2,)](x, y, 30, 0, N=16)
    assert torch.equal(x, y)


def test_a_write_outside_is_caught():
    _overflow_kernel[(1,)](torch.empty(5), 4, N=8)
    with pytest.raises(AssertionError, match="_overflow_kernel writes behind y"):
        _overflow_kernel[(1,)](torch.empty(5), 5, N=8)
    whole = torch.empty(20)
    with pytest.raises(AssertionError, match="behind"):  # a view: what is written would still be inside its storage
        _overflow_kernel[(1,)](whole[4:9], 5, N=8)


@pytest.mark.parametrize("shift", [-1, 1])
def test_a_read_outside_is_caught_and_poison(shift):
    x, y = torch.randn(40)[4:34], torch.empty(30)
    with pytest.raises(AssertionError, match="_copy_kernel reads outside"):
        _copy_kernel[(2,)](x, y, 30, shift, N=16)
    assert int(y.isnan().sum()) == 1
    numbers, found = torch.arange(30, dtype=torch.int32), torch.empty(30, dtype=torch.int32)
    with pytest.raises(AssertionError, match="_copy_kernel reads outside"):
        _copy_kernel[(2,)](numbers, found, 30, shift, N=16)
    assert 0x55555555 in found


def test_an_access_far_outside_does_not_end_the_process():
    with pytest.raises(InterpreterError, match="far outside"):
        _copy_kernel[(2,)](torch.randn(30), torch.empty(30), 30, 1 << 28, N=16)


def test_memory_that_nobody_wrote_is_poison():
    for x in (
        torch.empty(3),
        torch.empty_like(torch.ones(3)),
        torch.ones(1).new_empty(3),
        torch.empty_strided((3,), (2,)),
    ):
        assert x.isnan().all()
    assert torch.empty(3, dtype=torch.int32).eq(0x55555555).all()


def test_views_of_one_storage():
    whole = torch.randn(40)
    x, y = whole[:20], whole[20:]
    _copy_kernel[(1,)](x, y, 20, 0, N=32)
    assert torch.equal(x, y)
    _copy_kernel[(1,)](x.expand(3, 20), y, 20, 0, N=32)
    _copy_kernel[(1,)](whole, whole, 20, 0, N=32)  # the same one twice
    _copy_kernel[(1,)](x, whole[10:], 20, 0, N=32)  # and overlapping ones
    assert not whole.isnan().any()


def test_programs_that_depend_on_each_other_are_caught():
    with pytest.raises(AssertionError, match="two programs write"):
        _last_kernel[(3,)](torch.zeros(1, dtype=torch.int32))
    with pytest.raises(AssertionError, match="reads what another"):
        _sum_kernel[(3,)](torch.zeros(4), 4, N=4)


def test_programs_run_in_any_order():
    orders = set()
    for _ in range(5):
        y = torch.empty(6, dtype=torch.int32)
        _order_kernel[(6,)](y, torch.zeros(1, dtype=torch.int32))
        assert sorted(y.tolist()) == list(range(6))
        orders.add(tuple(y.tolist()))
    assert len(orders) > 1


def test_rounding_to_bf16():
    bits = torch.randint(-(2**31), 2**31, (4096,)).to(torch.int32)
    special = torch.tensor([0.0, -0.0, 1.00390625, 1.01171875, 3.4e38, float("inf"), float("nan"), 1e-40])
    values = torch.cat([bits.view(torch.float32), special])
    found = torch.from_numpy(from_bf16(to_bf16(values.numpy())))
    torch.testing.assert_close(found, values.bfloat16().float(), rtol=0, atol=0, equal_nan=True)


def test_bf16_arithmetic():
    a, b = torch.randn(2, 64).bfloat16()
    added, product, fused, cast = torch.empty(4, 64, dtype=torch.bfloat16)
    less = torch.empty(64, dtype=torch.int32)
    _bf16_kernel[(1,)](a, b, added, product, fused, cast, less, N=64)
    assert torch.equal(added, a + b)
    assert torch.equal(product, a * b)
    assert torch.equal(fused, (a.double() * b.double() + a.double()).float().bfloat16())
    assert torch.equal(cast, (a.float() * torch.tensor(1.001)).bfloat16())
    assert torch.equal(less.bool(), a < b)


def test_bf16_products_add_up_in_float32():
    a, b, y = torch.randn(16, 16).bfloat16(), torch.randn(16, 16).bfloat16(), torch.empty(16, 16)
    _dot_kernel[(1,)](a, b, y, N=16)
    np.testing.assert_allclose(y, a.double() @ b.double(), rtol=1e-5, atol=1e-5)
