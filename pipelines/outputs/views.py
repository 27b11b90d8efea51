"""The views over the tables, in SQL. Only this file defines which row of a file is the newest.

A file is a URI. The tables may hold many rows for it: from several runs, and for several versions (the file was
replaced, or only its modification time changed). One rule says which rows give its present state:

- for a `media_id` (one version of one file): the row of its newest run;
- for a URI: the version that was looked at last, whether it was scored, failed or skipped. A rescoring looks at no
  file: its rows count as of the run whose evidence they were made from.

Members of a shard may share a name, and so a URI. They also share the shard's version, so all of them are shown.
"""

from __future__ import annotations

FILES = """
create view files as
with every_row as (
    select uri, media_id, coalesce(version, media_id) as version, run_id, coalesce(evidence_run_id, run_id) as looked,
           'scored' as outcome from scores
    union all
    select uri, media_id, coalesce(version, media_id), run_id, run_id, 'failed' from failures
    union all
    select uri, media_id, coalesce(version, media_id), run_id, run_id, 'skipped' from skipped
), newest as (
    select media_id, arg_max(uri, run_id) as uri, arg_max(version, run_id) as version, max(run_id) as run_id,
           max(looked) as looked, arg_max(outcome, run_id) as outcome
    from every_row group by media_id
)
select uri, outcome, media_id, run_id from newest
qualify max(looked) over (partition by uri, version) = max(looked) over (partition by uri)
"""
LATEST = """
create view latest as
select n.outcome, n.media_id, n.run_id, coalesce(s.run_date, f.run_date) as run_date, n.uri,
       s.* exclude (media_id, run_id, run_date, uri, version, sandbox), coalesce(s.version, f.version) as version,
       coalesce(s.sandbox, f.sandbox) as sandbox, f.stage, f.error_class, f.message
from (select * from files where outcome <> 'skipped') n
left join scores s on n.outcome = 'scored' and s.media_id = n.media_id and s.run_id = n.run_id
left join failures f on n.outcome = 'failed' and f.media_id = n.media_id and f.run_id = n.run_id
"""
TIMELINE = """
create view timeline as
select e.uri, e.start_seconds, e.end_seconds, e.family, e.detector, e.logit, e.abstained, e.clip_index, e.track_id,
       e.detail, e.media_id, e.run_id, e.run_date, e.box, e.box_seconds, e.frame_width, e.frame_height
from evidence e
join (
    select media_id, coalesce(evidence_run_id, run_id) as run_id from latest where outcome = 'scored'
) newest using (media_id, run_id)
order by e.uri, e.media_id, e.start_seconds nulls first, e.end_seconds, e.family, e.detector, e.clip_index, e.track_id
"""
TO_RETRY = """
create view to_retry as
with raised as (
    select media_id, run_id, min_by(detector || ': ' || coalesce(detail, ''), detector) as message
    from evidence where abstained = 'detector_error' group by media_id, run_id
), tries as (
    select media_id, count(*) as n from (select distinct media_id, run_id from raised union
                                         select media_id, run_id from failures) group by media_id
)
select f.* from failures f
join (select media_id, run_id from files where outcome = 'failed') newest using (media_id, run_id)
union all by name
select s.run_id, s.run_date, s.media_id, s.uri, 'detect' as stage, 'detector_error' as error_class, r.message,
       t.n::int as attempts, s.size_bytes, s.scored_at as failed_at, s.sandbox, s.version
from scores s
join (select media_id, run_id from files where outcome = 'scored') newest using (media_id, run_id)
join raised r on r.media_id = s.media_id and r.run_id = coalesce(s.evidence_run_id, s.run_id)
join tries t on t.media_id = s.media_id
order by uri
"""
KNOWN_REAL = """
create view known_real as
select f.* from files f semi join _known_real k on f.uri = k.uri
"""
VIEWS = (FILES, LATEST, TIMELINE, TO_RETRY, KNOWN_REAL)
"""In an order in which DuckDB can create them."""
