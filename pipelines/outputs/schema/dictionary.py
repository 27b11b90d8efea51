"""The dictionary of the tables in Markdown, made from the schemas, the views and lists of words.

`docs/tables.md` is this text, and `deephotlink schema --markdown` prints it.
"""

from __future__ import annotations

from collections.abc import Mapping

import duckdb
import pyarrow as pa

from ....transforms.failures import ERROR_CLASSES
from ....transforms.pictures.picture import (
    FILE_BYTES,
    FILE_PICTURES,
    JPEG_BYTES,
    SUSPICIOUS_BELOW,
    UNIT_BYTES,
)
from ....transforms.tables.fields import ONLY_OF_RUNS
from ....transforms.tables.public_files import public_schema
from ....transforms.tables.schema import TABLES
from ..plain_words import ABSTAINED, SKIPPED
from ..views import MARKS, VIEWS

_SCHEMAS = {name: public_schema(schema) for name, schema in TABLES.items()}

HEAD = """\
# Tables

An output holds five tables as Parquet files, compressed with zstd:
`OUT/{scores,evidence,evidence_frames,failures,skipped}/*.parquet`. All five exist from the first results on, with no
rows where there is nothing to report. Each column's meaning, unit and polarity is also stored in the files, as Arrow
field metadata. `run_id`, `run_date`, `media_id` and `uri` are required: they are never null. Each file holds rows of
one run, so the statistics of `run_date` let readers pass over other days.

- **Every file is in exactly one of `scores`, `failures` and `skipped`.** `deephotlink check OUT` proves it.
- The key is (`run_id`, `media_id`).
- In `evidence`, a `logit` above 0 means manipulated. If a detector cannot judge, `logit` is null and `abstained` says
  why.
- `evidence_frames` has [small pictures](#evidence_frames) of suspicious files, and of no others. It is in no view.
- Tables keep the rows of older runs. For how each file stands now, use the [views](#views).

From Python, `deephotlink.read_scores(OUT)`, `read_evidence`, `read_evidence_frames`, `read_failures` and `read_skipped`
give pyarrow datasets, with all columns also if an older version wrote some of the files. For the views, use
`deephotlink.query(OUT, sql)`: it gives what an SQL query finds as a pyarrow table.

Any reader of Parquet takes the folder as it is, and `run_date` is a date in each: `pandas.read_parquet("OUT/scores")`,
`polars.read_parquet("OUT/scores")`, `spark.read.parquet("OUT/scores")`, `read_parquet('OUT/scores/*.parquet')` in
DuckDB. All columns have Parquet types that BigQuery and Snowflake say they load as they are: lists of three levels,
structs, times in microseconds of UTC. `detail` is always a JSON object, so `PARSE_JSON(detail)` works there. If two
versions of deephotlink wrote into one output, Polars needs `missing_columns="insert", extra_columns="ignore"`.

An output that a version before schema version 3 began keeps its folders: `OUT/scores/run_date=YYYY-MM-DD/*.parquet`,
where the date is in the folder's name and not in the files. There, `detail` may be a sentence. `query`, `check`,
`rescore`, `evaluate` and `read_scores` read both, and new runs into such an output use its folders, so that no reader
meets both kinds. For pyarrow and pandas, pass `partitioning=deephotlink.transforms.tables.public_files.PARTITIONING`
to get a date.

[Queries](queries.md) has worked examples.

### Apache Iceberg

`audit --iceberg` at its end, and `deephotlink iceberg OUT` at any time (`pip install 'deephotlink[iceberg]'`), list
the published files in Iceberg tables, one for each of ours but `evidence_frames`, whose files `forget-pictures`
changes. The files stay where they are and are not rewritten. Each call adds what is new, and nothing twice, also
after a kill and if several run at once. The catalog, called `deephotlink`, is SQLite in `OUT/_iceberg`, or what
`--iceberg=CATALOG` or `--catalog` names. After `rescore`, run `deephotlink iceberg OUT`. An output that a version
before schema version 3 began cannot be listed, because its files lack `run_date`. Iceberg names files by whole paths:
if you move OUT, delete `OUT/_iceberg` and list it again.

### Many small runs

Each run adds files and leaves all others alone, so many small runs make many small files. There is no command that
joins them in place. Readers list the folder themselves: between the creation of a joined file and the removal of the
small ones they would see rows twice, or miss some in the other order, and no object store changes several objects at
once. `check`, `rescore` and a run that continues also find rows by the names of the files. If many files are too slow
for you, copy a table to one file elsewhere: `deephotlink query OUT "copy scores to 'scores.parquet'"`.

## Cut a face out of the original

`box` is where a face is, in pixels of a frame of `frame_width` by `frame_height` that is shown at `box_seconds`. That
frame is the whole picture, upright and scaled down, so divide by its size to get shares of the original:

```sh
ffmpeg -i FILE -ss BOX_SECONDS -frames:v 1 \\
  -vf "crop=iw*(X2-X1)/FRAME_WIDTH:ih*(Y2-Y1)/FRAME_HEIGHT:iw*X1/FRAME_WIDTH:ih*Y1/FRAME_HEIGHT" face.png
```

## Time

`duration_seconds` is the length of the packets in the file, end to end, not what a header or the last time stamp says.
`start_seconds` in `evidence` is the time that a player shows if it plays the packets in order. If time stamps start
again (VOB or TS files joined with `cat`) or are far off (one damaged frame), the clock continues where it was, and
`reasons` says so. Files over 256 MiB are not read whole for this: an index is believed as far as it agrees with the end
of the file, and MPEG streams are looked at in places. One picture may be held for up to ten seconds, for as long as
there is sound, and in a silent film for up to five minutes if the rest is longer.

## What was not looked at

`reasons` says what was not looked at, whatever the detectors say: cover art, second video streams, other sound tracks,
pictures that cannot be decoded, a second recording appended to the first. If a file has several sound tracks, mono
tracks of one recording are heard together; otherwise the track in which somebody speaks is heard. If a track has more
than two channels, all channels that contain sound count equally.
"""

