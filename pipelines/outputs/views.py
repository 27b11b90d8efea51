"""The views over the tables, in SQL. What "the newest" of a file is stands here and nowhere else.

A file is a URI. Its tables may hold many rows of it: of several runs, and of several versions (it was replaced, or only
its time of change moved). One rule says which of them tell how it stands now:

- of a media (`media_id`: one version of one file) the row of its newest run;
- of a URI the version that was looked at last, whatever came of it: a score, a failure, or no media at all. A
  rescoring looks at nothing: its rows count as of the run whose evidence they were made from.

Members of a shard may share a name, and so a URI. They share the shard's version too, so all of them stand.
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
VIEWS = (FILES, LATEST, TIMELINE, TO_RETRY)
"""In an order in which they can be created."""
