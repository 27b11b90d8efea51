"""The calibration by which a run made its scores, from the run's record."""

from __future__ import annotations

import json
from collections.abc import Mapping

from ....models.calibration.calibration import CalibrationError, DetectorCalibration, parse_calibration
from ....transforms.failures import UsageError
from ....transforms.storage.output_store import OutputStore
from ....transforms.tables.runs import Run


def rules_of(store: OutputStore, run_id: str) -> Mapping[str, DetectorCalibration]:
    """The rule of each detector; none if the record does not say."""
    try:
        run = Run.from_json(store.read(f"_runs/{run_id}/run.json"))
        return parse_calibration(json.dumps(run.settings.get("calibration")), f"run {run_id}").detectors
    except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError, CalibrationError, UsageError):
        return {}
