"""Sentences and tables of the page, against reports whose figures can be worked out on paper."""

import random

import pytest

from snn_sparse.reports import story
from snn_sparse.tickets.settings import Settings


def profile(share=1.0, timesteps=5):
    """Profile of a network that costs a share of 800 accumulations, 200 multiply-accumulations and 3000 pJ."""
    counts = {"Effective_ACs": 800 * share, "Effective_MACs": 200 * share, "energy_pj": 3000 * share}
    return {"timesteps": timesteps, **counts}


def report(method, *levels, seed=1, seconds=10.0, search=None, **more):
    """Report of a run; its levels are (sparsity, accuracy, epochs, profile)."""
    settings = {k: more.pop(k) for k in list(more) if k in Settings().as_dict()}
    like = {"like": "somewhere"} if method == "random" else {}
    s = Settings(**{"method": method, "seed": seed, **like, **settings})
    names = ("sparsity", "accuracy", "epochs", "profile")
    made = [{"level": n, **dict(zip(names, level, strict=True))} for n, level in enumerate(levels)]
    times = {"seconds": seconds, "search_seconds": seconds / 2 if search is None else search}
    known = {"method": method, "arch": s.arch, "dataset": s.dataset, "seed": seed, "timesteps": 5}
    return {**known, "timesteps_early": None, **times, "settings": s.as_dict(), "levels": made, **more}


def imp(seed, dense, sparse, **more):
    levels = ((0.0, dense, 30, profile()), (75.0, dense - 0.5, 20, profile(0.3)), (98.44, sparse, 20, profile(0.05)))
    return report("imp", *levels, seed=seed, seconds=100.0, **more)


def eb(seed, accuracy, **more):
    return report("eb", (0.0, 80.0, 5, profile()), (98.13, accuracy, 30, profile(0.1)), seed=seed, seconds=40.0, **more)


def control(seed, accuracy):
    levels = ((75.0, 96.0, 20, profile(0.3)), (98.44, accuracy, 20, profile(0.05)))
    return report("random", *levels, seed=seed, seconds=30.0, search=0.0)


RUNS = [imp(1, 97.0, 90.0), imp(2, 97.0, 92.0), eb(1, 91.5), eb(2, 92.5), control(1, 70.0), control(2, 72.0)]


def test_best_at_each_sparsity():
    rows = story.best_rows(RUNS)
    assert rows == [
        ("75.00 %", "imp", "96.50 ± 0.00 %", "random 96.00 ± 0.00 %"),
        # 92 and 91 are apart by less than imp's deviation, 1.41
        ("98.13 - 98.44 %", "eb ≈ imp", "92.00 ± 0.71 %", "random 71.00 ± 1.41 %"),
    ]
    assert story.best_rows(RUNS[:2]) == []  # nobody to compare with


def test_levels_of_one_search_are_never_put_together():
    percents = random.sample(range(100, 9000), 12)
    levels = [(p / 100, 50.0, 1, profile()) for p in sorted(percents)]
    found = story.rivals([report("imp", *levels)])
    assert [list(r.points) for r in found] == [["imp"]] * 12
    assert [r.points["imp"].sparsity for r in found] == pytest.approx(sorted(p / 100 for p in percents))


@pytest.mark.parametrize(("other", "together"), [(79.9, False), (80.1, True), (87.0, True), (87.3, False)])
def test_sparsities_that_are_compared(other, together):
    """Of 16 % weights left: those with 12.8 to 20 % left."""
    found = story.rivals([report("imp", (84.0, 90.0, 1, None)), report("eb", (other, 90.0, 1, None))])
    assert (len(found) == 1) == together


def test_costs_against_imp():
    assert story.cost_rows(RUNS) == [
        ("imp", "70", "1:40", "5.0 %", "5.0 %"),
        ("eb", "35 (50 % fewer)", "40.0 s (60 % less)", "10.0 %", "10.0 %"),
        ("random", "40", "30.0 s", "5.0 %", "5.0 %"),  # a control saves nothing
    ]


def test_no_comparison_across_other_work_or_unfinished_runs():
    unfinished = {"unfinished": {"levels": 3, "of": 15}}
    rows = story.cost_rows([imp(1, 97.0, 90.0, **unfinished), eb(1, 91.5)])
    assert rows == [("imp", "unfinished", "", "", ""), ("eb", "35", "40.0 s", "10.0 %", "10.0 %")]
    rows = story.cost_rows([imp(1, 97.0, 90.0), eb(1, 91.5, device="cuda")])
    assert [row[1] for row in rows] == ["70", "35"]


def test_costs_need_profiles_of_the_same_timesteps():
    early = report("imp+et", (0.0, 97.0, 1, profile(0.6, 3)), (90.0, 90.0, 1, profile(0.1, 5)))
    assert story.cost_rows([early])[0][3:] == ("-", "-")
    assert story.cost_rows([early, imp(1, 97.0, 90.0)])[0][3:] == ("10.0 %", "10.0 %")
    old = report("imp", (0.0, 97.0, 1, None), (90.0, 90.0, 1, None))
    assert story.cost_rows([old])[0][3:] == ("-", "-")


def test_sentences():
    assert story.sentences(RUNS) == [
        "imp: the dense network has 97.00 ± 0.00 %; the ticket with 75.00 % of the weights pruned is within a point of "
        "that (it has 96.50 ± 0.00 %).",
        "At 98.44 % imp's tickets are 20.0 points above random masks of the same layer densities "
        "(91.00 ± 1.41 % against 71.00 ± 1.41 %).",
        "eb is the fastest way to a ticket, of 98.13 %: 40.0 s and 35 epochs from start to end, where imp takes 1:40 "
        "and 70 to its sparsest.",
        "eb's ticket of 98.13 % needs 10.0 % of the dense network's synaptic operations for an image, and an estimated "
        "10.0 % of its energy.",
    ]


def test_sentences_claim_nothing_that_the_runs_do_not_show():
    weak = [imp(1, 97.0, 70.0), imp(2, 97.0, 74.0), control(1, 71.0), control(2, 72.0)]
    assert "At 98.44 % random masks do as well as imp: these are no winning tickets." in story.sentences(weak)
    worse = story.sentences([imp(1, 97.0, 60.0), control(1, 70.0)])
    assert any("imp's tickets are 10.0 points below random masks" in line for line in worse)
    bad = report("imp", (0.0, 97.0, 1, None), (90.0, 50.0, 1, None))
    assert story.sentences([bad]) == ["imp: the dense network has 97.00 %; no ticket is within a point of that."]
    slow = {**eb(1, 91.5), "seconds": 200.0}
    assert not any("fastest" in line for line in story.sentences([imp(1, 97.0, 90.0), slow]))
    assert story.sentences([report("train", (90.0, 91.0, 3, None))]) == []


@pytest.mark.parametrize(
    ("value", "than", "text"), [(44, 100, "56 % fewer"), (112, 100, "12 % more"), (100.4, 100, "the same")]
)
def test_less(value, than, text):
    assert story.less(value, than, "fewer") == text
