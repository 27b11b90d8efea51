"""Calibration files: read strictly, and the default one can accuse nobody by itself."""

import json
from importlib import resources

import pytest

from deephotlink.models import calibration as c
from deephotlink.models.registry import installed


def default_fields():
    return json.loads(resources.files("deephotlink.models").joinpath("embedded", c.DEFAULT).read_text())


def test_the_default_names_its_data_and_knows_every_embedded_detector_and_no_published_one():
    """What a published logit means on anybody's archive nobody has measured: evidence, until `calibrate`."""
    default = c.load_calibration()
    embedded = {name for name, spec in installed().items() if spec.origin == "embedded"}
    assert default.data and set(default.detectors) == embedded


def test_by_default_lip_sync_cannot_reach_a_verdict_and_a_declared_source_can():
    default = c.load_calibration()
    lips = default.detectors["lip_sync"]
    worst = lips.weight * c.item_log_odds(1e6, lips)
    assert c.verdict(c.authenticity(worst), default) == "inconclusive"
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
    assert c.pooled_log_odds([7.0] + [0.0] * 9) > 4.5
    assert c.pooled_log_odds([7.0] + [0.0] * 719) < 1.0


def test_mean_odds():
    assert c.pooled_log_odds([0.0] * 50) == pytest.approx(0.0)
    assert c.pooled_log_odds([700.0, -700.0]) == pytest.approx(700.0 - 0.6931, abs=1e-3)
    assert c.pooled_log_odds([8.0] + [-1.0] * 99) > 3.0
