"""Rows that the table `evidence_frames` may not hold: pictures of files that are not suspicious, more or larger ones
than are ever kept, and what is no JPEG. These are rules of `check` (check.py), beside those of implausible_rows.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import duckdb

from ...transforms.pictures.picture import FILE_BYTES, FILE_PICTURES, JPEG_BYTES, KINDS, suspicious_sql
from ...transforms.tables.evidence_frames import BOX
from .implausible_rows import EDGE_SECONDS, Implausible

_X0, _Y0, _X1, _Y1 = BOX
_NO_BOX = " and ".join(f"{side} is null" for side in BOX)
_GOOD_BOX = f"kind = 'frame' and 0 <= {_X0} and {_X0} < {_X1} and {_X1} <= 1 and 0 <= {_Y0} and {_Y0} < {_Y1}"
_MALFORMED = f"""
select media_id from (
    select media_id,
        octet_length(jpeg) between 4 and {JPEG_BYTES}
        and starts_with(hex(jpeg), 'FFD8FF') and ends_with(hex(jpeg), 'FFD9')
        and kind in {KINDS} and width > 0 and height > 0 and isfinite(pts_seconds) and isfinite(logit)
        and (({_NO_BOX}) or ({_GOOD_BOX} and {_Y1} <= 1)) as good
    from {{frames}}
) where not coalesce(good, false) group by media_id"""
_TOO_MANY = f"""
select media_id from {{frames}} group by media_id
having count(*) > {FILE_PICTURES} or sum(octet_length(jpeg)) > {FILE_BYTES}"""
_UNSUSPICIOUS = f"""
select distinct f.media_id from {{frames}} f join {{scores}} s using (media_id) where not {suspicious_sql("s")}"""
_OUTSIDE = f"""
select distinct f.media_id from {{frames}} f join {{scores}} s using (media_id)
where f.pts_seconds < -{EDGE_SECONDS} or f.pts_seconds > s.duration_seconds + {EDGE_SECONDS}"""
_RULES = (
    ("picture_malformed", "pictures that deephotlink does not make", _MALFORMED),
    ("too_many_pictures", "more pictures, or larger ones, than are kept of a file", _TOO_MANY),
    ("picture_of_unsuspicious", "pictures of files that are not suspicious", _UNSUSPICIOUS),
    ("picture_outside", "pictures from outside the film", _OUTSIDE),
)


def implausible_pictures(
    connection: duckdb.DuckDBPyConnection, scores: str | None, frames: str | None
) -> Iterator[Implausible]:
    """The rules that pictures of one run break. scores, frames: what DuckDB may select from; None if there is no such
    file."""
    for rule, message, sql in _RULES:
        if frames is None or (scores is None and "{scores}" in sql):
            continue
        rows = connection.execute(f"{sql.format(scores=scores, frames=frames)} order by media_id").fetchall()
        if rows:
            yield Implausible(rule, message, [media_id for (media_id,) in rows])
