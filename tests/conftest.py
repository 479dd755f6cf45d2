"""Shared by all tests: reproducible random numbers, poisoned memory, a tiny data set, markers."""

import os
import random
import tempfile
import zlib

# Before torch starts its threads, and for subprocesses too: pytest's workers share the cores out.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    share = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, share)))

import numpy as np
import pytest
import torch

# Plans are timed anew for each test session, and shared within it (subprocesses too), so that runs repeat bit by bit.
os.environ["SNN_SPARSE_CACHE"] = os.path.join(tempfile.mkdtemp(prefix="snn_sparse_plans_"), "plans.json")

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest_plugins = ["interpreter.plugin"]

SEED = "SNN_SPARSE_TEST_SEED"


@pytest.hookimpl(tryfirst=True)  # hypothesis reads its seed in the same hook
def pytest_configure(config):
    """One seed for everything drawn in this session, hypothesis and subprocesses included."""
    os.environ[SEED] = str(int(os.environ.get(SEED, 0)) or int.from_bytes(os.urandom(4), "little"))
    if config.getoption("hypothesis_seed", None) is None:
        config.option.hypothesis_seed = os.environ[SEED]


def pytest_report_header():
    return f"{SEED}={os.environ[SEED]}"


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1":  # CPU tensors stand in, if few
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU on this machine"))


def _seed(*names):
    """The same numbers for the same session seed and names, whichever tests ran before."""
    seed = zlib.crc32("/".join((os.environ[SEED], *map(str, names))).encode())
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - whoever draws from the global state
    torch.manual_seed(seed)


@pytest.fixture(autouse=True)
def _fresh_seed(request):
    """Fresh random inputs in every run; the seed is printed with a failure, and SNN_SPARSE_TEST_SEED repeats it."""
    print(f"{SEED}={os.environ[SEED]}")
    _seed(request.node.nodeid)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef, request):
    """Fixtures of a module or session draw the same numbers, whichever test asks for them first."""
    if fixturedef.scope == "function":
        return (yield)
    states = random.getstate(), np.random.get_state(), torch.random.get_rng_state()  # noqa: NPY002
    _seed(fixturedef.baseid, fixturedef.argname, getattr(request, "param_index", 0))
    try:
        return (yield)
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.random.set_rng_state(states[2])


def _poison_of(dtype):
    if dtype.is_floating_point or dtype.is_complex:
        return float("nan")
    return True if dtype == torch.bool else torch.iinfo(dtype).max // 3 * 2 + 1


def _poisoned(allocate):
    def poisoned(*args, **kwargs):
        x = allocate(*args, **kwargs)
        if x.device.type == "cpu" and x.layout == torch.strided:
            x.data.fill_(_poison_of(x.dtype))  # so that no version moves
        return x

    return poisoned


@pytest.fixture(autouse=True, scope="session")
def _poison():
    """Uninitialised memory holds NaN, or a large odd number: whatever somebody forgets to write shows."""
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in (
            (torch, "empty"),
            (torch, "empty_like"),
            (torch, "empty_strided"),
            (torch.Tensor, "new_empty"),
            (torch.Tensor, "new_empty_strided"),
        ):
            patch.setattr(owner, name, _poisoned(getattr(owner, name)))
        yield


@pytest.fixture(scope="session")
def digits():
    from snn_sparse.training import load_dataset

    return load_dataset("digits")


@pytest.fixture(scope="session")
def tiny():
    """200 training and 100 test digits: an epoch takes a fraction of a second."""
    from tiny_case import tiny_digits

    return tiny_digits()


@pytest.fixture(scope="session")
def pair():
    """Two processes in one group, started when first asked for."""
    from process_case import Pair

    pair = Pair()
    yield pair
    pair.close()
