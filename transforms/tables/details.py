"""`evidence.detail` in bounded length. JSON stays JSON, whatever has to be left out."""

from __future__ import annotations

import json
from typing import Any

from ..failures import printable

MAX_DETAIL = 4000
"""The most characters of a detail."""


def cut_detail(detail: str, limit: int = MAX_DETAIL) -> str:
    """`detail` in printable characters, at most `limit` of them (and at least `{"cut": true}`).

    A JSON object loses its lightest `rules`, which come last, then its longest values, and gets `"cut": true`. All
    other text is cut at its end.

    >>> cut_detail('{"rules": [{"rule": "a"}, {"rule": "b"}]}', 40)
    '{"rules": [{"rule": "a"}], "cut": true}'
    """
    if not detail.startswith("{"):
        return printable(detail, limit)
    try:
        record = json.loads(detail)
    except (ValueError, RecursionError):
        return printable(detail, limit)
    if len(detail) <= limit and detail.isprintable():
        return detail
    text = _dumped(record)
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


def _dumped(record: Any) -> str:
    """JSON in which characters that `printable` would change are written as JSON escapes."""
    text = json.dumps(record, ensure_ascii=False)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)
