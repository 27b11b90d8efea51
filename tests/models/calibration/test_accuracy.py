"""Figures worked out by hand, and intervals against those that scikit-learn gives for the same resamples."""

from fractions import Fraction

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from deephotlink.models.calibration.accuracy import (
    Resampling,
    auc,
    auc_within_groups,
    bin_of,
    calibrated,
    most_suspicious,
    ranking,
    share,
)

QUICK = Resampling(200, 7)


def rank(real, fake, groups=None, resampling=QUICK):
    score = np.array([*real, *fake], float)
    labels = np.array([False] * len(real) + [True] * len(fake))
    return ranking(labels, score, np.arange(len(score)) if groups is None else np.array(groups), resampling)


@pytest.mark.parametrize(
    ("real", "fake", "area", "eer", "ap"),
    [
        # fake .8 is above both reals, fake .35 above one of two; the curve passes through (1/2, 1/2)
        ([0.1, 0.4], [0.35, 0.8], Fraction(3, 4), Fraction(1, 2), Fraction(5, 6)),
        # 3 beats three; 2 beats one and ties two: (3 + 1 + 2/2) / 6. From (0, 1/2) the curve runs to (2/3, 1):
        # 1 - tpr = fpr where 1/2 - t/2 = 2t/3. Precision 1 at 3, then 2 of 4.
        ([1, 2, 2], [2, 3], Fraction(5, 6), Fraction(2, 7), Fraction(3, 4)),
        ([1, 2], [3, 4], Fraction(1), Fraction(0), Fraction(1)),
        # inverted: precision 1/3 and 2/4 where the fakes come at last
        ([3, 4], [1, 2], Fraction(0), Fraction(1), Fraction(5, 12)),
        # constant: AP is the share of fakes
        ([1, 1, 1], [1], Fraction(1, 2), Fraction(1, 2), Fraction(1, 4)),
    ],
)
def test_golden_rankings(real, fake, area, eer, ap):
    found = rank(real, fake)
    assert found.auc.value == pytest.approx(float(area))
    assert found.eer.value == pytest.approx(float(eer))
    assert found.ap.value == pytest.approx(float(ap))


def test_true_positives_at_a_false_positive_rate():
    # One of 20 reals may be accused: 25 is above all, 19 ties with the highest real, 18.5 is above the next, 3 is not.
    found = rank(range(20), [19, 18.5, 25, 3])
    assert found.tpr_at_5_percent_fpr.value == 3 / 4
    assert found.tpr_at_1_percent_fpr.value is None and "20 real files" in found.tpr_at_1_percent_fpr.why
    # A threshold never parts equal scores: with two reals at 19, the fakes at 19 and below are out of reach.
    assert rank([*range(20), 19], [19, 18.5, 25, 3]).tpr_at_5_percent_fpr.value == 1 / 4
    assert rank(range(19), [19]).tpr_at_5_percent_fpr.value is None
    hundred = rank(range(100), [99.5, 98.5, 97.5])
    assert hundred.tpr_at_1_percent_fpr.value == 2 / 3 and hundred.tpr_at_1_percent_fpr.why is None


def test_precision_among_the_most_suspicious():
    fake = np.arange(100) % 2 == 0
    score = np.where(fake, 0.0, -1.0)
    score[[1, 3]] = 2.0  # two reals above everything, then 50 fakes that tie, then the other reals
    one, five, twenty = most_suspicious(fake, score, np.arange(100), QUICK)
    assert [(top.percent, top.files) for top in (one, five, twenty)] == [(1, 1), (5, 5), (20, 20)]
    assert one.precision.value == 0.0 and five.precision.value == pytest.approx(3 / 5)
    assert twenty.precision.value == pytest.approx(18 / 20) and twenty.found.value == pytest.approx(18 / 50)
    assert five.precision.low < 3 / 5 < five.precision.high
    # Files that tie across the limit count by their mean, whatever order they come in.
    tied = most_suspicious(fake, np.zeros(100), np.arange(100), QUICK)
    assert all(top.precision.value == pytest.approx(0.5) for top in tied)


def test_a_share_of_less_than_one_file_has_no_precision():
    fake = np.array([True, False] * 10)
    one, five, twenty = most_suspicious(fake, np.arange(20.0), np.arange(20), QUICK)
    assert one.precision.value is None and one.precision.why == "1 % of 20 files is less than one: 100 are needed"
    assert (five.files, twenty.files, twenty.precision.value, twenty.found.value) == (1, 4, 0.5, 0.2)
    alone = most_suspicious(np.ones(30, bool), np.arange(30.0), np.arange(30), QUICK)
    assert all(top.precision.why == "no real files" for top in alone)


def test_without_both_classes_there_is_a_reason_and_no_number():
    for found, why in ((rank([], [1, 2]), "no real files"), (rank([1, 2], []), "no fake files")):
        figures = (found.auc, found.eer, found.ap, found.tpr_at_1_percent_fpr, found.tpr_at_5_percent_fpr)
        assert all(f.value is None and f.low is None and f.why == why for f in figures)
    nothing = calibrated(np.zeros(0, bool), np.zeros(0), np.zeros(0, int), QUICK)
    assert nothing.brier.value is None and nothing.ece.why == "nothing was assessed"


