"""What an output says about labelled media: arrays of scores for each thing that judged them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from typing import Any, Literal

import duckdb
import numpy as np
import pyarrow as pa

from ...models.base import FAMILIES, DetectorSpec
from ...models.calibration.calibration import Calibration, parse_calibration
from ...models.registry import installed
from ...transforms.failures import NothingFound, UsageError, printable
from ...transforms.records import Evidence
from ...transforms.rescoring import rescored
from ...transforms.storage.output_store import OutputStore
from ...transforms.tables.runs import list_runs
from ..outputs.query import connect, readable
from .baselines import BASELINES, baseline_values
from .labels import Joined, Labels, join

Kind = Literal["fused", "family", "detector"]
POOLING = (
    "a detector's score of a file is the mean of the highest quarter of its raw logits (of each clip only the lowest, "
    "if the least suspicious face explains it); the scores of a family and of the fusion are log-odds of authenticity"
)
_SURE = 1e-12
"""Smallest distance of a probability from 0 and 1, so that its log-odds are finite."""
_ELSEWHERE = ("no_video", "no_audio")
"""Reasons to abstain which mean that the file is not of the detector's kind."""
_LATEST = "select media_id, run_id, uri, outcome from files"
_OF_RUN = """
select media_id, run_id, uri, 'scored' as outcome from scores where run_id = $run
union all select media_id, run_id, uri, 'failed' from failures where run_id = $run
union all select media_id, run_id, uri, 'skipped' from skipped where run_id = $run"""
_SCORES = """
select l.place, s.* from labelled l join scores s on s.media_id = l.media_id and s.run_id = l.run_id order by l.place"""
_LOGITS = """
create temp table logits as
select s.place, s.run_id as scored_by, e.* exclude (run_id, media_id, uri, box, detail, logit, abstained), e.abstained,
       if(isfinite(e.logit), e.logit, null) as logit
from scored s join evidence e on e.media_id = s.media_id and e.run_id = s.evidence_run_id"""
_ASKED = """
select place, detector, any_value(family), bool_or(abstained is null or not list_contains($elsewhere, abstained))
from logits group by place, detector order by detector, place"""
_POOLED = """
with items as (
    select place, detector, min(logit) as logit from logits
    where logit is not null and list_contains($explained, detector) group by place, detector, clip_index
    union all
    select place, detector, logit from logits where logit is not null and not list_contains($explained, detector)
), ranked as (
    select *, row_number() over (partition by place, detector order by logit desc) as rank,
           count(*) over (partition by place, detector) as items
    from items
)
select place, detector, avg(logit) from ranked where rank <= ceil(items / 4) group by place, detector order by place"""
_ITEMS = """
select place, detector, scored_by, family, weights_sha256, clip_index, track_id, start_seconds, end_seconds, logit
from logits where logit is not null
order by place, detector, clip_index nulls first, track_id nulls first, start_seconds, logit"""


@dataclass(frozen=True, slots=True)
class Subject:
    """One thing that judged media: the fusion, a family or a detector."""

    name: str
    kind: Kind
    family: str | None
    score: np.ndarray
    """float64 [N], higher = manipulated; NaN where it did not judge."""
    probability: np.ndarray | None
    """float64 [N], calibrated probability of manipulation; None if only raw logits are known."""
    relevant: np.ndarray
    """bool [N]: whether the media are of a kind that it could have judged."""
    verdicts: tuple[str | None, ...] | None
    """[N]. For a detector: the verdict that its run's calibration gives from this detector's evidence alone. None if no
    calibration names it."""

    @property
    def judged(self) -> np.ndarray:
        return np.isfinite(self.score)


