"""Dead filters and channels and unions of columns, against plain counting."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from snn_sparse.ops.convolution.mask_structure import dead_channels, dead_filters, row_order, union_fraction

masks = st.tuples(
    st.integers(1, 40),
    st.integers(1, 9),
    st.sampled_from([1, 3]),
    st.sampled_from([0.0, 0.02, 0.3, 1.0]),
    st.integers(0, 99),
).map(lambda p: torch.rand(p[0], p[1], p[2], p[2], generator=torch.Generator().manual_seed(p[4])) < p[3])


@settings(max_examples=15, deadline=None)
@given(masks, st.sampled_from([1, 3, 8, 16]))
def test_unions_by_counting(mask, rows):
    order = row_order(mask, rows)
    assert sorted(order.tolist()) == list(range(len(mask)))
    for given_order in (None, order):
        used = []
        filters = list(range(len(mask))) if given_order is None else given_order.tolist()
        for first in range(0, len(mask), rows):
            columns = set()
            for f in filters[first : first + rows]:
                columns |= set(mask[f].flatten().nonzero().flatten().tolist())
            used.append(len(columns) / mask[0].numel())
        assert union_fraction(mask, rows, given_order) == pytest.approx(sum(used) / len(used), abs=1e-6)


def test_ordering_finds_clusters():
    """Two kinds of filters, shuffled: their groups need half of the columns each."""
    mask = torch.zeros(32, 8, 3, 3, dtype=torch.bool)
    kinds = torch.randperm(32) % 2
    mask[kinds == 0, :4], mask[kinds == 1, 4:] = True, True
    assert union_fraction(mask, 16) == 1.0
    assert union_fraction(mask, 16, row_order(mask, 16)) == 0.5


def test_random_masks_have_the_expected_union():
    mask = torch.rand(512, 64, 3, 3) < 0.05
    assert union_fraction(mask, 16) == pytest.approx(1 - 0.95**16, abs=0.02)
    assert union_fraction(mask, 16, row_order(mask, 16)) < union_fraction(mask, 16)


def test_dead():
    mask = torch.ones(6, 5, 3, 3, dtype=torch.bool)
    assert (dead_filters(mask), dead_channels(mask)) == (0, 0)
    mask[2], mask[:, 1], mask[:, 4] = False, False, False
    assert (dead_filters(mask), dead_channels(mask)) == (1, 2)
    assert (dead_filters(mask[:, :, 0, 0]), dead_channels(mask[:, :, 0, 0])) == (1, 2)


def test_wrong_arguments():
    mask = torch.ones(2, 2, dtype=torch.bool)
    for call in (row_order, union_fraction):
        with pytest.raises(ValueError, match="rows"):
            call(mask, 0)
        with pytest.raises(TypeError, match="mask"):
            call(mask.float(), 8)
        with pytest.raises(ValueError, match="mask"):
            call(mask[:0], 8)
