"""The state of an output in numbers: counts, how much was seen and heard, which way each detector leans.

Read from the tables, not from a run's memory, so that it says what anyone else would find there. Each file counts once,
by the view `files`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import duckdb

from ...models.calibration.calibration import LEANS
from ...transforms.pictures.picture import SUSPICIOUS_BELOW
from ..terminal.printing import finite
from .reasons import Item, reasons_of

BRIEF_SECONDS = 1.0
_KEY = "md5_number({0}.media_id || {0}.{1})"
"""Of a media and a run, in 16 bytes: joins and groups by the texts themselves need six times the memory."""
_NEWEST = f"""
create or replace temp table newest as
select {_KEY.format("f", "run_id")} as key, outcome from files f anti join _known_real k on f.uri = k.uri"""
_MARKED = "select count(*) from _known_real"
_KNOWN_REAL = """
select coalesce(s.verdict, k.outcome), count(*)
from known_real k left join scores s on k.outcome = 'scored' and s.media_id = k.media_id and s.run_id = k.run_id
group by 1 order by 2 desc, 1"""
_SCORED = f"""
create or replace temp view scored as
select s.*, coalesce(s.evidence_run_id, s.run_id) as evidence_run,
       md5_number(s.media_id || coalesce(s.evidence_run_id, s.run_id)) as evidence_key
from scores s semi join (select key from newest where outcome = 'scored') n on n.key = {_KEY.format("s", "run_id")}"""
_FAILED = f"""
create or replace temp view failed as
select f.* from failures f
semi join (select key from newest where outcome = 'failed') n on n.key = {_KEY.format("f", "run_id")}"""
_PASSED_OVER = f"""
create or replace temp view passed_over as
select k.* from skipped k
semi join (select key from newest where outcome = 'skipped') n on n.key = {_KEY.format("k", "run_id")}"""
_BEHIND_SCORES = """
create or replace temp table behind_scores as select distinct evidence_key from scored"""
_WEIGHED = f"""
create or replace temp view weighed as
select e.*, {_KEY.format("e", "run_id")} as evidence_key from evidence e
semi join behind_scores b on b.evidence_key = {_KEY.format("e", "run_id")}"""
_UNDECODED = """
create or replace temp table undecoded as
select evidence_key, bool_or(family <> 'audio' and note not like 'sound:%') as picture,
       bool_or(family <> 'audio' and clip_index is not null and note not like 'sound:%') as clips,
       bool_or(family = 'audio' or note like 'sound:%') as sound
from (select *, coalesce(json_extract_string(detail, '$.note'), '') as note from weighed)
where abstained = 'decode_failed' group by evidence_key"""
_HEARD = """
create or replace temp table heard as
select evidence_key, max(seconds) as seconds from (
    select evidence_key, least(sum(end_seconds - start_seconds), max(end_seconds) - min(start_seconds)) as seconds
    from weighed where family = 'audio' and start_seconds is not null group by evidence_key, detector
) group by evidence_key"""
_TOTALS = """
select coalesce(sum(assessed_seconds), 0), coalesce(sum(frames_decoded), 0), coalesce(sum(faces), 0),
       count(authenticity), count(*) filter (authenticity < ?), count(*) filter (detectors is null) from scored"""
_FILMS = f"""
select count(*), coalesce(sum(greatest(duration_seconds, assessed_seconds)), 0), coalesce(sum(assessed_seconds), 0),
       count(*) filter (coalesce(duration_seconds, 0) <= 0),
       count(*) filter (assessed_seconds > 0 and assessed_seconds < {BRIEF_SECONDS}),
       count(*) filter (coalesce(frames_kept, 0) = 0),
       count(*) filter (coalesce(frames_kept, 0) = 0 and (clips_planned > 0 or u.picture)),
       count(*) filter (frames_kept > 0 and u.clips)
from scored s left join undecoded u using (evidence_key) where s.has_video"""
_SOUNDS = """
select count(*), coalesce(sum(greatest(duration_seconds, h.seconds)), 0), coalesce(sum(h.seconds), 0),
       count(*) filter (coalesce(duration_seconds, 0) <= 0), count(*) filter (h.seconds > 0),
       count(*) filter (h.seconds is null and u.sound)
