"""Shared by all tests: reproducible random numbers, a tiny data set, markers."""

import os
import tempfile

import pytest
import torch

# Plans are timed anew for each test session, and shared within it (subprocesses too), so that runs repeat bit by bit.
os.environ["SNN_SPARSE_CACHE"] = os.path.join(tempfile.mkdtemp(prefix="snn_sparse_plans_"), "plans.json")

from snn_sparse.training import Augmentation, Dataset, ImageSet, load_dataset


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU on this machine"))


@pytest.fixture(autouse=True)
def _fresh_seed():
    """Fresh random inputs in every run; the seed is printed with a failure, and SNN_SPARSE_TEST_SEED repeats it."""
    seed = int(os.environ.get("SNN_SPARSE_TEST_SEED", 0)) or int.from_bytes(os.urandom(4), "little")
    print(f"SNN_SPARSE_TEST_SEED={seed}")
    torch.manual_seed(seed)


@pytest.fixture(scope="session")
def digits():
    return load_dataset("digits")


@pytest.fixture(scope="session")
def tiny(digits):
    """200 training and 100 test digits: an epoch takes a fraction of a second."""

    def cut(part, n):
        return ImageSet(part.images[:n], part.labels[:n], part.mean, part.std)

    return Dataset("digits", cut(digits.train, 200), cut(digits.test, 100), 10, Augmentation(crop_padding=1))