BEAM = f"""\
In a [Beam pipeline of your own](beam.md#what-comes-out) they are rows with the same columns, except
{", ".join(f"`{name}`" for name in ONLY_OF_RUNS)}, and times are text.
"""
EVIDENCE_FRAMES = f"""\
One row for each small picture of what a detector judged: the whole frame, or the face cut out of it.

A file is suspicious, and has pictures, if its verdict is `manipulated`, or if it is `inconclusive` with an
`authenticity` below {SUSPICIOUS_BELOW}. At most {FILE_PICTURES} pictures of {JPEG_BYTES >> 10} KB are kept of a file,
{FILE_BYTES >> 10} KB of it together, and {UNIT_BYTES >> 20} MB of a unit of work. They show the moments on which a
detector leans most towards manipulation; detectors that change `authenticity` come first. If no picture leans that way
(the verdict came from sound or metadata), there is one frame without a box, so that you see which film it is. Files of
sound have none.

A picture belongs to the row of `evidence` with the same `detector`, `clip_index` and `track_id`. For scores that
`rescore` made, the pictures are under `evidence_run_id`. [Security](security.md#pictures) says how to keep no pictures
and how to delete them."""
ROWS = {
    "scores": "One row for each file that could be read.",
    "evidence": "One row for each answer of a detector, about a file, a clip, a face or a window of sound.",
    "evidence_frames": EVIDENCE_FRAMES,
    "failures": "One row for each file of which nothing could be read.",
    "skipped": "One row for each file that is not media, or not one that deephotlink reads.",
}
VIEW_ROWS = {
    "files": "How each file stands now: one row for each file.",
    "latest": "The files that are scored or failed now, with all columns of `scores` and those of `failures`.",
    "timeline": "The evidence behind the scores in `latest`, in order of time.",
    "to_retry": "The failures in `latest`, and scored files on which a detector raised (`detector_error`).",
    "known_real": "The rows of `files` about files that `audit --real` was given as real. The closing tables and the "
    "report count them apart.",
}
VIEW_COLUMNS = {"outcome": "`scored`, `failed` or `skipped`"}
VIEWS_HEAD = """\
## Views

`deephotlink query` has five views. `OUT/views.sql`, which every audit writes, makes them in your own DuckDB, with the
tables: `cd OUT && duckdb -init views.sql`. `deephotlink schema --sql duckdb OUT` prints the same with whole paths, and
`--sql spark` and `--sql bigquery` print them for those engines (BigQuery: as `deephotlink.latest` and so on).

**A file is a URI, and each view counts it once.** If a file was replaced or
touched, the version that was looked at last counts, whatever came of it. The older versions stay in the tables. The
report, `evaluate`, `calibrate` and the others count in the same way. If an older version comes back, the next
audit looks at it again.
"""