from scored s left join heard h using (evidence_key) left join undecoded u using (evidence_key) where s.has_audio"""
_WORST = """
create or replace temp table worst_ones as
select uri, verdict, authenticity, reasons, detectors, media_id, evidence_run from scored
where authenticity is not null order by authenticity, uri limit {}"""
_BEHIND = """
select e.media_id, e.detector, e.family, e.clip_index, e.start_seconds, e.end_seconds, e.logit, e.abstained, e.detail
from evidence e join worst_ones w on w.media_id = e.media_id and w.evidence_run = e.run_id where e.logit is not null
order by e.detector, e.start_seconds"""
_LEANINGS = f"""
select d.detector, d.has_say, d.calibrated, count(*), count(*) filter (d.log_odds > {LEANS}),
       median(d.log_odds), max(d.log_odds), arg_max(uri, d.log_odds)
from (select uri, unnest(detectors) as d from scored) where d.log_odds is not null
group by 1, 2, 3 order by 2 desc, 1, 3 desc"""
_VERDICTS = "select verdict, count(*) from scored group by 1 order by 2 desc, 1"
_FAILURES = "select error_class, count(*) from failed group by 1 order by 2 desc, 1"
_FIRST_FAILED = "select uri, error_class, message from failed order by error_class, uri limit ?"
_SKIPPED = "select reason, count(*) from passed_over group by 1 order by 2 desc, 1"
_DECODERS = "select decoder, count(*) from scored where decoder is not null group by 1 order by 1"
_CALIBRATIONS = "select distinct calibration_id from scored order by 1"


@dataclass(frozen=True, slots=True)
class Suspicious:
    uri: str
    verdict: str
    authenticity: float
    reasons: tuple[str, ...]
    """As in the tables."""
    why: tuple[str, ...] = ()
    """The same for a person, by plain_words.py: what points to manipulation comes first."""


@dataclass(frozen=True, slots=True)
class Films:
    """How much was seen of the scored files that have video."""

    files: int = 0
    seconds: float = 0.0
    """Their total length, as far as it is known."""
    seen_seconds: float = 0.0
    length_unknown: int = 0
    brief: int = 0
    """Files of which something, but less than a second, was looked at."""
    unseen: int = 0
    """Files of which no frame was looked at, for whatever reason."""
    undecodable: int = 0
    """Those of the `unseen` files whose frames were wanted, but none could be decoded."""
    partly_undecodable: int = 0
    """Files with frames that were looked at, and with clips that could not be decoded."""


@dataclass(frozen=True, slots=True)
class Sounds:
    """How much the speech detectors heard of the scored files that have sound."""

    files: int = 0
    seconds: float = 0.0
    heard_seconds: float = 0.0
    length_unknown: int = 0
    heard: int = 0
    """Number of files in which they heard something."""
    undecodable: int = 0
    """Files whose sound was wanted but could not be decoded."""


@dataclass(frozen=True, slots=True)
class Leaned:
    """How one detector judged its files. Log-odds above 0 = manipulated."""

    detector: str
    has_say: bool
    """Whether it moves `authenticity` under the calibration in force. If not, it is evidence only."""
    calibrated: bool
    """Whether its log-odds follow a rule of the calibration. If not, they are its raw logits."""
    files: int
    towards_manipulation: int
    """Number of these files with log-odds above 0 by more than rounding."""
    median: float
    highest: float
    highest_uri: str


@dataclass(frozen=True, slots=True)
class Summary:
    """The state of OUT. Each file counts once; files that are known to be real are counted apart."""

    verdicts: dict[str, int]
    failures: dict[str, int]
    skipped: dict[str, int]
    decoders: dict[str, int]
    assessed_seconds: float
    frames_decoded: int
    faces: int
    suspicious: tuple[Suspicious, ...]
    calibrations: tuple[str, ...]
    failed: tuple[tuple[str, str, str], ...] = ()
    """uri, class and message of the first few failures."""
    films: Films = field(default_factory=Films)
    sounds: Sounds = field(default_factory=Sounds)
    detectors: tuple[Leaned, ...] = ()
    """All detectors that gave a logit: those that move authenticity first, then by name."""
    judged: int = 0
    """Files with an authenticity."""
    below: int = 0
    """Files with an authenticity under `SUSPICIOUS_BELOW`."""
    untold: int = 0
    """Scores of earlier versions, which did not record which way each detector leaned."""
    known_real: dict[str, int] = field(default_factory=dict)
    """Files that `audit --real` was given as real, by verdict, `failed` or `skipped`. They count nowhere else here."""
    rankings: tuple[str, ...] = ()
    """What the order by authenticity was worth on the files behind each calibration, one sentence each."""
    unfinished: int = 0
    """Runs that are at work or were interrupted. Results that they have not published are not counted."""

    @property
    def scored(self) -> int:
        return sum(self.verdicts.values())

    @property
    def media(self) -> int:
        return self.scored + sum(self.failures.values()) + sum(self.skipped.values())

    def as_json(self) -> dict[str, Any]:
        told: dict[str, Any] = finite({"media": self.media, **asdict(self)})
        return told


def summarise(tables: duckdb.DuckDBPyConnection, most: int = 20, unfinished: int = 0) -> Summary:
    """Reads the state of each file from the views of `query.connect`.

    most: number of suspicious and of failed files to name. unfinished: number of unfinished runs of the output.
    """
    for sql in (_NEWEST, _SCORED, _FAILED, _PASSED_OVER, _BEHIND_SCORES, _WEIGHED, _UNDECODED, _HEARD):
        tables.execute(sql)

    def counts(sql: str) -> dict[str, int]:
        return {str(name): int(number) for name, number in tables.execute(sql).fetchall()}

    def row(sql: str, *given: Any) -> tuple[Any, ...]:
        found = tables.execute(sql, list(given)).fetchone()
        assert found is not None
        return tuple(found)

    seconds, frames, faces, judged, below, untold = row(_TOTALS, SUSPICIOUS_BELOW)
    return Summary(
        verdicts=counts(_VERDICTS),
        failures=counts(_FAILURES),
        skipped=counts(_SKIPPED),
        decoders=counts(_DECODERS),
        assessed_seconds=float(seconds),
        frames_decoded=int(frames),
        faces=int(faces),
        suspicious=_most_suspicious(tables, most),
        calibrations=tuple(name for (name,) in tables.execute(_CALIBRATIONS).fetchall()),
        failed=tuple((str(u), str(c), str(m)) for u, c, m in tables.execute(_FIRST_FAILED, [most]).fetchall()),
        films=Films(*row(_FILMS)),
        sounds=Sounds(*row(_SOUNDS)),
        detectors=tuple(Leaned(*found) for found in tables.execute(_LEANINGS).fetchall()),
        judged=judged,
        below=below,
        untold=untold,
        known_real=counts(_KNOWN_REAL) if row(_MARKED)[0] else {},
        unfinished=unfinished,
    )


def _most_suspicious(tables: duckdb.DuckDBPyConnection, most: int) -> tuple[Suspicious, ...]:
    tables.execute(_WORST.format(int(most)))
    behind: dict[str, list[Item]] = {}
    for media_id, *row in tables.execute(_BEHIND).fetchall():
        behind.setdefault(media_id, []).append(Item(*row))
    found = []
    worst = "select media_id, uri, verdict, authenticity, reasons, detectors from worst_ones order by authenticity, uri"
    for media_id, uri, verdict, value, reasons, detectors in tables.execute(worst).fetchall():
        told = reasons_of(detectors or (), behind.get(media_id, []))
        why = [one.sentence for one in sorted(told, key=lambda one: (not one.has_say, -one.leaning))]
        found.append(Suspicious(str(uri), str(verdict), float(value), tuple(reasons or ()), tuple(why)))
    return tuple(found)
