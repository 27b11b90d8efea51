"""Calibrations of made-up logits: the bounds hold on files that they were not fitted to, and long files are not
accused for their length."""

import json

import numpy as np
import pytest

from deephotlink.models.calibration.calibrating import CalibrationRequest, calibrate
from deephotlink.models.calibration.calibration import (
    Calibration,
    calibration_to_json,
    load_calibration,
    log_odds_of,
    parse_calibration,
)
from deephotlink.models.calibration.fitting import DetectorLogits, Media
from deephotlink.models.calibration.length_bias import pooled
from deephotlink.models.calibration.stretches import Rows, fused_rows
from deephotlink.transforms.fuse import fuse_media
from deephotlink.transforms.records import Evidence, MediaOutcome
from tests.builders import FakeDetector, make_media_file
from tests.models.simulated import simulate

IDENTITY = {"weights_sha256": "ab", "version": "1", "one_face_explains": False}


def fit(media, said, **wish):
    identities = {one.name: IDENTITY for one in said}
    made = calibrate(media, said, identities, CalibrationRequest("test", "made up", **wish), load_calibration())
    text = json.dumps(calibration_to_json(made), allow_nan=False)
    assert parse_calibration(text, "again") == parse_calibration(json.dumps(json.loads(text)), "twice")
    return parse_calibration(text, "again")


def judged(calibration, media, said):
    """Log-odds of each media, as `fuse` would have them."""
    heard = [one for one in said if calibration.detectors[one.name].weight > 0]
    table = Rows(heard)
    fused = fused_rows(table.log_odds(calibration.detectors), table, calibration.fusion)
    answers = np.full(len(media.fake), np.nan)
    for m in np.unique(table.media):
        answers[m] = pooled(fused[table.media == m][None], calibration.fusion.exponent)[0]
    return answers


def test_the_fit_and_the_fusing_of_one_media_agree():
    media, said = simulate(40, 40, {"facial": 2.0, "audio": 1.0}, stretches=3, missing=0.2)
    calibration = fit(media, said)
    specs = [FakeDetector(name=one.name, family=one.family).spec for one in said]
    file = make_media_file()
    both = np.intersect1d(said[0].media, said[1].media)
    expected = judged(calibration, media, said)
    for m in [*both[:2], *np.setdiff1d(said[0].media, said[1].media)[:2], *np.setdiff1d(said[1].media, both)[:2]]:
        rows = [
            Evidence(
                file.media_id,
                one.name,
                one.family,
                "ab",
                clip_index=int(s),
                logit=float(z),
                start_seconds=10.0 * s,
                end_seconds=10.0 * s + 4,
            )
            for one in said
            for s, z in zip(one.stretch[one.media == m], one.logit[one.media == m], strict=True)
        ]
        score = fuse_media([MediaOutcome(file, "read", has_video=True), *rows], specs, calibration).score
        bounded = np.clip(expected[m], calibration.fusion.lowest, calibration.fusion.highest)
        assert score.authenticity == pytest.approx(1 / (1 + np.exp(bounded)), abs=1e-9)


def test_a_file_says_what_it_was_made_on_and_no_more_than_its_counts():
    media, said = simulate(70, 70, {"facial": 2.5, "audio": -1.0})
    made = fit(media, said)
    assert made.detectors["audio"].weight == 0 and "wrong way" in made.detectors["audio"].note
    assert made.fusion.highest == pytest.approx(np.log(71), abs=1e-5) and made.fusion.lowest >= -np.log(71) - 1e-5
    assert made.detectors["facial"].weights_sha256 == "ab" and made.detectors["metadata"].method == "hand"
    auc = made.record["detectors"]["facial"]["figures"]["held_out_auc"]
    assert auc["low"] < auc["value"] < auc["high"] and auc["value"] == pytest.approx(0.96, abs=0.04)
    told = made.record["thresholds"]["false_positives"]
    assert told["groups"] == 70 and told["upper_95_by_group"] <= 0.05 and told["proven"]
    assert made.manipulated_at_most <= 0.5 and made.authentic_at_least > made.manipulated_at_most


