"""Versions of files that were replaced and may come back, by `touch` or a restore from a backup."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from ...transforms.storage.output_store import OutputStore
from ...transforms.tables.runs import list_runs
from .query import by_file, open_duckdb, readable

_BY_URL = "(^|::)(https?|ftps?|sftp|webdav|webhdfs)://"
"""For these schemes a query may tell apart several files of one URI, and the query is stored nowhere. So they are not
treated as versions of each other."""
_SUPERSEDED = """
with planned as (
    select md5_number(media_id) as media, md5_number(uri) as uri, md5_number(version) as version, number
    from {plans} join runs on runs.run_id = regexp_extract(filename, '_runs/([^/]+)/plan', 1)
    where (number > 0 or hash(uri) in (select hash(uri) from {later})) and not regexp_matches(uri, '{by_url}')
), newest as (
    select media, arg_max(uri, number) as uri, arg_max(version, number) as version, max(number) as number
    from planned group by media
), lost as (
    select media from newest
    qualify max(number) over (partition by uri, version) < max(number) over (partition by uri)
)
select media_id from {plans} where md5_number(media_id) in (select media from lost)
"""
"""The rule of the view `files`, applied to plans. Uses hashes of 16 bytes, because the names of a million files would
take some hundred megabytes. A file of the first run counts only if it is also in a later run."""


def superseded(store: OutputStore) -> Iterator[pa.Array]:
    """media_id of all media that were planned once, but whose file has had another version planned since. The view
    `files` no longer shows them. If one of them is listed again, its file is back in that version.

    Raises:
        UsageError: a plan is damaged. WorldError: the store does not answer.
    """
    runs = [run for run in list_runs(store) if run.kind != "rescore"]
    if len(runs) < 2:
        return
    plans, later = (by_file(store, [run.name("plan.parquet") for run in some]) for some in (runs, runs[1:]))
    numbers = pa.table({"run_id": [run.run_id for run in runs], "number": pa.array(range(len(runs)), pa.int32())})
    with readable(store.root), open_duckdb(store) as tables:
        tables.register("runs", numbers)
        sql = _SUPERSEDED.format(plans=plans, later=later, by_url=_BY_URL)
        for batch in tables.sql(sql).to_arrow_reader(1 << 16):
            yield batch["media_id"]
