"""Versions of files that have lost their place, and may come back: by `touch`, by a restore from a backup."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from ...transforms.storage.output_store import OutputStore
from ...transforms.tables.runs import list_runs
from .query import by_file, open_duckdb, readable

_BY_URL = "(^|::)(https?|ftps?|sftp|webdav|webhdfs)://"
"""There a query may tell several files of one URI apart, and is kept nowhere: they are no versions of one another."""
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
"""As the view `files` has it, of plans. By hashes of 16 bytes: the names of a million files would take some hundred
megabytes. Of the first run only those files count that are in a later one."""


def superseded(store: OutputStore) -> Iterator[pa.Array]:
    """media_id of all media that were planned once, and of whose file another version was planned since: what the view
    `files` no longer shows. Where one of them is listed again, its file is as it was.

    Raises:
        UsageError: a plan is damaged. WorldError: the store does not give it.
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
