"""The rows of the public tables as Beam rows: for each table a NamedTuple with a schema, made from the table's columns.

They have the columns of an audit's tables, in their order and with their types, except `fields.ONLY_OF_RUNS`. Times are
text (RFC 3339, UTC), because Beam's Parquet writer knows no timestamps.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any, NamedTuple, Optional, cast

import numpy as np
import pyarrow as pa
from apache_beam import coders

from ..records import MediaResult
from .fields import ONLY_OF_RUNS
from .public_files import public_schema
from .runs import Run
from .schema import TABLES, explode_unit_tables, unit_table

_PYTHON: Mapping[pa.DataType, type] = {
    pa.string(): str,
    pa.bool_(): bool,
    pa.int32(): np.int32,
    pa.int64(): int,
    pa.float32(): np.float32,
    pa.float64(): float,
    pa.binary(): bytes,
}
_BIGQUERY: Mapping[pa.DataType, str] = {
    pa.string(): "STRING",
    pa.bool_(): "BOOLEAN",
    pa.int32(): "INTEGER",
    pa.int64(): "INTEGER",
    pa.float32(): "FLOAT",
    pa.float64(): "FLOAT",
    pa.binary(): "BYTES",
}
COLUMNS: Mapping[str, tuple[pa.Field, ...]] = {
    name: tuple(column for column in public_schema(schema) if column.name not in ONLY_OF_RUNS)
    for name, schema in TABLES.items()
}
"""By table, the columns of its rows."""


def _row_type(name: str, columns: Sequence[pa.Field]) -> Any:
    """A NamedTuple with a Beam schema. Its docstring has a line for each column."""
    types = [(column.name, _type_of(f"{name}_{column.name}", column)) for column in columns]
    made: Any = cast(Any, NamedTuple)(name, types)
    made.__module__ = __name__
    meanings = {column.name: _meaning(column) for column in columns}
    made.__doc__ = "\n".join([f"{name}: a row of a table.", "", *(f"{key}: {text}" for key, text in meanings.items())])
    made._field_descriptions = meanings  # Beam puts them into the schema
    coders.registry.register_coder(made, coders.RowCoder)
    globals()[name] = made  # where pickle looks for it
    return made


def _type_of(name: str, column: pa.Field) -> Any:
    kind = column.type
    found: Any
    if pa.types.is_struct(kind):
        found = _row_type(name, list(kind))
    elif pa.types.is_list(kind):
        item: Any = _type_of(name, kind.value_field.with_nullable(False))
        found = Sequence[item]
    else:
        found = str if pa.types.is_timestamp(kind) else _PYTHON[kind]
    return Optional[found] if column.nullable else found  # noqa: UP045 - Beam looks for a typing.Optional


def _meaning(column: pa.Field) -> str:
    words = {key.decode(): value.decode() for key, value in (column.metadata or {}).items()}
    told = [words.get("description", "")]
    told += [words[key] for key in ("unit", "polarity") if words.get(key, "none") != "none"]
    return "; ".join(told)


ScoreRow = _row_type("ScoreRow", COLUMNS["scores"])
EvidenceRow = _row_type("EvidenceRow", COLUMNS["evidence"])
EvidenceFrameRow = _row_type("EvidenceFrameRow", COLUMNS["evidence_frames"])
FailureRow = _row_type("FailureRow", COLUMNS["failures"])
SkippedRow = _row_type("SkippedRow", COLUMNS["skipped"])
ROW_TYPES: Mapping[str, Any] = {
    "scores": ScoreRow,
    "evidence": EvidenceRow,
    "evidence_frames": EvidenceFrameRow,
    "failures": FailureRow,
    "skipped": SkippedRow,
}
"""By table, the type of its rows."""


def rows_of(result: MediaResult, fingerprint: str, made_at: datetime | None = None) -> dict[str, list[Any]]:
    """By table, the rows about one file, the same as an audit writes. Exactly one of `scores`, `failures` and `skipped`
    has a row."""
    run = Run("", date.min, "", 0, fingerprint, planned=1, units=1)
    tables = explode_unit_tables([unit_table([result], run, made_at or datetime.now(UTC))], run)
    return {
        name: [_row(ROW_TYPES[name], COLUMNS[name], row) for row in table.to_pylist()] for name, table in tables.items()
    }


def _row(kind: Any, columns: Sequence[pa.Field], values: Mapping[str, Any]) -> Any:
    return kind(*(_value(f"{kind.__name__}_{column.name}", column.type, values[column.name]) for column in columns))


def _value(name: str, kind: pa.DataType, value: Any) -> Any:
    if value is None:
        return None
    if pa.types.is_struct(kind):
        return _row(globals()[name], list(kind), value)
    if pa.types.is_list(kind):
        return [_value(name, kind.value_type, one) for one in value]
    if pa.types.is_timestamp(kind):
        return value.isoformat(timespec="microseconds").replace("+00:00", "Z")
    return value


def as_dict(row: Any) -> dict[str, Any]:
    """A row, and all rows in it, as dicts of values that JSON has: for `WriteToBigQuery` and the like. Bytes become
    base64, as BigQuery expects them."""
    return {name: _plain(value) for name, value in zip(row._fields, row, strict=True)}


def _plain(value: Any) -> Any:
    if hasattr(value, "_fields"):
        return as_dict(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value


def bigquery_schema(table: str) -> dict[str, list[dict[str, Any]]]:
    """The schema of a table for `WriteToBigQuery`, with what its columns mean. table: a name in `ROW_TYPES`."""
    return {"fields": list(_bigquery_fields(COLUMNS[table]))}


def _bigquery_fields(columns: Sequence[pa.Field]) -> Iterator[dict[str, Any]]:
    for column in columns:
        repeated = pa.types.is_list(column.type)
        kind = column.type.value_type if repeated else column.type
        field: dict[str, Any] = {"name": column.name, "mode": "NULLABLE" if column.nullable else "REQUIRED"}
        if repeated:
            field["mode"] = "REPEATED"
        if pa.types.is_struct(kind):
            field |= {"type": "RECORD", "fields": list(_bigquery_fields(list(kind)))}
        else:
            field["type"] = "TIMESTAMP" if pa.types.is_timestamp(kind) else _BIGQUERY[kind]
        if meaning := _meaning(column):
            field["description"] = meaning
        yield field
