"""`evidence.detail`: always a JSON object, in bounded length. A sentence becomes its `note`."""

from __future__ import annotations

import json
import math
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ..failures import printable

MAX_DETAIL = 4000
"""The most characters of a detail."""
JSON_SINCE = 3
"""The schema version since which every detail is JSON."""


def json_detail(detail: str, limit: int = MAX_DETAIL) -> str:
    """`detail` as a JSON object in printable characters, at most `limit` of them (and at least `{"cut": true}`).

    Text that is not a JSON object becomes `{"note": text}`, cut at its end. An object that is too long loses its
    lightest `rules`, which come last, then its longest values, and gets `"cut": true`. NaN and infinities become null,
    because JSON has none.

    >>> json_detail("too quiet to judge")
    '{"note": "too quiet to judge"}'
    >>> json_detail('{"rules": [{"rule": "a"}, {"rule": "b"}]}', 40)
    '{"rules": [{"rule": "a"}], "cut": true}'
    """
    try:
        record = json.loads(detail, parse_constant=lambda _: None, parse_float=_finite)
        text = _dumped(record)
    except (ValueError, RecursionError):
        return _note(detail, limit)
    if not isinstance(record, dict):
        return _note(detail, limit)
    if len(text) <= limit:
        return text
    rules = record.get("rules")
    record["cut"] = True
    if isinstance(rules, list):
        rest = len(_dumped({**record, "rules": []}))
        kept = 0
        for rule in rules:
            rest += len(_dumped(rule)) + 2  # its comma and blank
            if rest - 2 > limit:
                break
            kept += 1
        record["rules"] = rules[:kept]
    while len(text := _dumped(record)) > limit and len(record) > 1:
        del record[max((name for name in record if name != "cut"), key=lambda name: len(_dumped(record[name])))]
    return text


def with_json_details(unit: pa.Table) -> pa.Table:
    """The unit, by `schema.UNIT`, with JSON in all details. Units of earlier versions may hold sentences there."""
    version = (unit.schema.metadata or {}).get(b"deephotlink.schema_version", b"0")
    if not unit.num_rows or (version.isdigit() and int(version) >= JSON_SINCE):
        return unit
    lists = unit["evidence"].combine_chunks()
    items = pc.list_flatten(lists)
    names = [field.name for field in items.type]
    columns = dict(zip(names, items.flatten(), strict=True))
    told = [None if text is None else json_detail(text) for text in columns["detail"].to_pylist()]
    columns["detail"] = pa.array(told, columns["detail"].type)
    items = pa.StructArray.from_arrays(list(columns.values()), fields=list(items.type))
    lengths = pc.fill_null(pc.list_value_length(lists), 0)
    offsets = pa.array([0, *pc.cumulative_sum(lengths).to_pylist()], pa.int32())
    made = pa.ListArray.from_arrays(offsets, items, type=lists.type)
    return unit.set_column(unit.column_names.index("evidence"), unit.schema.field("evidence"), made)


def _note(text: str, limit: int) -> str:
    length = limit
    while len(note := _dumped({"note": printable(text, length)})) > limit and length > 1:
        length = max(1, min(length - 1, length * limit // len(note)))
    return note


def _finite(digits: str) -> float | None:
    return number if math.isfinite(number := float(digits)) else None


def _dumped(record: Any) -> str:
    """JSON in which characters that `printable` would change are written as JSON escapes. Half a pair of surrogates,
    which most readers refuse, becomes U+FFFD."""
    text = json.dumps(record, ensure_ascii=False)
    if text.isprintable():
        return text
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)
