"""Calibration files are read strictly. The default one accuses nobody without evidence."""

import json
from importlib import resources

import pytest

from deephotlink.models.calibration import calibration as c
from deephotlink.models.calibration.pooling import pooled_log_odds
from deephotlink.models.registry import installed


def default_fields():
    return json.loads(resources.files("deephotlink.models").joinpath("embedded", c.DEFAULT).read_text())


def test_the_default_names_its_data_and_the_embedded_detectors_that_it_leaves_out_and_knows_no_published_one():
    """What a logit means on anybody's archive nobody has measured: evidence, until `calibrate`."""
    default = c.load_calibration()
    embedded = {name for name, spec in installed().items() if spec.origin == "embedded"}
    assert default.data and set(default.detectors) <= embedded
    assert set(default_fields()["left_out"]) == embedded - set(default.detectors)


def test_the_default_was_fitted_to_the_weights_that_ship():
    rules, known = c.load_calibration().detectors, installed()
    fitted = {name: rule for name, rule in rules.items() if rule.method != "hand"}
    assert {name: rule.weight for name, rule in fitted.items()} == {
        "audio": 1.0,
        "face_swap": 1.0,
        "facial": 0.0,
        "lip_sync": 0.0,
    }
    for name, rule in fitted.items():
        assert (rule.weights_sha256, rule.version) == (known[name].weights[0].sha256, known[name].version)


def test_by_default_a_verdict_needs_a_declared_source_or_a_voice_or_face_above_all_real_ones():
    default, proof = c.load_calibration(), default_fields()["thresholds"]["false_positives"]
    assert c.verdict(c.authenticity(2.9), default) == "inconclusive"
    assert (proof["media"], proof["of_media"], proof["groups"], proof["proven"]) == (0, 198, 176, True)
    assert proof["upper_95_by_group"] == pytest.approx(1 - 0.05 ** (1 / 176), abs=1e-4)  # Clopper-Pearson for none
    assert "At most 2.0% of real files like these are called `manipulated`" in default.note
    assert c.verdict(c.authenticity(c.item_log_odds(4.0, default.detectors["metadata"])), default) == "manipulated"
    assert c.verdict(1.0, default) == "inconclusive"  # never `authentic`
    assert c.verdict(None, default) == "not_assessed"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"data": ""}, "named data"),
        ({"thresholds": {"manipulated_at_most": 0.9, "authentic_at_least": 0.1}}, "manipulated_at_most"),
        ({"thresholds": {}}, "KeyError"),
        ({"detectors": {"x": {"slope": -1, "intercept": 0, "lowest": 0, "highest": 1, "weight": 1}}}, "slope > 0"),
        ({"detectors": []}, "AttributeError"),
    ],
)
def test_a_file_that_is_no_calibration_is_refused_with_the_reason(change, says, tmp_path):
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps({**default_fields(), **change}))
    with pytest.raises(c.CalibrationError, match=says):
        c.load_calibration(path)


def test_a_calibration_survives_being_written_and_read():
    default = c.load_calibration()
    assert c.parse_calibration(json.dumps(c.calibration_to_json(default)), "again") == default


def test_one_outlier_weighs_less_the_more_was_looked_at():
    """Of ten clips one at +7 decides, of the 720 of a two-hour film it does not: among so many it is no surprise."""
    assert pooled_log_odds([7.0] + [0.0] * 9) > 4.5
    assert pooled_log_odds([7.0] + [0.0] * 719) < 1.0


def test_mean_odds():
    assert pooled_log_odds([0.0] * 50) == pytest.approx(0.0)
    assert pooled_log_odds([700.0, -700.0]) == pytest.approx(700.0 - 0.6931, abs=1e-3)
    assert pooled_log_odds([8.0] + [-1.0] * 99) > 3.0


GOLDEN = """{
 "format": 2, "calibration_id": "golden", "data": "100 real media", "note": "n", "labels": {"sha256": "00"},
 "detectors": {
  "facial": {"slope": 0.5, "intercept": -1.0, "lowest": -4.0, "highest": 5.0, "weight": 1.0, "note": "",
             "method": "isotonic", "exponent": 1.5, "weights_sha256": "ab", "version": "2", "one_face_explains": false,
             "curve": [[-4.0, -3.0], [0.0, 0.0], [5.0, 4.0]], "judged": {"real": 100}},
  "metadata": {"slope": 1.0, "intercept": 0.0, "lowest": -1.0, "highest": 4.0, "weight": 1.0}
 },
 "fusion": {"kind": "logistic", "exponent": 1.25, "stretch_seconds": 10.0, "lowest": -4.0, "highest": 4.6,
            "patterns": [{"detectors": ["facial"], "weights": [0.9], "intercept": 0.1}], "hand_set_log_odds": 2.2},
 "thresholds": {"manipulated_at_most": 0.05, "authentic_at_least": null, "false_positives": {"groups": 100}}
}"""