@dataclass(frozen=True, slots=True)
class Material:
    """N labelled media, in the order of the output's rows."""

    fake: np.ndarray
    """bool [N]"""
    groups: np.ndarray
    """int64 [N]"""
    families: tuple[str, ...]
    """[N], the labelled family of the forgery."""
    generators: tuple[str, ...]
    media_types: tuple[str | None, ...]
    """[N]; None for a file that could not be read."""
    outcomes: tuple[str, ...]
    """[N], each `scored`, `failed` or `skipped`."""
    subjects: tuple[Subject, ...]
    baselines: Mapping[str, np.ndarray]
    """float64 [N] by name, NaN where unknown."""
    joined: Joined
    run_ids: tuple[str, ...]
    calibrations: Mapping[str, Calibration | None]
    """By run_id; None if the run's record has no calibration."""
    calibration_ids: tuple[str, ...]
    fingerprints: tuple[str, ...]


def read_material(out: str, labels: Labels, run_id: str | None = None) -> Material:
    """Reads the newest row of each labelled file, or its row from one run.

    Raises:
        UsageError: there is no output or no such run, or labels fit several files or contradict each other.
        NothingFound: no label fits any file of the output.
    """
    with connect(out) as connection, readable(out):
        runs = {run.run_id: run for run in list_runs(OutputStore(out, patience_seconds=15.0))}
        if run_id is not None and run_id not in runs:
            raise UsageError(f"no run {run_id} in {out}: expected one of {', '.join(sorted(runs)[-5:])}")
        found = connection.sql(_LATEST) if run_id is None else connection.sql(_OF_RUN, params={"run": run_id})
        rows = found.to_arrow_table().to_pylist()
        joined = join(labels, sorted(rows, key=itemgetter("uri", "media_id")))
        if not joined.pairs:
            one = f", such as {printable(str(rows[0]['uri']), 200)}" if rows else ""
            raise NothingFound(
                f"none of the {len(labels.rows)} labels in {labels.path} fits any of the {len(rows)} files in "
                f"{out}{one}: expected their uri, its end after a `/`, or their media_id"
            )
        pairs = [(n, row["media_id"], row["run_id"]) for n, (_, row) in enumerate(joined.pairs)]
        names = ("place", "media_id", "run_id")
        connection.register("labelled", pa.table(dict(zip(names, map(list, zip(*pairs, strict=True)), strict=True))))
        scores = connection.sql(_SCORES).to_arrow_table().to_pylist()
        sources = [(r["place"], r["media_id"], r["run_id"], r["evidence_run_id"] or r["run_id"]) for r in scores]
        columns = [[row[i] for row in sources] for i in range(4)]
        kinds = (pa.int64(), pa.string(), pa.string(), pa.string())
        connection.register(
            "scored",
            pa.table(
                [pa.array(values, kind) for values, kind in zip(columns, kinds, strict=True)],
                names=["place", "media_id", "run_id", "evidence_run_id"],
            ),
        )
        connection.execute(_LOGITS)
        calibrations = {
            name: parse_calibration(json.dumps(runs[name].settings["calibration"]), f"run {name}")
            if name in runs and "calibration" in runs[name].settings
            else None
            for name in sorted({row["run_id"] for row in scores})
        }
        subjects = (
            *_of_scores(scores, len(joined.pairs)),
            *_of_detectors(connection, len(joined.pairs), calibrations),
        )
    return _material(joined, scores, subjects, calibrations)


