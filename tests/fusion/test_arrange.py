"""Arrangements: every order, grouping and expansion of axes, against einops-like indexing by torch."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from snn_sparse.fusion.arrange import Arrangement, arrangement, dims_of, maps
from snn_sparse.fusion.axes import Atom, size_of

sizes = st.lists(st.sampled_from([2, 3, 4, 5]), min_size=1, max_size=5)


@st.composite
def grouping(draw, atoms):
    """The atoms in this order, in groups, of which some are empty."""
    groups = [[] for _ in range(draw(st.integers(1, len(atoms) + 2)))]
    places = sorted(draw(st.lists(st.integers(0, len(groups) - 1), min_size=len(atoms), max_size=len(atoms))))
    for place, atom in zip(places, atoms, strict=True):
        groups[place].append(atom)
    return groups


def lying(atoms, groups, absent=()):
    """An index tensor over the atoms, in the arrangement of ``groups``: each element says where it comes from."""
    present = [a for a in atoms if a not in absent]
    index = torch.arange(math.prod(a.size for a in present)).reshape([a.size for a in present])
    flat = [a for group in groups for a in group]
    for a in flat:
        if a in absent:
            index = index.unsqueeze(-1).expand(*index.shape, a.size)
            present = [*present, a]
    return index.permute([present.index(a) for a in flat]).reshape([size_of(g) for g in groups])


@given(st.data())
def test_every_arrangement_of_the_same_atoms(data):
    atoms = [Atom(n) for n in data.draw(sizes)]
    have = data.draw(grouping(data.draw(st.permutations(atoms))))
    want = data.draw(grouping(data.draw(st.permutations(atoms))))
    x = lying(atoms, have)
    how = arrangement(have, want, x.shape, set(), set())
    expected = lying(atoms, want)
    assert torch.equal(how(x), expected)
    assert how.nothing == ([a for g in have for a in g] == [a for g in want for a in g] and x.shape == expected.shape)


@given(st.data())
def test_values_that_are_constant_along_an_atom_are_expanded(data):
    atoms = [Atom(n) for n in data.draw(sizes)]
    absent = set(data.draw(st.lists(st.sampled_from(atoms), max_size=len(atoms) - 1, unique=True)))
    have = data.draw(grouping([a for a in data.draw(st.permutations(atoms)) if a not in absent]))
    want = data.draw(grouping(data.draw(st.permutations(atoms))))
    x = lying(atoms, have, absent)
    assert torch.equal(arrangement(have, want, x.shape, absent, set())(x), lying(atoms, want, absent))


@given(st.data())
def test_or_stay_away(data):
    """``missing``: atoms that count as size 1 in the result."""
    atoms = [Atom(n) for n in data.draw(sizes)]
    absent = set(data.draw(st.lists(st.sampled_from(atoms), max_size=len(atoms) - 1, unique=True)))
    missing = {a for a in atoms if a in absent and data.draw(st.booleans())}
    have = data.draw(grouping([a for a in data.draw(st.permutations(atoms)) if a not in absent]))
    want = data.draw(grouping(data.draw(st.permutations(atoms))))
    x = lying(atoms, have, absent)
    expected = lying(atoms, dims_of(want, missing), absent)
    assert torch.equal(arrangement(have, want, x.shape, absent, missing)(x), expected)


def test_other_atoms_are_refused():
    a, b, c = Atom(2), Atom(3), Atom(4)
    assert arrangement([[a], [b]], [[a], [c]], (2, 3), set(), set()) is None
    assert arrangement([[a], [b]], [[a]], (2, 3), set(), set()) is None
    assert arrangement([[a]], [[a], [b]], (2,), set(), set()) is None
    assert arrangement([[a]], [[a], [b]], (2,), {b}, set()) is not None
    assert arrangement([[a], [b]], [[a], [b], [a]], (2, 3), set(), set()) is None


def test_as_few_operations_as_can_be():
    t, n, c = Atom(4), Atom(3), Atom(5)

    def calls(have, want, absent=(), missing=()):  # fmt: skip
        shape = [size_of(d) for d in have]
        done = []
        arrangement(have, want, shape, set(absent), set(missing)).apply(
            "x", lambda f, a: done.append(f.__name__) or "y"
        )
        return done

    assert calls([[t], [n], [c]], [[t], [n], [c]]) == []
    assert calls([[t, n], [c]], [[t], [n], [c], [], []]) == ["reshape"]
    assert calls([[n], [t], [c]], [[t], [n], [c]]) == ["permute"]
    assert calls([[n], [t], [c]], [[t, n], [c]]) == ["permute", "reshape"]
    assert calls([[n, c]], [[], [n], [c]], {t}) == ["reshape"]
    assert calls([[n], [c]], maps([t], [n], [c], [], []), {t}, {t}) == ["reshape"]


def test_equal_ones_are_one_key():
    t, n = Atom(4), Atom(3)
    first, second = (arrangement([[t], [n]], [[n], [t]], (4, 3), set(), set()) for _ in range(2))
    assert first == second
    assert len({first, second, Arrangement(None, None, None, None)}) == 2