def test_brier_and_ece():
    found = calibrated(np.array([False, True, False]), np.array([0.2, 0.9, 0.6]), np.arange(3), QUICK)
    assert found.brier.value == pytest.approx((0.04 + 0.01 + 0.36) / 3)
    assert found.ece.value == pytest.approx((0.2 + 0.1 + 0.6) / 3)
    # Two in one bin: a mean of .65 where half are fake.
    two = calibrated(np.array([False, True]), np.array([0.61, 0.69]), np.arange(2), QUICK)
    assert two.ece.value == pytest.approx(0.15)
    only_reals = calibrated(np.array([False, False]), np.array([0.0, 0.5]), np.arange(2), QUICK)
    assert only_reals.brier.value == pytest.approx(0.125) and only_reals.ece.value == pytest.approx(0.25)
    assert bin_of(np.array([0.0, 0.3, 0.7, 0.9, 1.0])).tolist() == [0, 3, 7, 9, 9]


def test_auc_within_groups_compares_side_by_side_only():
    fake = np.array([False, True, True, False, False, True, False])
    score = np.array([1.0, 2.0, 0.0, 5.0, 6.0, 5.0, 9.0])
    groups = np.array([0, 0, 0, 1, 1, 1, 2])
    found = auc_within_groups(fake, score, groups, QUICK)
    # Group 0: one of two pairs. Group 1: a tie and a loss. Group 2 holds no fake.
    assert found.auc.value == pytest.approx((1 + 0.5) / 4) and (found.pairs, found.groups) == (4, 2)
    none = auc_within_groups(fake, score, np.arange(7), QUICK)
    assert none.auc.value is None and "no group" in none.auc.why
    one = auc_within_groups(fake[:3], score[:3], groups[:3], QUICK)
    assert one.auc.value == 1 / 2 and one.auc.low is None and one.auc.why


def test_clopper_pearson():
    assert share(0, 20).high == pytest.approx(1 - 0.025 ** (1 / 20)) and share(0, 20).low == 0
    assert share(20, 20).low == pytest.approx(0.025 ** (1 / 20)) and share(20, 20).high == 1
    assert (share(2, 10).low, share(2, 10).high) == pytest.approx((0.02521, 0.55610), abs=1e-5)
    assert share(0, 0).value is None


def noisy(count, seed=0):
    rng = np.random.default_rng(seed)
    fake = np.arange(count) % 2 == 1
    return fake, np.round(rng.normal(size=count) + fake, 1)  # rounded: with ties


def test_intervals_are_those_of_scikit_learn_on_the_same_resamples():
    fake, score = noisy(60)
    groups = np.arange(60) // 3
    found = ranking(fake, score, groups, QUICK)
    weights = np.concatenate(list(QUICK.weights(groups)))
    assert (
        weights.shape == (200, 60) and (weights[:, 0] == weights[:, 2]).all() and (weights[:, ::3].sum(1) == 20).all()
    )
    areas = [roc_auc_score(fake, score, sample_weight=w) for w in weights]
    precisions = [average_precision_score(fake, score, sample_weight=w) for w in weights]
    assert (found.auc.low, found.auc.high) == pytest.approx(tuple(np.quantile(areas, [0.025, 0.975])))
    assert (found.ap.low, found.ap.high) == pytest.approx(tuple(np.quantile(precisions, [0.025, 0.975])))
    assert auc(fake, score, groups, QUICK) == found.auc
    assert auc(fake, score, groups).value == found.auc.value and auc(fake, score, groups).low is None


def test_copies_within_a_group_narrow_no_interval():
    fake, score = noisy(40)
    once = ranking(fake, score, np.arange(40), QUICK)
    copies = ranking(fake.repeat(9), score.repeat(9), np.arange(40).repeat(9), QUICK)
    assert (copies.auc.low, copies.auc.high) == pytest.approx((once.auc.low, once.auc.high))
    assert (copies.eer.low, copies.eer.high) == pytest.approx((once.eer.low, once.eer.high))
    strangers = ranking(fake.repeat(9), score.repeat(9), np.arange(360), QUICK)
    assert strangers.auc.high - strangers.auc.low < 0.5 * (once.auc.high - once.auc.low)


def test_the_same_seed_gives_the_same_interval_whatever_groups_are_called():
    fake, score = noisy(40)
    again = ranking(fake, score, np.array([f"g{n:03d}" for n in range(40)]), QUICK)
    assert again == ranking(fake, score, np.arange(40), QUICK)
    assert again.auc != ranking(fake, score, np.arange(40), Resampling(200, 8)).auc


def test_too_few_groups_give_no_interval():
    fake, score = noisy(40)
    single = ranking(fake, score, np.zeros(40, int), QUICK)
    assert single.auc.value is not None and single.auc.low is None and "too few groups" in single.auc.why
    # All fakes are one group of 21: a third of the resamples hold none of it.
    lonely = ranking(fake, score, np.where(fake, 99, np.arange(40)), QUICK)
    assert lonely.auc.low is None and "too few groups" in lonely.auc.why


def test_an_interval_covers_the_truth_about_as_often_as_it_says():
    """Of scores whose true AUC is .76, over groups of two that go together."""
    hits = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        fake = np.arange(60) % 2 == 1
        score = (rng.normal(size=60) + fake).repeat(2)
        found = auc(fake.repeat(2), score, np.arange(60).repeat(2), Resampling(200, seed))
        hits += found.low <= 0.7602 <= found.high
    assert 52 <= hits <= 60