def test_the_second_format_means_what_it_always_meant():
    golden = c.parse_calibration(GOLDEN, "golden")
    curve = ((-4.0, -3.0), (0.0, 0.0), (5.0, 4.0))
    assert golden.detectors["facial"] == c.DetectorCalibration(
        0.5, -1.0, -4.0, 5.0, 1.0, "", "isotonic", 1.5, curve, "ab", "2", False
    )
    assert golden.detectors["metadata"] == c.DetectorCalibration(1.0, 0.0, -1.0, 4.0, 1.0, "")
    assert golden.fusion == c.Fusion("logistic", 1.25, 10.0, -4.0, 4.6, (c.Pattern(("facial",), (0.9,), 0.1),), 2.2)
    assert golden.manipulated_at_most == 0.05 and golden.record["labels"] == {"sha256": "00"}
    written = c.calibration_to_json(golden)
    assert written["thresholds"]["false_positives"] == {"groups": 100}
    assert written["detectors"]["facial"]["judged"] == {"real": 100}
    again = c.parse_calibration(json.dumps(written), "again")
    assert c.calibration_to_json(again) == written and again.detectors == golden.detectors


def test_the_first_format_is_rules_set_by_hand():
    first = {key: value for key, value in default_fields().items() if key in ("calibration_id", "data", "thresholds")}
    rule = {"slope": 1, "intercept": 0, "lowest": -1, "highest": 4, "weight": 1, "note": "x"}
    old = c.parse_calibration(json.dumps({**first, "detectors": {"metadata": rule}}), "old")
    assert (
        old.detectors["metadata"] == c.DetectorCalibration(1.0, 0.0, -1.0, 4.0, 1.0, "x") and old.fusion == c.Fusion()
    )
    assert old.detectors["metadata"].method == "hand" and old.record == {}
    assert c.parse_calibration(json.dumps(c.calibration_to_json(old)), "again") == old


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"format": 2', '"format": 3', "format 3"),
        ('"weights": [0.9]', '"weights": [-0.9]', "weights"),
        ("[5.0, 4.0]", "[5.0, -4.0]", "rising"),
        ('"kind": "logistic"', '"kind": "mean_odds"', "patterns"),
        ('"exponent": 1.25', '"exponent": 0', "exponent > 0"),
        ('"detectors": ["facial"]', '"detectors": ["nobody"]', "patterns of known detectors"),
        ('"slope": 0.5', '"slope": NaN', "finite"),
    ],
)
def test_a_file_of_the_second_format_is_read_strictly(old, new, says):
    assert old in GOLDEN
    with pytest.raises(c.CalibrationError, match=says):
        c.parse_calibration(GOLDEN.replace(old, new), "wrong")


def test_a_rule_is_for_the_weights_and_the_version_that_it_was_fitted_on():
    rule = c.parse_calibration(GOLDEN, "golden").detectors["facial"]
    assert c.applies(rule, "ab", "2") and c.applies(rule, "ab", None)
    assert not c.applies(rule, "ac", "2") and not c.applies(rule, "ab", "3")


def fitted_fields(**fusion):
    return {
        **default_fields(),
        "format": 2,
        "fusion": {
            "kind": "mean_odds",
            "exponent": 1.0,
            "stretch_seconds": 10.0,
            "lowest": -3.0,
            "highest": 3.0,
            **fusion,
        },
    }


@pytest.mark.parametrize(
    "fusion",
    [
        {"hand_set_log_odds": 0.0},
        {"hand_set_log_odds": float("-inf")},
        {"exponent": float("inf")},
        {"lowest": float("inf"), "highest": float("inf")},
        {"stretch_seconds": 5e-324},
    ],
)
def test_a_fusion_that_would_accuse_everyone_or_nobody_is_refused(fusion):
    assert c.parse_calibration(json.dumps(fitted_fields(hand_set_log_odds=2.0)), "x").fusion.hand_set_log_odds == 2.0
    with pytest.raises(c.CalibrationError, match="finite numbers"):
        c.parse_calibration(json.dumps(fitted_fields(**fusion)), "x")


@pytest.mark.parametrize("text", ["[" * 200_000, '{"format": 1' + "0" * 5000 + "}", "{"])
def test_json_that_overflows_its_reader_is_refused_too(text):
    with pytest.raises(c.CalibrationError, match="expected a calibration file"):
        c.parse_calibration(text, "x")


def test_names_that_would_write_on_a_terminal_are_refused():
    for name in ("x\x1b[2J", "", "n" * 201):
        with pytest.raises(c.CalibrationError, match="printable characters as calibration_id"):
            c.parse_calibration(json.dumps({**default_fields(), "calibration_id": name}), "x")


def test_what_is_no_number_accuses_nobody():
    assert c.verdict(float("nan"), c.load_calibration()) == "not_assessed"
