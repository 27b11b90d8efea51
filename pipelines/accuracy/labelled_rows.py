"""Which rows of an output a calibration is made from, what is known about each, and which of them are copies."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from ...transforms.failures import UsageError, printable
from .known_real import RealFiles
from .labels import Label, Labels, join, read_labels

Row = Mapping[str, Any]
Pair = tuple[Label, Row]


def labelled(
    rows: Sequence[Row], labels: str | None, real: RealFiles | None = None
) -> tuple[list[Pair], dict[str, Any]]:
    """Each labelled row with its label, and what the calibration file records about the labels.

    Without labels, the rows of `real` are real, and all rows if that is None. Labels beside `real` may name groups of
    its files, and label others. They must not call any of its files fake.

    Raises:
        UsageError: the labels do not fit any row, or contradict `real`.
    """
    if real is None and labels is None:
        return [(_real(row), row) for row in rows], {"file": None, "sha256": None, "all_taken_for_real": True}
    own = [row for row in rows if real is not None and row["uri"] in real.uris]
    told: dict[str, Any] = {"file": None, "sha256": None}
    if real is not None:
        told |= {"all_taken_for_real": False, "real_sources": list(real.sources)}
        if not own:
            raise UsageError(
                f"no file of {real.in_words()} has a score: {real.failed} could not be read, {real.skipped} skipped"
            )
    if labels is None:
        return [(_real(row), row) for row in own], told
    read = read_labels(labels)
    joined = join(read, rows)
    if not joined.pairs:
        raise UsageError(f"no label of {labels} fits a scored file of this output: compare their `uri`")
    told |= {
        "file": printable(os.path.basename(read.path)),
        "sha256": read.sha256,
        "labels_without_score": len(joined.unmatched),
        "media_without_label": joined.unlabelled,
    }
    return _with_real(joined.pairs, own, read, real), told


def _with_real(pairs: Sequence[Pair], own: Sequence[Row], labels: Labels, real: RealFiles | None) -> list[Pair]:
    """The labelled rows, and those that are known to be real and have no label."""
    known = {row["media_id"] for row in own}
    for label, row in pairs:
        if label.fake and row["media_id"] in known and real is not None:
            raise UsageError(
                f"line {label.line} of {labels.path} calls a file of {real.in_words()} fake "
                f"({printable(row['uri'], 200)}): remove it from one of them"
            )
    have = {row["media_id"] for _, row in pairs}
    return [*pairs, *((_real(row), row) for row in own if row["media_id"] not in have)]


def _real(row: Row) -> Label:
    """The label of a file that is taken as real."""
    return Label(0, row["uri"], row["media_id"], False, "", "", "")


def copies(sizes: Sequence[int], evidence: pa.Table) -> dict[int, int]:
    """By place of a file that is a copy of another: the place of the first of them.

    Files are copies if they have the same size, and every detector says the same about them at the same times. sizes:
    in bytes, by place. evidence: its column `media` has the places.
    """
    columns = (evidence[name].to_pylist() for name in ("media", "detector", "start_seconds", "logit"))
    said: dict[int, list[tuple[Any, ...]]] = defaultdict(list)
    for place, *answer in zip(*columns, strict=True):
        said[place].append(tuple(answer))
    first: dict[tuple[Any, ...], int] = {}
    found = {place: first.setdefault((sizes[place], *said[place]), place) for place in sorted(said)}
    return {place: other for place, other in found.items() if place != other}
