"""Circles and orders of dependency graphs, against reachability by brute force."""

from hypothesis import given
from hypothesis import strategies as st

from snn_sparse.fusion.order import components, in_order


@st.composite
def graphs(draw, acyclic=False):
    """Unit -> the units that it reads, itself among them sometimes; the units in a random order."""
    names = draw(st.permutations(range(draw(st.integers(1, 9)))))
    pairs = draw(st.sets(st.tuples(st.sampled_from(names), st.sampled_from(names)), max_size=20))
    if acyclic:
        pairs = {(a, b) for a, b in pairs if a > b}
    return {a: {b for c, b in pairs if c == a} for a in names}


def reaches(depends):
    """unit -> all that it reads, directly or not, itself included."""
    found = {u: {u, *read} for u, read in depends.items()}
    for _ in depends:
        found = {u: set().union(*(found[v] for v in seen)) for u, seen in found.items()}
    return found


@given(graphs())
def test_components_are_the_classes_that_reach_each_other(depends):
    reach = reaches(depends)
    expected = {frozenset(v for v in depends if v in reach[u] and u in reach[v]) for u in depends}
    found = components(depends)
    assert {frozenset(part) for part in found} == expected
    assert sum(map(len, found)) == len(depends)


@given(graphs(acyclic=True), st.data())
def test_each_comes_behind_what_it_reads(depends, data):
    order = data.draw(st.permutations(sorted(depends)))
    rank = {unit: i for i, unit in enumerate(order)}
    found = in_order(depends, rank)
    assert sorted(found) == sorted(depends)
    assert all(found.index(read) < found.index(unit) for unit in depends for read in depends[unit])
    for i, unit in enumerate(found):  # of those that could come, the one of lowest rank
        ready = [u for u in found[i:] if depends[u] <= set(found[:i])]
        assert rank[unit] == min(rank[u] for u in ready)


def test_long_chains_need_no_recursion():
    depends = {i: {i - 1} if i else set() for i in range(5000)}
    assert in_order(depends, {i: -i for i in depends}) == list(range(5000))
    depends[0] = {4999}
    assert [len(part) for part in components(depends)] == [5000]
