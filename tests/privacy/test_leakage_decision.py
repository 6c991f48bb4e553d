"""Intervals against closed forms, and what too few people do to an outcome."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from medidiff.errors import InputError
from medidiff.privacy.leakage.decision import Estimate, auc, share, tpr_at_fpr
from medidiff.privacy.leakage.memorisation import apart, fit_limit, nearer_to_training

RNG = np.random.default_rng(0)


def test_the_area_is_that_of_scikit_learn() -> None:
    members, others = RNG.normal(0.5, 1, 60).round(1), RNG.normal(0, 1, 35).round(1)  # rounded: there are ties
    truth = np.repeat([1, 0], [60, 35])
    assert auc(members, others).value == pytest.approx(roc_auc_score(truth, np.concatenate([members, others])))


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    truth, held = stats.norm.cdf(0.5 / np.sqrt(2)), 0
    rng = np.random.default_rng(1)
    for _ in range(400):
        found = auc(rng.normal(0.5, 1, 160), rng.normal(0, 1, 40))
        held += found.low <= truth <= found.high
    assert 0.92 <= held / 400 <= 0.98


def test_a_set_that_leaks_nothing_can_pass_with_forty_others() -> None:
    rng = np.random.default_rng(2)
    words = [auc(rng.normal(size=160), rng.normal(size=40)).word for _ in range(200)]
    assert words.count("passed") > 180
    assert words.count("failed") < 3


def test_an_attack_that_works_fails_the_set() -> None:
    assert auc(np.arange(10, 60), np.arange(40)).word == "failed"


@pytest.mark.parametrize(("members", "others"), [(19, 400), (400, 19), (6, 6)])
def test_few_people_never_pass(members: int, others: int) -> None:
    assert Estimate(0.5, 0.45, 0.55, members, others).word == "inconclusive"


def test_a_handful_cannot_fail_either() -> None:
    assert auc(np.array([5.0, 6, 7]), np.arange(4)).word == "inconclusive"


def test_perfect_separation_of_few_has_an_interval() -> None:
    found = auc(np.arange(10, 18), np.arange(8))
    assert found.value == 1
    assert found.low < 1


@pytest.mark.parametrize("scores", [np.array([1.0]), np.array([1.0, np.nan])])
def test_scores_that_are_none_are_refused(scores: np.ndarray) -> None:
    with pytest.raises(InputError, match="finite scores of two people"):
        auc(scores, np.arange(5))


def test_members_above_every_other_are_counted() -> None:
    members, others = np.arange(100), np.full(40, 89)
    assert tpr_at_fpr(members, others) == (0.1, 1 / 40)
    # With 200 others, one in a hundred may be wrong: two of them.
    others = np.concatenate([np.full(198, -1), [95, 97]])
    assert tpr_at_fpr(members, others) == (1.0, 1 / 200)


def test_the_interval_of_a_share_is_exact() -> None:
    assert share(0, 20) == (0.0, pytest.approx(1 - 0.025 ** (1 / 20)))
    low, high = share(3, 20)
    assert stats.binom.sf(2, 20, low) == pytest.approx(0.025)
    assert stats.binom.cdf(3, 20, high) == pytest.approx(0.025)


def test_the_limit_is_overstepped_by_one_honest_set_in_twenty() -> None:
    rng = np.random.default_rng(3)
    over = 0
    for _ in range(300):
        limit = fit_limit(rng.exponential(size=160), items=100).value
        over += rng.exponential(size=100).max() > limit
    assert 0.02 <= over / 300 <= 0.10


def test_somebody_who_is_there_twice_does_not_move_the_limit() -> None:
    leads = np.random.default_rng(4).exponential(size=100)
    twice = leads.copy()
    twice[twice.argsort()[-2:]] = 50.0
    assert fit_limit(twice, 200).value == pytest.approx(fit_limit(leads, 200).value, rel=0.15)


def test_few_people_settle_no_limit() -> None:
    assert not fit_limit(RNG.exponential(size=20), 50).settled
    with pytest.raises(InputError, match="five or more"):
        fit_limit(RNG.exponential(size=4), 50)


def test_a_set_near_to_its_training_people_shows() -> None:
    rng = np.random.default_rng(5)
    likeness = rng.normal(size=(400, 200))
    members, others = np.arange(160), np.arange(160, 200)
    even = nearer_to_training(likeness, members, others, seed=0)
    assert even.low < 0.5 < even.high
    assert even.word == "passed"
    likeness[:, members] += 1
    assert nearer_to_training(likeness, members, others, seed=0).word == "failed"


def test_an_attack_that_always_errs_is_an_attack() -> None:
    found = auc(np.arange(40), np.arange(10, 60))
    assert found.value < 0.4
    assert found.word == "failed"


@pytest.mark.parametrize(("members", "others"), [(160, 40), (40, 160), (8, 40), (40, 40)])
def test_the_numbers_of_people_do_not_matter_to_who_is_nearer(members: int, others: int) -> None:
    """Of independent likenesses one half are nearer to either, however many there are to choose from."""
    likeness = np.random.default_rng(6).normal(size=(4000, members + others))
    found = nearer_to_training(likeness, np.arange(members), np.arange(members, members + others), seed=0, draws=20)
    assert found.value == pytest.approx(0.5, abs=0.03)


def test_the_share_in_equal_numbers_is_that_of_every_choice() -> None:
    from itertools import combinations

    rng = np.random.default_rng(7)
    likeness = rng.normal(size=(9, 8))
    own, other = likeness[:, :5], likeness[:, 5:]
    chosen = [(own[:, list(some)].max(1) > other.max(1)).mean() for some in combinations(range(5), 3)]
    found = nearer_to_training(likeness, np.arange(5), np.arange(5, 8), seed=0, draws=10)
    assert found.value == pytest.approx(np.mean(chosen))


def test_neighbours_in_the_list_are_not_sought_among_one_another() -> None:
    parts = apart(range(10), 4)
    assert [part for part, _ in parts] == [[0, 1, 2], [3, 4, 5], [6, 7], [8, 9]]
    assert all(sorted(part + among) == list(range(10)) for part, among in parts)
    assert apart(range(2), 4) == [([0], [1]), ([1], [0])]