def test_a_file_says_what_its_order_was_worth_on_files_that_it_was_not_fitted_to():
    media, said = simulate(70, 70, {"facial": 2.5})
    ranking = fit(media, said).record["fusion"]["ranking"]
    assert (ranking["files"], ranking["forged"]) == (140, 70)
    tops = {top["percent"]: top for top in ranking["most_suspicious"]}
    assert set(tops) == {1, 5, 20} and tops[20]["files"] == 28
    assert 0.9 <= tops[20]["precision"]["low"] <= tops[20]["precision"]["value"] <= 1
    media, said = simulate(70, 70, {"facial": 0.4})
    weak = {top["percent"]: top for top in fit(media, said).record["fusion"]["ranking"]["most_suspicious"]}
    assert 0.4 < weak[20]["precision"]["value"] < 0.9
    media, said = simulate(70, 0, {"facial": 0.0})
    assert fit(media, said, false_positive_rate=0.06).record["fusion"]["ranking"] is None


def test_few_labels_do_not_blow_up():
    media, said = simulate(12, 10, {"facial": 2.0, "audio": 2.0})
    made = fit(media, said)
    assert made.fusion.kind == "mean_odds" and "fixed weights" in made.record["fusion"]["chosen"]
    assert made.authentic_at_least is None and "cannot prove 5.0%" in made.note
    assert all(abs(d.slope) < 2 for d in made.detectors.values())
    media, said = simulate(12, 9, {"facial": 2.0})
    with pytest.raises(ValueError, match="10 of forged ones"):
        fit(media, said)


def test_the_bound_of_real_media_holds_on_fresh_ones():
    """12 times: 70 groups of three real media, then 2,000 fresh groups. The bound is to hold 95 times in 100, so more
    than three failures in 12 have a chance of .002; held-out scores are of models of four fifths, so allow as many."""
    failures = 0
    for seed in range(12):
        media, said = simulate(70, 0, {"facial": 0.0, "audio": 0.0}, seed=seed, media_a_group=3, missing=0.2)
        made = fit(media, said, false_positive_rate=0.06)
        assert made.authentic_at_least is None and made.fusion.kind == "mean_odds"
        _, words = simulate(2000, 0, {"facial": 0.0, "audio": 0.0}, seed=1000 + seed, missing=0.2)
        heard = np.isin(np.arange(2000), np.concatenate([one.media for one in words]))
        threshold = made.record["thresholds"]["manipulated_log_odds"]
        table = Rows(words)
        fused = fused_rows(table.log_odds(made.detectors), table, made.fusion)
        failures += (np.minimum(fused, made.fusion.highest) >= threshold).sum() / heard.sum() > 0.06
    assert failures <= 3


def test_twenty_groups_cannot_prove_one_percent_and_the_file_says_so():
    media, said = simulate(20, 0, {"facial": 0.0})
    made = fit(media, said, false_positive_rate=0.01)
    told = made.record["thresholds"]["false_positives"]
    assert not told["proven"] and told["upper_95_by_group"] == pytest.approx(0.1391, abs=1e-4)
    assert "20 groups of real files cannot prove 1.0%; that takes 299." in made.note and told["media"] == 0


def test_length_accuses_nobody_and_a_forged_stretch_pays_its_price():
    """Thirty minutes joined of 180 fresh real stretches, d' = 3.5 and 6: never accused more often than the stretches
    are; one forged stretch among them is found less often than by itself unless the separation is large."""
    caught = {}
    for separation in (3.5, 6.0):
        media, said = simulate(150, 150, {"facial": separation}, rho=0.0)
        made = fit(media, said)
        threshold = made.record["thresholds"]["manipulated_log_odds"]
        rng = np.random.default_rng(5)
        rule = made.detectors["facial"]

        def odds(z, rule=rule):
            return np.clip(rule.slope * (3 * z + 5) + rule.intercept, rule.lowest, rule.highest)

        films = rng.standard_normal((2000, 180))
        single = (odds(films.ravel()) >= threshold).mean()
        joined = (pooled(odds(films), made.fusion.exponent) >= threshold).mean()
        forged = films[:, :1] + separation
        alone = (odds(forged[:, 0]) >= threshold).mean()
        films[:, 90] = forged[:, 0]
        spliced = (pooled(odds(films), made.fusion.exponent) >= threshold).mean()
        assert joined <= single + 0.002 and single < 0.05
        caught[separation] = alone, spliced
        assert made.record["length"]["joined_real_films_manipulated"] <= made.record["length"]["real_media_manipulated"]
    assert caught[3.5][0] > 0.8 and caught[6.0][0] > 0.99
    assert caught[3.5][1] < caught[6.0][1] and caught[6.0][1] > 0.5


