"""What `deephotlink detectors` prints: every installed detector, what is on record about it, and whether it can run.

There is one row per detector. JSON always has the same keys. The table has the few facts that fit on a screen. If a
detector is named, everything on record about it is printed.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from ...models import registry
from ...models.base import DetectorSpec
from ...models.embedded.files import card_path, embedded_file, gist
from ...models.extras import lacking
from ...models.weights.files import Weights, WeightsFile, combined_sha256
from ...transforms.failures import UsageError, WorldError, printable
from ...transforms.storage.downloads import NotFound, look
from ...transforms.storage.uris import is_remote, split_remote, without_signature
from ..terminal.printing import console as console_of
from ..terminal.printing import print_json
from ..terminal.tables import Column, print_table
from .cache import below, weights_folder
from .detector_choice import own_model

Row = dict[str, Any]
COLUMNS = ("name", "family", "unit", "weights", "licence", "sha256", "status")
_WHOLE = ("name", "family", "unit", "licence", "sha256")
_SPARE = ("unit", "weights", "sha256")
"""Columns that a narrow terminal leaves out: `deephotlink detectors NAME` prints them all."""
SECONDS_TO_ASK = 10.0
"""If a cache in the cloud does not answer in this time, the status is `unknown`: a list of detectors must not hang."""


def catalogue(names: Sequence[str] = (), weights_cache: str | None = None) -> list[Row]:
    """One row for each of `names`; by default for every installed detector and every detector that cannot be used.

    Raises:
        UsageError: there is no such detector, or the user's own file is not a model.
    """
    cache = weights_folder(weights_cache)
    own = {name: own_model(name, cache) for name in dict.fromkeys(names) if registry.adapter_of(name)}
    try:
        others = registry.specs([name for name in names if name not in own] if names else None)
    except registry.UnknownDetector as error:
        raise UsageError(str(error)) from error
    held = _held(
        cache, [f"{spec.name}/{file.file_name}" for spec in others for file in spec.weights if not _own(spec, file)]
    )
    shown = without_signature(split_remote(cache)[0]) if is_remote(cache) else cache
    rows = [_row(spec, _files(spec, shown, held), _status(spec, shown, held)) for spec in others]
    rows += [_row(spec, _own_files(weights), _status(spec, shown, {})) for spec, weights in own.values()]
    return rows if names else rows + [_broken_row(name, why) for name, why in sorted(registry.broken().items())]


def show(rows: Sequence[Row], as_json: bool = False, in_full: bool = False) -> None:
    """Prints the rows as one JSON array, as a table or, with `in_full`, with all facts about each."""
    if as_json:
        print_json(rows, indent=2)
        return
    console = console_of(140)
    if in_full:
        for row in rows:
            console.print(_record(row))
        return
    columns = [Column(name, whole=name in _WHOLE, spare=name in _SPARE) for name in COLUMNS]
    cells = [[row[name] if name != "sha256" else _short(row[name]) for name in COLUMNS] for row in rows]
    print_table(console, columns, cells)


def _record(row: Row) -> Table:
    """A table with two columns and one line per fact. Unknown facts are left out."""
    record = Table.grid(padding=(0, 2))
    record.add_column(no_wrap=True, style="bold")
    record.add_column(overflow="fold")
    for key, value in row.items():
        if key == "files":
            for file in value:
                facts = [file["url"], file["revision"], file["sha256"], _size(file["size_bytes"]), file["at"]]
                record.add_row(f"file {_cell(file['role'])}", _cell("\n".join(fact for fact in facts if fact)))
        elif key == "size_bytes":
            record.add_row("size", _size(value))
        elif value not in (None, "") and key not in ("url", "revision", "at"):
            shown = ", ".join(value) if isinstance(value, list) else value
            record.add_row(_cell(key.replace("_", " ")), _cell(shown))
    record.add_row("", "")
    return record


def _own(spec: DetectorSpec, file: WeightsFile) -> Path | None:
    """The path of a file that comes with the package; None if the file is pulled or is the user's own."""
    return embedded_file(file) if spec.origin == "embedded" else None


