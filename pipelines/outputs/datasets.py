"""The tables of an output as pyarrow datasets: lazily read, filtered by column, also from object stores."""

from __future__ import annotations

import pyarrow.dataset as ds
import pyarrow.fs as pafs

from ...transforms.tables.public_files import date_of, public_schema
from ...transforms.tables.schema import TABLES
from .query import existing_output, local_root, published_files


def read_scores(out: str) -> ds.Dataset:
    """One row for each file and run that scored it: the columns of `docs/tables.md`, with `run_date` as a date.

    All runs are in it. For the newest row of each file, use `query(out, "select * from latest")`.

    >>> read_scores("scores").to_table(columns=["uri", "verdict"]).to_pandas()  # doctest: +SKIP

    Raises:
        UsageError: there is no output in `out`.
        WorldError: the store does not answer.
    """
    return read_table(out, "scores")


def read_evidence(out: str) -> ds.Dataset:
    """One row for each answer of a detector about one item (a face track, a clip, a window of sound, a file)."""
    return read_table(out, "evidence")


def read_evidence_frames(out: str) -> ds.Dataset:
    """One row for each small picture of a suspicious file."""
    return read_table(out, "evidence_frames")


def read_failures(out: str) -> ds.Dataset:
    """One row for each file and run that could not score it."""
    return read_table(out, "failures")


def read_skipped(out: str) -> ds.Dataset:
    """One row for each file and run that skipped it, because it holds no video and no sound for example."""
    return read_table(out, "skipped")


def read_table(out: str, table: str) -> ds.Dataset:
    """The table of that name as a dataset. It sees the files that are published when it is made.

    Columns that an older version of deephotlink did not write are null, and a `detail` of such a version may be a
    sentence. Each file's `run_date` is a partition expression, so a filter on it opens no other day's files.

    Raises:
        UsageError: there is no output in `out`.
        WorldError: the store does not answer.
    """
    store = existing_output(out)
    schema = public_schema(TABLES[table])
    names = published_files(store, table)
    if store.is_local:
        root = local_root(store)
        filesystem, paths = pafs.LocalFileSystem(), [f"{root}/{name}" for name in names]
    else:
        fsspec_files = store.patient_filesystem()
        filesystem = pafs.PyFileSystem(pafs.FSSpecHandler(fsspec_files))
        paths = [fsspec_files._strip_protocol(store.path(name)) for name in names]
    return ds.FileSystemDataset.from_paths(
        paths,
        schema=schema,
        format=ds.ParquetFileFormat(),
        filesystem=filesystem,
        partitions=[ds.scalar(True) if day is None else ds.field("run_date") == day for day in map(date_of, names)],
    )
