"""Fits on arrays: groups are never split, curves never fall, and a detector that points the wrong way has no say."""

import numpy as np
import pytest

from deephotlink.models.calibration import fitting as f
from deephotlink.models.calibration.bounds import bounded_threshold, groups_needed, upper_bound
from deephotlink.models.calibration.calibration import DetectorCalibration, Fusion
from deephotlink.models.calibration.pooling import fused_log_odds, pooled_log_odds
from tests.models.simulated import simulate


def test_folds_never_split_a_group_and_spread_both_classes():
    rng = np.random.default_rng(1)
    group = rng.integers(0, 40, 300)
    fake = rng.random(300) < 0.4
    folds = f.folds_of(fake, group)
    assert all(len(set(folds[group == one])) == 1 for one in np.unique(group))
    assert set(folds) == set(range(5)) and all(fake[folds == k].any() and (~fake[folds == k]).any() for k in range(5))
    for train, held in f.held_out(folds):
        assert not set(group[train]) & set(group[held]) and (train | held).all()


def test_a_line_finds_the_likelihood_ratio_of_two_normals():
    media, (said,) = simulate(2000, 2000, {"facial": 1.5}, scale=3.0, rho=0.0)
    slope, intercept = f.line(said, media, np.ones(4000, bool))
    # log odds of N(d, 1) against N(0, 1) at z = (logit - 5) / 3: d z - d² / 2
    assert slope == pytest.approx(1.5 / 3, rel=0.08) and slope * 5 + intercept == pytest.approx(-(1.5**2) / 2, abs=0.15)


def test_a_group_of_many_weighs_as_much_as_a_group_of_one():
    weights = f.evenly(np.array([0, 1, 1, 1]), np.array([0, 0, 1, 2, 3]))
    assert weights.tolist() == pytest.approx([0.5, 0.5, 1 / 3, 1 / 3, 1 / 3])


def test_a_detector_that_points_the_wrong_way_gets_no_line():
    media, (said,) = simulate(60, 60, {"facial": -1.0})
    assert f.line(said, media, np.ones(120, bool)) is None


def test_slopes_are_never_negative():
    rng = np.random.default_rng(0)
    y = (rng.random(200) < 0.5).astype(float)
    x = np.stack([y + rng.normal(size=200), -y + rng.normal(size=200)], axis=1)
    theta = f.nonnegative_logistic(x, y, np.ones(200))
    assert theta[0] > 0.5 and theta[1] == 0.0


def test_a_curve_rises_and_keeps_near_the_line():
    rng = np.random.default_rng(0)
    x = rng.normal(size=300)
    knots = f.isotonic_curve(x, (rng.random(300) < 1 / (1 + np.exp(-2 * x))).astype(float), np.ones(300))
    across, up = np.array(knots).T
    assert (np.diff(across) > 0).all() and (np.diff(up) >= 0).all() and len(knots) == f.CURVE_KNOTS
    assert np.abs(up - across).max() <= f.MAX_CURVE_SHIFT + 1e-6 and up[-1] > across[-1] and up[0] < across[0]


def test_a_forged_voice_is_no_failure_of_a_detector_of_faces():
    media, _ = simulate(2, 3)
    media = f.Media(media.fake, media.group, np.array(["", "", "speech", "face_swap", "never heard of"]))
    assert f.expected_to_see(media, "facial").tolist() == [True, True, False, True, True]
    assert f.expected_to_see(media, "audio").tolist() == [True, True, True, False, True]


def test_missing_is_no_feature_of_the_fusion():
    """All forgeries lack the sound here, as they do in many collections: that must accuse nobody."""
    media, (facial, audio) = simulate(100, 100, {"facial": 1.0, "audio": 1.0})
    x = np.stack([(facial.logit - 5) / 3, (audio.logit - 5) / 3], axis=1)
    x[100:180, 1] = np.nan
    patterns = f.patterns_of(x, ["facial", "audio"], np.arange(200), media)
    assert [p.detectors for p in patterns] == [("facial", "audio"), ("facial",), ("audio",)]
    alone = patterns[1]
    fusion = Fusion("logistic", patterns=patterns)
    said = fused_log_odds({"facial": 0.5}, {"facial": "facial"}, fusion)
    assert said == pytest.approx(alone.weights[0] * 0.5 + alone.intercept) and abs(said) < 0.6
    both = patterns[0]
    assert both.weights[0] < alone.weights[0] + 0.2 and min(both.weights) > 0


def test_power_means_are_those_of_one_media_at_a_time():
    rng = np.random.default_rng(0)
    keys, values = rng.integers(0, 7, 50), rng.normal(size=50)
    distinct, means = f.power_means(keys, values, 1.7)
    for key, mean in zip(distinct, means, strict=True):
        assert mean == pytest.approx(pooled_log_odds(values[keys == key].tolist(), 1.7))


def test_the_tail_rate_of_an_exponential_tail_is_its_rate():
    values = np.random.default_rng(0).exponential(1 / 2.5, 20_000)
    assert f.tail_rate(values, np.ones(20_000), 20_000) == pytest.approx(2.5, rel=0.06)
    assert f.tail_rate(values, np.ones(20_000), 19) == 1.0  # too few groups to know


def test_bounds_are_those_of_clopper_and_pearson():
    # Tables of Clopper and Pearson (1934), one-sided 95 %: 1 of 20 and 2 of 10.
    assert upper_bound(1, 20) == pytest.approx(0.2161, abs=1e-4) and upper_bound(2, 10) == pytest.approx(
        0.5069, abs=1e-4
    )
    assert groups_needed(0.05) == 59 and upper_bound(0, 59) <= 0.05 < upper_bound(0, 58)


def test_a_threshold_counts_groups_not_files():
    """A hundred files of two groups prove no more than two witnesses can."""
    found = bounded_threshold(np.arange(100.0), np.arange(100) % 2, 0.05)
    assert not found.proven and found.crossing == 0 and found.threshold > 99
    assert found.upper == pytest.approx(1 - 0.05**0.5) and found.upper_by_media < 0.03
    found = bounded_threshold(np.arange(100.0), np.arange(100), 0.05)
    assert found.proven and found.crossing == 1 and found.upper <= 0.05


def test_stretch_scores_clip_items_and_follow_the_curve():
    rule = DetectorCalibration(1.0, 0.0, -2.0, 2.0, 1.0, "", "isotonic", 1.0, ((-1.0, -0.5), (1.0, 0.5)))
    said = f.DetectorLogits("x", "facial", np.array([0, 0, 1]), np.array([0, 1, -1]), np.array([9.0, 0.0, -9.0]))
    keys, values = f.stretch_scores(said, rule)
    assert values.tolist() == [0.5, 0.0, -0.5] and (keys >> 32).tolist() == [0, 0, 1] and keys[2] & 0xFFFFFFFF == 0