def accusing_base(manipulated_at_most: float) -> Calibration:
    rule = {"slope": 1, "intercept": 0, "lowest": -1, "highest": 4, "weight": 1}
    fields = {"calibration_id": "base", "data": "made", "detectors": {"metadata": rule}}
    thresholds = {"manipulated_at_most": manipulated_at_most, "authentic_at_least": None}
    return parse_calibration(json.dumps({**fields, "thresholds": thresholds}), "base")


def with_hand_set(share: float) -> tuple[Media, tuple[DetectorLogits, ...]]:
    """A rule set by hand says 3 of a share of all media, real ones too, and -0.5 of the others."""
    media, said = simulate(200, 200, {"facial": 1.5})
    spoke = np.where(np.random.default_rng(3).random(400) < share, 3.0, -0.5)
    return media, (*said, DetectorLogits("metadata", "metadata", np.arange(400), np.full(400, -1), spoke))


def test_the_bound_counts_those_whom_rules_set_by_hand_accuse():
    media, said = with_hand_set(0.2)
    made = calibrate(media, said, {}, CalibrationRequest("made", "simulated"), accusing_base(0.1))
    by_rule = int((said[-1].logit[~media.fake] > 2).sum())
    told = made.record["thresholds"]
    assert by_rule > 20 and told["real_media_accused_by_hand_set_rules"] == by_rule
    assert told["false_positives"]["media"] >= by_rule and not told["false_positives"]["proven"]
    assert f"Hand-set rules call {by_rule} of 200 real files `manipulated`" in made.note


def test_a_base_that_accuses_at_even_odds_gives_rules_set_by_hand_no_say_of_their_own():
    media, said = with_hand_set(0.0)
    made = calibrate(media, said, {}, CalibrationRequest("made", "simulated"), accusing_base(0.5))
    assert made.fusion.hand_set_log_odds is None and made.record["thresholds"]["false_positives"]["proven"]
    never = calibrate(media, said, {}, CalibrationRequest("made", "simulated"), accusing_base(0.0))
    assert never.fusion.hand_set_log_odds is None


def test_the_say_of_rules_set_by_hand_is_handed_on_as_it_was_set():
    media, said = with_hand_set(0.0)
    first = calibrate(media, said, {}, CalibrationRequest("first", "simulated"), accusing_base(0.1))
    second = calibrate(media, said, {}, CalibrationRequest("second", "simulated"), first)
    assert first.fusion.hand_set_log_odds == second.fusion.hand_set_log_odds == pytest.approx(np.log(9), abs=1e-5)


def test_where_length_tells_at_every_exponent_the_file_says_so_and_the_threshold_is_raised():
    """One real medium in forty looks suspicious, and those are films of half an hour, all others single stretches: what
    is joined of them is suspicious nearly always, whatever the exponent."""
    rng = np.random.default_rng(0)
    long = np.arange(200) % 40 == 0
    places = np.arange(200).repeat(np.where(long, 180, 1))
    stretch = np.concatenate([np.arange(180 if one else 1) for one in long])
    logit = rng.standard_normal(len(places)) + 6.0 * long[places]
    media = Media(np.zeros(200, bool), np.arange(200), np.full(200, "", np.str_))
    made = fit(media, (DetectorLogits("facial", "facial", places, stretch, logit),), false_positive_rate=0.06)
    length = made.record["length"]
    assert not length["passed"] and length["joined_real_films_manipulated"] > 0.5 > length["real_media_manipulated"]
    raised = length["threshold_raised"]
    assert raised["joined_real_films_manipulated"] <= raised["real_media_manipulated"] <= 0.025
    assert raised["to_log_odds"] > raised["from_log_odds"]
    assert made.record["thresholds"]["manipulated_log_odds"] == raised["to_log_odds"]
    assert log_odds_of(made.manipulated_at_most) == pytest.approx(raised["to_log_odds"])
    assert "Long films are called" in made.note
    usual, said = simulate(70, 70, {"facial": 2.5})
    usual = fit(usual, said)
    assert usual.record["length"]["passed"] and usual.record["length"]["threshold_raised"] is None
    assert "Length" not in usual.note
