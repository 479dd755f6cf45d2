"""The tickets of ``examples/tickets/`` are small, say what they are, and are as accurate as they say."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import snn_sparse as ss
from snn_sparse.tickets import read_header
from snn_sparse.training import SOURCES, ImageSet, evaluate
from snn_sparse.tuning import without_races

FOLDER = Path(__file__).parents[1] / "examples" / "tickets"
FILES = sorted(FOLDER.glob("*.safetensors"))


@pytest.fixture(scope="module")
def images():
    arrays, source = np.load(FOLDER / "fmnist-100.npz"), SOURCES["fmnist"]
    return ImageSet(*map(torch.from_numpy, (arrays["images"], arrays["labels"])), source.mean, source.std)


def test_three_small_files_that_the_readme_lists():
    assert len(FILES) == 3
    readme = (FOLDER / "README.md").read_text()
    for path in FILES:
        header = read_header(path)
        assert path.stat().st_size < 10**6
        assert header.weights == ("trained",)
        line = f"| `{path.name}` | {header.sparsity:.2f} % | {header.meta['accuracy']:.2f} % |"
        assert line in readme
        assert f"-{header.meta['method'].replace('+', '-')}-{header.sparsity:.0f}" in path.stem
        assert header.config["width"] == float(re.search(r"width([\d.]+)-", path.name)[1])


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_as_accurate_as_it_says(path, images):
    ticket = ss.Ticket.load(path)
    with without_races():  # timing how layers compute best would take longer than computing
        plain, fused = (evaluate(model, images) for model in (ticket.build(), ss.fuse(ticket.build())))
    share = ticket.meta["accuracy"] / 100
    assert abs(plain / 100 - share) < 3 * (share * (1 - share) / len(images)) ** 0.5  # of all test images, by chance
    assert abs(fused - plain) <= 2  # a sum near a threshold may round the other way
