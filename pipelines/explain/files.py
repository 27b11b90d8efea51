"""Which audited file a person means: by URI, path, media_id, or the end of its name."""

from __future__ import annotations

import re
from collections.abc import Sequence

import duckdb

from ...transforms.failures import UsageError, printable
from ...transforms.storage.uris import (
    canonical_local,
    escape,
    escaped,
    is_remote,
    local_path,
    split_remote,
    without_signature,
)
from ..terminal.wording import told_apart

MOST_NAMED = 5
LONGEST_NAMED = 140
LEAST_LIKENESS = 0.6
"""Of two names, by Jaro-Winkler: 1 is the same, and names that share nothing have less than 0.5."""
_ID = re.compile(r"[0-9a-f]{64}")
_MEMBER = re.compile(r"(?P<member>.+) in (?P<shard>.+)", re.DOTALL)
_PLACES = r"""
create or replace temp table places as
select media_id, uri, regexp_matches(uri, '^(tar|zip)://.*::') as is_member,
       regexp_extract(uri, '^(?:tar|zip)://(.*)::', 1) as member,
       case when is_member then regexp_extract(uri, '::([^:]|:[^:])*$', 0)[3:] else uri end as place
from files"""
"""A row for each file. `member`: of a member of a shard, its name there; `place`: the file or the shard itself."""
_NEAREST = """
select uri from (
    select uri, lower(regexp_extract(case when is_member then member else uri end, '[^/]*$')) as name,
           contains(name, lower(?)) as holds_it, jaro_winkler_similarity(lower(?), name) as likeness
    from places
) where holds_it or likeness >= ? order by holds_it desc, likeness desc, uri limit ?"""
"""Names that hold what was given come first: people type the part that they remember."""


def find_media_id(tables: duckdb.DuckDBPyConnection, given: str) -> str:
    """The media_id of the one file that `given` names. tables: from `query.connect`.

    Raises:
        UsageError: no file has this name, or several have; the message lists the nearest.
    """
    if not given.strip():
        raise UsageError("expected a FILE: a URI, a path, a media_id or the end of a name; got an empty one")
    tables.execute(_PLACES)
    for condition, values in _ways(given):
        first = tables.execute(
            f"select uri, media_id, count(*) over () as total, min(uri) over () = max(uri) over () as one_uri "
            f"from places where {condition} order by 1, 2 limit {MOST_NAMED}",
            values,
        ).fetchall()
        if len(first) == 1:
            return str(first[0][1])
        if first:
            raise UsageError(_several(given, [(uri, media_id) for uri, media_id, *_ in first], *first[0][2:]))
    raise UsageError(_none(tables, given))


def _ways(given: str) -> list[tuple[str, list[str]]]:
    """Conditions of SQL with their values, the strictest first."""
    ways: list[tuple[str, list[str]]] = []
    if _ID.fullmatch(given.strip().lower()):
        ways.append(("media_id = ?", [given.strip().lower()]))
    if is_remote(given):
        plain = split_remote(given)[0]
        whole = [escape(plain), escape(without_signature(plain))]
    else:
        whole = [canonical_local(local_path(given))]
    # As the tables spell it, for example a member `tar://NAME::SHARD`.
    for uri in dict.fromkeys([escaped(given), *whole]):
        ways.append(("uri = ?", [uri]))
    # A name may be typed as it is, or copied from a table, where hidden characters are escaped.
    for name in dict.fromkeys([escaped(given), escape(given)]):
        name = name.removeprefix("./")
        for slash in ("/", ""):
            end = f"{slash}{name}"
            ways.append(
                ("ends_with(concat('/', uri), ?) or (is_member and ends_with(concat('/', member), ?))", [end] * 2)
            )
            if found := _MEMBER.fullmatch(name):
                both = "is_member and ends_with(concat('/', member), ?) and ends_with(concat('/', place), ?)"
                ways.append((both, [f"{slash}{found['member']}", f"{slash}{found['shard']}"]))
    return ways


def _several(given: str, first: Sequence[tuple[str, str]], total: int, one_uri: bool) -> str:
    if one_uri:
        # For example versions of one web address that differ in their query, which no table holds.
        ids = _listed([media_id for _, media_id in first], total)
        return f"{total} audited files have the URI {_shown(first[0][0])}: give a media_id: {ids}"
    names = told_apart([uri for uri, _ in first], LONGEST_NAMED)[1]
    return (
        f"the names of {total} audited files end in {_shown(given)}: {_listed(names, total)}; give more of the name, "
        "or the media_id"
    )


def _none(tables: duckdb.DuckDBPyConnection, given: str) -> str:
    last = escaped(given).rstrip("/").rpartition("/")[2] or escaped(given)
    nearest = tables.execute(_NEAREST, [last, last, LEAST_LIKENESS, MOST_NAMED]).fetchall()
    said = f"no audited file is called {_shown(given)}"
    if not nearest:
        return f"{said}, and none has a name like it: expected a URI, a path, a media_id or the end of a name"
    names = told_apart([uri for (uri,) in nearest], LONGEST_NAMED)[1]
    return f"{said}; the nearest: {', '.join(names)}"


def _listed(names: Sequence[str], total: int) -> str:
    more = total - len(names)
    return f"{', '.join(names)}{f' and {more} more' if more > 0 else ''}"


def _shown(text: str) -> str:
    return f"'{printable(escape(text), LONGEST_NAMED)}'"
