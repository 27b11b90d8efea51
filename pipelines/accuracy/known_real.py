"""Files that the user knows to be real: finding them in an output, and marking them there.

    OUT/_calibration/known_real.parquet   the URIs of the files that `audit --real` was given
    OUT/_calibration/calibration.json     the calibration that it made of them

Marked files are in the tables like all others. The view `known_real` has them, and the closing tables and the page
leave them out, because they are not part of the archive's answer.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from ...models.calibration.bounds import groups_needed
from ...models.calibration.fitting import MIN_GROUPS
from ...transforms.archives.folders import shown_source
from ...transforms.archives.members import ShardLimits
from ...transforms.failures import UsageError, printable
from ...transforms.listing import ListingOptions, list_sources
from ...transforms.storage.output_names import KNOWN_REAL
from ...transforms.storage.output_store import OutputStore
from ...transforms.tables.schema import to_parquet
from ..terminal.wording import counted, shell_word

_IN_OUTPUT = """
select l.listed, coalesce(i.uri, u.uri), coalesce(i.outcome, u.outcome)
from listed_as_real l left join files i on i.media_id = l.media_id left join files u on u.uri = l.listed order by l.n"""


@dataclass(frozen=True, slots=True)
class RealFiles:
    """The files of some sources, as an output has them."""

    sources: tuple[str, ...]
    """As they are printed: without secrets."""
    uris: frozenset[str]
    """URIs of the rows, whatever their outcome."""
    scored: int
    failed: int
    skipped: int

    def in_words(self) -> str:
        return ", ".join(self.sources)


def options_for(out: str, identity: str = "version", limits: ShardLimits | None = None) -> ListingOptions:
    """How sources of real files are listed: as the audit into `out` lists them."""
    return ListingOptions((out,), "content" if identity == "content" else "version", limits or ShardLimits())


def find_real(
    tables: duckdb.DuckDBPyConnection, sources: Sequence[str], out: str, options: ListingOptions
) -> RealFiles:
    """Lists the sources and finds their files in the output: by `media_id`, else by URI.

    Raises:
        UsageError: a source cannot be listed, or files in it are not in the output.
        NothingFound: the sources hold nothing. WorldError: a store does not answer.
    """
    listed = [(planned.file.media_id, planned.file.uri) for planned in list_sources(sources, options)]
    named = {"n": range(len(listed)), "media_id": [one[0] for one in listed], "listed": [one[1] for one in listed]}
    tables.register("listed_as_real", pa.table(named))
    rows = tables.execute(_IN_OUTPUT).fetchall()
    found = {uri: outcome for _, uri, outcome in rows if uri is not None}
    absent = list(dict.fromkeys(name for name, uri, _ in rows if uri is None))
    shown = tuple(shown_source(source) for source in sources)
    if absent:
        words = " ".join(shell_word(source) for source in shown)
        raise UsageError(
            f"{counted(len(absent), 'file')} of {', '.join(shown)} {'is' if len(absent) == 1 else 'are'} not in "
            f"{printable(out)} ({printable(absent[0], 200)}{', …' if len(absent) > 1 else ''}): audit first, "
            f"deephotlink audit {words} --output {shell_word(out)}"
        )
    outcomes = list(found.values())
    counts = {name: outcomes.count(name) for name in ("scored", "failed", "skipped")}
    return RealFiles(shown, frozenset(found), **counts)


def least_files(sources: Sequence[str], options: ListingOptions, rate: float) -> int:
    """How many files the sources hold that may turn out to be media. Checked before an audit begins, so that nobody
    waits for one that cannot be calibrated.

    Raises:
        UsageError: they hold fewer than any calibration takes, or cannot be listed. NothingFound: they hold nothing.
        WorldError: a store does not answer.
    """
    count = sum(planned.outcome is None for planned in list_sources(sources, options))
    if count < MIN_GROUPS:
        shown = ", ".join(shown_source(source) for source in sources)
        raise UsageError(f"{shown} {'holds' if len(sources) == 1 else 'hold'} {counted(count, 'file')}: {needed(rate)}")
    return count


def needed(rate: float) -> str:
    """How many real files a calibration takes."""
    return (
        f"a calibration needs at least {MIN_GROUPS} real files that a detector can judge, and {groups_needed(rate)} "
        f"from as many sources to prove a false-positive rate of {rate:.0%}"
    )


def mark(store: OutputStore, uris: Collection[str]) -> None:
    """Marks these files as known to be real, and no others."""
    data = to_parquet(pa.table({"uri": pa.array(sorted(uris), pa.string())}))
    if not (store.exists(KNOWN_REAL) and store.read(KNOWN_REAL) == data):
        store.replace(KNOWN_REAL, data)
