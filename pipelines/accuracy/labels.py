"""Labels: what is known about files (`labels.csv`), and which row of the tables each line is about."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...transforms.archives.csv_files import UNREADABLE, read_sheet, unpacked
from ...transforms.failures import UsageError, printable
from ...transforms.storage.retries import describe_error
from ...transforms.storage.uris import canonical_local, is_remote, local_path, split_remote

COLUMNS = ("uri", "media_id", "label", "group", "family", "generator")
_MOST_TOLD = 3
"""Most offending lines that an error names."""
_HOW = "expected a CSV file with the columns `uri` or `media_id`, and `label` (real or fake)"


@dataclass(frozen=True, slots=True)
class Label:
    """One line of the labels."""

    line: int
    """Number of the line in the file; the first is 1."""
    uri: str
    media_id: str
    fake: bool
    group: str
    """Media of one group are not independent evidence: cuts of one film, or one person. Empty: a group of its own."""
    family: str
    """Family of the forgery."""
    generator: str

    def says(self) -> tuple[bool, str, str, str]:
        return self.fake, self.group, self.family, self.generator


@dataclass(frozen=True, slots=True)
class Labels:
    path: str
    sha256: str
    """Hash of the file, hex."""
    rows: tuple[Label, ...]
    ignored: tuple[str, ...] = ()
    """Unknown columns."""


@dataclass(frozen=True, slots=True)
class Joined:
    pairs: tuple[tuple[Label, Mapping[str, Any]], ...]
    """Each label with its row, in the rows' order. No row appears twice."""
    unmatched: tuple[Label, ...]
    """Labels that fit no row."""
    unlabelled: int
    """Number of media that no label fits."""
    repeated: int = 0
    """Number of lines that repeat another line about the same file."""


@dataclass(frozen=True, slots=True)
class Lines:
    """A CSV file with a header."""

    sha256: str
    """Hash of the file, hex."""
    names: tuple[str, ...]
    """Names of the columns, in lower case."""
    rows: tuple[tuple[int, Mapping[str, str]], ...]
    """For each line its number in the file (the first is 1) and its fields by column, without spaces around them."""
    wrong: tuple[str, ...]
    """Messages about lines that have more fields than the header."""


def read_lines(path: str | Path, how: str) -> Lines:
    """Reads a CSV file in any form that `transforms/archives/csv_files.py` accepts.

    how: what was expected, for messages.

    Raises:
        UsageError: the file cannot be read, or is not CSV.
    """
    wrong: list[str] = []
    rows: list[tuple[int, Mapping[str, str]]] = []
    line = 0
    try:
        with open(path, "rb") as f, unpacked(f) as plain:
            sha256 = hashlib.file_digest(f, "sha256").hexdigest()
            f.seek(0)
            sheet = read_sheet(plain, COLUMNS)
            names = tuple(name.lower() for name in sheet.names)
            for row in sheet.rows:
                line = row.line
                if any(map(_is_no_text, row.fields)):
                    raise UsageError(
                        f"cannot read {path}: line {line} is not UTF-8, save the spreadsheet as `CSV UTF-8`"
                    )
                if problem := sheet.too_long(row):
                    wrong.append(problem)
                else:
                    rows.append((line, {n: value.strip() for n, value in zip(names, row.fields, strict=False)}))
    except UNREADABLE as e:
        raise UsageError(f"{path} is not valid CSV after line {line} ({describe_error(e)}): {how}") from e
    except (OSError, ValueError) as e:
        raise UsageError(f"cannot read {path} ({getattr(e, 'strerror', None) or e}): {how}") from e
    return Lines(sha256, names, tuple(rows), tuple(wrong))


def _is_no_text(field: str) -> bool:
    return not field.isascii() and any("\udc80" <= char <= "\udcff" for char in field)


def word_of(label: str) -> str:
    """A label in the form in which it is compared: `real`, `fake`, something else or empty. Empty never counts as
    `real`."""
    return label.strip().lower()


def read_labels(path: str | Path) -> Labels:
    """Reads labels from a CSV file that `read_lines` accepts.

    Raises:
        UsageError: the file cannot be read, lacks a required column, or has a line with unexpected content.
    """
    lines = read_lines(path, _HOW)
    _check_columns(lines.names, path)
    wrong = list(lines.wrong)
    labels = [_label(line, fields, wrong) for line, fields in lines.rows]
    if wrong:
        raise UsageError(f"{path}: {some_of(wrong)}; correct the file and run the command again")
    rows = tuple(label for label in labels if label is not None)
    if not rows:
        raise UsageError(f"{path} has a header but no data lines: {_HOW}, and a line for each file")
    ignored = tuple(name for name in lines.names if name and name not in COLUMNS)
    return Labels(str(path), lines.sha256, rows, ignored)