def _material(
    joined: Joined,
    scores: Sequence[Mapping[str, Any]],
    subjects: Sequence[Subject],
    calibrations: Mapping[str, Calibration | None],
) -> Material:
    labels = [label for label, _ in joined.pairs]
    own = [label.group or f"\0{place}" for place, label in enumerate(labels)]
    media_types: list[str | None] = [None] * len(labels)
    baselines = {name: np.full(len(labels), np.nan) for name in BASELINES}
    for row in scores:
        media_types[row["place"]] = row["media_type"]
        for name, value in baseline_values(row).items():
            baselines[name][row["place"]] = np.nan if value is None else value
    asked: dict[str | None, np.ndarray] = {}
    for subject in subjects:
        if subject.kind == "detector":
            asked[subject.family] = asked.get(subject.family, False) | subject.relevant
    return Material(
        fake=np.array([label.fake for label in labels]),
        groups=np.unique(own, return_inverse=True)[1],
        families=tuple(label.family for label in labels),
        generators=tuple(label.generator for label in labels),
        media_types=tuple(media_types),
        outcomes=tuple(row["outcome"] for _, row in joined.pairs),
        # If no detector of a family ran, the family is left out: it did not even abstain.
        subjects=tuple(
            replace(subject, relevant=asked[subject.family]) if subject.kind == "family" else subject
            for subject in subjects
            if subject.kind != "family" or subject.family in asked
        ),
        baselines=baselines,
        joined=joined,
        run_ids=tuple(sorted({row["run_id"] for _, row in joined.pairs})),
        calibrations=calibrations,
        calibration_ids=tuple(sorted({row["calibration_id"] for row in scores})),
        fingerprints=tuple(sorted({row["fingerprint"] for row in scores})),
    )


def _of_scores(scores: Sequence[Mapping[str, Any]], count: int) -> list[Subject]:
    verdicts: list[str | None] = [None] * count
    for row in scores:
        verdicts[row["place"]] = row["verdict"]
    subjects = []
    for name in ("fused", *FAMILIES):
        forged = np.full(count, np.nan)
        for row in scores:
            value = row["authenticity" if name == "fused" else f"{name}_authenticity"]
            forged[row["place"]] = np.nan if value is None else 1 - value
        sure = np.clip(forged, _SURE, 1 - _SURE)
        fused = name == "fused"
        subjects.append(
            Subject(
                name if fused else f"{name} (family)",
                "fused" if fused else "family",
                None if fused else name,
                np.log(sure / (1 - sure)),
                forged,
                np.ones(count, bool),
                tuple(verdicts) if fused else None,
            )
        )
    return subjects


def _of_detectors(
    connection: duckdb.DuckDBPyConnection, count: int, calibrations: Mapping[str, Calibration | None]
) -> list[Subject]:
    specs = installed()
    explained = [name for name, spec in specs.items() if spec.one_face_explains]
    relevant: dict[str, np.ndarray] = {}
    families: dict[str, str] = {}
    for place, name, family, is_relevant in connection.execute(_ASKED, {"elsewhere": list(_ELSEWHERE)}).fetchall():
        relevant.setdefault(name, np.zeros(count, bool))[place] = is_relevant
        families[name] = family
    scores = {name: np.full(count, np.nan) for name in relevant}
    for place, name, logit in connection.execute(_POOLED, {"explained": explained}).fetchall():
        scores[name][place] = logit
    alone = _alone(connection, count, specs, calibrations)
    return [
        Subject(name, "detector", families[name], scores[name], None, relevant[name], alone.get(name))
        for name in sorted(relevant, key=lambda name: ([*FAMILIES, families[name]].index(families[name]), name))
    ]


def _alone(
    connection: duckdb.DuckDBPyConnection,
    count: int,
    specs: Mapping[str, DetectorSpec],
    calibrations: Mapping[str, Calibration | None],
) -> dict[str, tuple[str | None, ...]]:
    """By detector: the verdict on each file that its run's calibration gives from this detector's evidence alone."""
    found: dict[str, list[str | None]] = {}
    for (place, name, run_id), items in groupby(_rows(connection), key=itemgetter(0, 1, 2)):
        calibration = calibrations.get(run_id)
        if calibration is not None and name in calibration.detectors:
            rows = [Evidence("", name, *row[3:10]) for row in items]
            spec = [specs[name]] if name in specs else []
            verdicts = found.setdefault(name, [None] * count)
            verdicts[place] = rescored(rows, (), 0, spec, calibration).verdict
    return {name: tuple(verdicts) for name, verdicts in found.items()}


def _rows(connection: duckdb.DuckDBPyConnection) -> Iterable[tuple[Any, ...]]:
    found = connection.execute(_ITEMS)
    while rows := found.fetchmany(10_000):
        yield from rows