def dictionary() -> str:
    """The whole page."""
    parts = [HEAD, "## The five tables\n", f"{BEAM}\n"]
    parts += [_table(name, _SCHEMAS[name]) for name in ROWS]
    parts += [VIEWS_HEAD, *_views()]
    parts += ["## Words\n", "### Verdicts\n", _words(VERDICTS)]
    parts += ["### `skipped.reason`\n", _words(SKIPPED)]
    parts += [
        "### `evidence.abstained`\n",
        "A detector may use other words too. Those of our own are:\n",
        _words(ABSTAINED),
    ]
    parts += ["### `failures.error_class`\n", "Also what `--retry-failures=CLASS,…` takes.\n", _words(ERROR_CLASSES)]
    return "\n".join(parts)


VERDICTS = {
    "manipulated": "`authenticity` is at or below the threshold of the calibration",
    "inconclusive": "there is some evidence, not enough to decide",
    "authentic": "`authenticity` is at or above the other threshold; the default calibration never says it",
    "not_assessed": "no calibrated detector could judge; `reasons` says why",
}


def _table(name: str, schema: pa.Schema) -> str:
    lines = [f"### {name}\n", f"{ROWS[name]}\n", "| column | type | unit | meaning |", "|---|---|---|---|"]
    for field in schema:
        words = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
        unit = "" if words.get("unit", "none") == "none" else words["unit"]
        polarity = "" if words.get("polarity", "none") == "none" else f" ({words['polarity']})"
        lines.append(f"| `{field.name}` | {_type(field.type)} | {unit} | {_cell(words['description'] + polarity)} |")
    return "\n".join([*lines, ""])


def _views() -> list[str]:
    described = {field.name: _meaning(field) for schema in _SCHEMAS.values() for field in schema}
    parts = []
    with duckdb.connect() as connection:
        for name, schema in _SCHEMAS.items():
            connection.register(f"empty_{name}", schema.empty_table())
            connection.execute(f"create table {name} as select * from empty_{name}")
        connection.execute(f"create table {MARKS} (uri varchar)")
        for sql in VIEWS:
            connection.execute(sql)
        for name, told in VIEW_ROWS.items():
            columns = [row[0] for row in connection.execute(f"describe {name}").fetchall()]
            own = [f"`{column}`: {VIEW_COLUMNS[column]}" for column in columns if column not in described]
            listed = ", ".join(f"`{column}`" for column in columns)
            parts.append(f"### {name}\n\n{told}\n\nColumns: {listed}.\n")
            if own:
                parts.append(f"New here: {'; '.join(own)}.\n")
    return parts


def _meaning(field: pa.Field) -> str:
    return (field.metadata or {}).get(b"description", b"").decode()


def _type(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"list of {_type(kind.value_type)}"
    if pa.types.is_struct(kind):
        return f"struct ({', '.join(field.name for field in kind)})"
    if pa.types.is_date(kind):
        return "date"
    return "timestamp (UTC)" if pa.types.is_timestamp(kind) else str(kind)


def _words(meanings: Mapping[str, str]) -> str:
    lines = [f"| `{word}` | {_cell(meaning)} |" for word, meaning in meanings.items()]
    return "\n".join(["| word | meaning |", "|---|---|", *lines, ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