def join(labels: Labels, rows: Sequence[Mapping[str, Any]]) -> Joined:
    """Finds the row (`media_id`, `uri`, `run_id`) that each label is about.

    If a label has a `media_id`, its `uri` is not used. The `uri` may be the canonical URI, a path relative to the
    labels' folder, or the end of exactly one canonical URI after a `/`. If a file was audited in several versions, the
    newest run's row counts.

    Raises:
        UsageError: a `uri` fits several files, or two lines contradict each other about one file.
    """
    by_id = {row["media_id"]: place for place, row in enumerate(rows)}
    by_uri: dict[str, int] = {}
    for place, row in enumerate(rows):
        if row["uri"] not in by_uri or rows[by_uri[row["uri"]]]["run_id"] < row["run_id"]:
            by_uri[row["uri"]] = place
    by_name: dict[str, list[str]] = {}
    for uri in by_uri:
        by_name.setdefault(_name(uri), []).append(uri)
    found: dict[int, Label] = {}
    unmatched: list[Label] = []
    wrong: list[str] = []
    repeated = 0
    for label in labels.rows:
        index: int | None
        if label.media_id:
            index = by_id.get(label.media_id)
        else:
            uris = _uris_of(label.uri, labels.path, by_uri, by_name)
            if len(uris) > 1:
                examples = ", ".join(printable(uri, 120) for uri in sorted(uris)[:2])
                wrong.append(
                    f"line {label.line}: expected a uri that fits one file; {without_secrets(label)!r} fits "
                    f"{len(uris)} ({examples}, …): write more of it, or its media_id"
                )
                continue
            index = by_uri[uris[0]] if uris else None
        if index is None:
            unmatched.append(label)
        elif index not in found:
            found[index] = label
        elif found[index].says() == label.says():
            repeated += 1
        else:
            wrong.append(
                f"lines {found[index].line} and {label.line} contradict each other about one file "
                f"({printable(str(rows[index]['uri']), 120)}): keep the correct one"
            )
    if wrong:
        raise UsageError(f"{labels.path}: {some_of(wrong)}")
    newest = set(by_uri.values())
    return Joined(
        tuple((found[place], rows[place]) for place in sorted(found)),
        tuple(unmatched),
        len(newest - set(found)),
        repeated,
    )


def without_secrets(label: Label) -> str:
    """What a label is about, safe to print: its address without query, user and password."""
    return printable(split_remote(label.uri)[0] if is_remote(label.uri) else label.uri or label.media_id, 80)


def _check_columns(names: Sequence[str], path: str | Path) -> None:
    if "label" not in names or not {"uri", "media_id"} & set(names):
        found = ", ".join(printable(name, 40) or "''" for name in names[:12]) or "nothing"
        raise UsageError(f"line 1 of {path}: {_HOW}; optional are group, family, generator. Found: {found}")
    if twice := sorted({name for name in names if name in COLUMNS and names.count(name) > 1}):
        raise UsageError(f"line 1 of {path}: expected each column once, found {twice[0]} twice: remove one")


def _label(line: int, fields: Mapping[str, str], wrong: list[str]) -> Label | None:
    word = word_of(fields.get("label", ""))
    if word not in ("real", "fake"):
        wrong.append(f"line {line}: expected the label real or fake, found {printable(fields.get('label', ''), 40)!r}")
        return None
    uri, media_id = fields.get("uri", ""), fields.get("media_id", "").lower()
    if not uri and not media_id:
        wrong.append(f"line {line}: expected a uri or a media_id, found neither")
        return None
    rest = (fields.get(name, "") for name in ("group", "family", "generator"))
    return Label(line, uri, media_id, word == "fake", *rest)


def _uris_of(
    name: str, labels_path: str, by_uri: Mapping[str, int], by_name: Mapping[str, Sequence[str]]
) -> Sequence[str]:
    """The canonical URIs that a label's `uri` may mean: an exact match, else all that end with it."""
    if name in by_uri:
        return [name]
    if is_remote(name):
        whole = split_remote(name)[0]
    else:
        beside = os.path.join(os.path.dirname(os.path.abspath(labels_path)), name)
        whole = canonical_local(local_path(name if "://" in name else beside))
    if whole in by_uri:
        return [whole]
    end = "/" + name.removeprefix("./").lstrip("/")
    return [uri for uri in by_name.get(_name(end), ()) if uri.endswith(end)]


def _name(uri: str) -> str:
    return uri.rpartition("/")[2]


def some_of(messages: Sequence[str]) -> str:
    """The first few of `messages`, and how many more there are."""
    more = f"; and {len(messages) - _MOST_TOLD} more such lines" if len(messages) > _MOST_TOLD else ""
    return "; ".join(messages[:_MOST_TOLD]) + more