def _cell(value: object) -> str:
    """Text by others, made safe for a terminal: no control characters, no rich markup."""
    shown = {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value
    return "\n".join(escape(printable(line, 2000)) for line in str(shown).split("\n"))


def _short(sha256: str | None) -> str:
    return f"{sha256[:12]}..." if sha256 else "-"


def _size(size_bytes: int | None) -> str:
    return f"{size_bytes / 1e6:.3g} MB" if size_bytes else ""


def _files(spec: DetectorSpec, cache: str, held: Mapping[str, int] | None) -> list[Row]:
    """What is on record about each file, and where it is."""
    return [
        {
            "role": file.role,
            "file_name": file.file_name,
            "url": file.url or None,
            "revision": file.revision or None,
            "sha256": file.sha256 or None,
            "size_bytes": file.size_bytes or None,
            "at": _at(spec, file, cache, held),
        }
        for file in spec.weights
    ]


def _at(spec: DetectorSpec, file: WeightsFile, cache: str, held: Mapping[str, int] | None) -> str | None:
    if (own := _own(spec, file)) is not None:
        return str(own) if own.is_file() else None
    name = f"{spec.name}/{file.file_name}"
    return f"{cache}/{name}" if name in (held or {}) else None


def _own_files(weights: Weights) -> list[Row]:
    """The same for a model of the user's own, from its present files."""
    return [
        {
            "role": role,
            "file_name": Path(file.path).name,
            "url": None,
            "revision": None,
            "sha256": file.sha256,
            "size_bytes": file.size_bytes or None,
            "at": file.path,
        }
        for role, file in sorted(weights.files.items())
    ]


def _row(spec: DetectorSpec, files: Sequence[Row], status: str) -> Row:
    sizes = [file["size_bytes"] for file in files]

    def all_of(key: str) -> str | None:
        return ", ".join(file[key] for file in files if file[key]) or None

    card = card_path(spec.name) if spec.origin == "embedded" else None

    return {
        "name": spec.name,
        "family": spec.family,
        "unit": spec.unit,
        "status": status,
        "origin": spec.origin,
        "summary": spec.summary,
        "blind_to": spec.blind_to,
        "card": str(card) if card else None,
        "card_says": gist(spec.name) if card else None,
        "method": spec.method,
        "architecture": spec.architecture,
        "input": spec.input,
        "output": spec.output,
        "needs": sorted(spec.needs),
        "licence": spec.licence,
        "commercial_use": spec.commercial_use,
        "weights": all_of("file_name") or "none",
        "sha256": combined_sha256({file["role"]: file["sha256"] or "" for file in files}) or None,
        "size_bytes": sum(sizes) if sizes and all(sizes) else None,
        "url": all_of("url"),
        "revision": all_of("revision"),
        "at": all_of("at"),
        "files": list(files),
        "batch_size": spec.batch_size,
        "precision": spec.precision,
        "version": spec.version,
    }


def _broken_row(name: str, why: str) -> Row:
    """A row with the same keys for a detector that cannot be used: a broken one from another package, or one of ours
    whose weights are lost."""
    empty = dict.fromkeys(_row(DetectorSpec(name, "metadata", "media", frozenset(), "", ""), [], ""))
    said = {"name": name, "status": f"cannot be used: {why}", "origin": "third party", "needs": [], "files": []}
    if card_path(name) is not None:
        said |= {"origin": "embedded", "card": str(card_path(name))}
    return {**empty, **dict.fromkeys(COLUMNS, ""), **said}


def _status(spec: DetectorSpec, cache: str, held: Mapping[str, int] | None) -> str:
    """`ready`, or what must be done first."""
    if not all(_own(spec, file) for file in spec.weights) and held is None:
        return f"unknown: {cache} does not answer"
    if (lack := lacking("", spec.extra)) is not None:
        return f"not ready: {lack.partition(': ')[2]}"
    agree = "" if spec.commercial_use else f" --accept-licence {spec.name}"
    trust = "" if all(file.sha256 for file in spec.weights) else f" --allow-unpinned {spec.name}"
    for file in spec.weights if spec.origin != "yours" else ():
        if (own := _own(spec, file)) is not None:
            here = own.stat().st_size if own.is_file() else 0
            if here != file.size_bytes:
                return f"not ready: {own} has {here} bytes, expected {file.size_bytes}: install deephotlink again"
            continue
        size = (held or {}).get(f"{spec.name}/{file.file_name}")
        if size is None:
            return f"not ready: weights pull {spec.name}{trust}{agree}"
        if file.size_bytes and size and size != file.size_bytes:
            found = f"{file.file_name} has {size} bytes, expected {file.size_bytes}"
            return f"not ready: {found}: weights pull {spec.name}{trust}{agree}"
    return f"needs{agree}" if agree else "ready"


def _held(cache: str, names: Sequence[str]) -> dict[str, int] | None:
    """Size in bytes (0: unknown) of those files `detector/file_name` that are in the cache; None if the cache does not
    answer in time."""
    found: list[dict[str, int]] = []

    def ask() -> None:
        sizes = {}
        for name in names:
            try:
                sizes[name] = look(below(cache, name)).size_bytes
            except NotFound:
                continue
            except (UsageError, WorldError):  # the cache does not answer, or refuses us
                return
        found.append(sizes)

    if not is_remote(cache):
        ask()
    else:
        # A daemon thread, so that nothing waits for it: no fsspec file system promises a time-out.
        asking = threading.Thread(target=ask, daemon=True, name="weights cache")
        asking.start()
        asking.join(SECONDS_TO_ASK)
    return found[0] if found else None
