"""Walks over folders and stores: everything below a place, in the order of the names, or what a pattern matches."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any, TypeVar
from urllib.parse import unquote

from fsspec.utils import glob_translate

from .clients import Client
from .failures import UsageError, WorldError, printable
from .retries import LISTING, READING, retried
from .sources import Found, found_remote, look_local, look_remote
from .store import PAGE, holds_runs
from .tables import TABLES
from .uris import SCHEME, canonical_local, escape, is_remote, local_path, redact, split_remote

A = TypeVar("A")
B = TypeVar("B")
Excluded = Callable[[str], bool]
"""Whether a canonical URI is to be left out, with all below it."""
MAGIC = re.compile(r"[*?\[]")
_LOOKUPS = 16
"""Requests under way at a time."""
_NO_MATCH = "no file matches (folders do not count: `**` matches what lies in them)"


def walk_local(root: bytes, excluded: Excluded) -> Iterator[Found]:
    """Every entry below a folder that is no folder, in the order of the names. Linked folders are not entered."""
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                names = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
        except FileNotFoundError:
            continue  # it went while we looked
        except PermissionError:
            yield replace(look_local(folder), trouble="unreadable")
            continue
        except OSError as error:
            raise WorldError(f"cannot list {canonical_local(folder)}: {error.strerror}") from None
        inner = []
        for name, is_folder in names:
            path = os.path.join(folder, name)
            if excluded(canonical_local(path)):
                continue
            if is_folder:
                inner.append(path)
            elif (found := look_local(path)).trouble != "missing":
                yield found
        folders += reversed(inner)


def glob_local(source: str, excluded: Excluded) -> Iterator[Found]:
    """Files that match; `**` goes into folders."""
    parts = os.fsdecode(local_path(MAGIC.split(source)[0] + "x")).split("/")[:-1]
    root = "/".join(parts) or "/"
    base = re.sub(r"^file://(localhost)?", "", source)
    pattern = base if os.path.isabs(base) else os.path.join(glob.escape(os.getcwd()), os.path.expanduser(base))
    matches = _matcher(os.path.normpath(pattern), source)
    if not os.path.isdir(root):
        raise UsageError(f"{shown_source(source)}: no such file or folder")
    none = True
    for found in walk_local(os.fsencode(root), excluded):
        if matches(os.fsdecode(found.identity)):
            none = False
            yield found
    if none:
        raise UsageError(f"{shown_source(source)}: {_NO_MATCH}")


def walk_remote(source: str, pattern: bool, excluded: Excluded) -> Iterator[Found]:
    client = Client(source)
    path, what = client.path, f"list {shown_source(source)}"
    client.fs.invalidate_cache()
    root = path
    if pattern:
        root = MAGIC.split(path)[0].rpartition("/")[0] or client.fs.root_marker
    matches = _matcher(path, source) if pattern else None
    # names in the store have no scheme and, in some, no host: they are put behind the address of the root
    address = MAGIC.split(source)[0].rpartition("/")[0] if pattern else source.rstrip("/")
    if address.endswith(":/"):
        address += "/"
    folders, none, patience = [root], True, LISTING
    seen = {split_remote(source)[0].rstrip("/")}  # folders: web pages link to themselves, sorted another way
    while folders:
        folder = folders.pop()
        try:
            listed = retried(what, partial(client.ask, "ls", folder, detail=True), patience, renew=client.renew)
        except FileNotFoundError:
            if folder == root and not pattern:
                raise UsageError(f"{shown_source(source)}: no such file or folder") from None
            continue
        patience = READING
        client.fs.invalidate_cache()  # millions of entries need not be remembered
        inner = []
        for info in sorted(listed, key=lambda info: info["name"]):
            name = info["name"]
            if not name.startswith(root.rstrip("/") + "/"):
                continue  # the folder itself, or a link on a web page that leads elsewhere
            if "://" in name and leads_up(name):
                continue
            # http gives whole URLs; the others a path in the store, that of the root among them
            below = name if "://" in name else f"{address}/{name[len(root.rstrip('/')) :].lstrip('/')}"
            shown = split_remote(below)[0]
            if excluded(escape(shown)) or shown.rstrip("/") in seen:
                continue
            if info["type"] == "directory":
                inner.append(name)
                seen.add(shown.rstrip("/"))
            elif (info.get("size") or not name.endswith("/")) and (matches is None or matches(name)):
                none = False
                # http lists names only
                yield (
                    found_remote(below, info)
                    if info.get("size") is not None
                    else look_remote(below, READING, one_of_many=True)
                )
        folders += reversed(inner)
    if none and pattern:
        raise UsageError(f"{shown_source(source)}: {_NO_MATCH}")


def leads_up(name: str) -> bool:
    """Whether a URL leaves by `..` the folder that it seems to lie in."""
    return ".." in unquote(name).split("/")


def _matcher(pattern: str, source: str) -> Callable[[str], Any]:
    try:
        return re.compile(glob_translate(pattern)).match
    except (ValueError, re.error) as error:
        raise UsageError(f"{shown_source(source)}: no valid pattern ({error})") from None


def excluding(outputs: Sequence[str]) -> Excluded:
    """Tells what is ours in these outputs: the tables, the runs and the page, but no file of the user's beside them.

    `_runs` and `_resume` are ours at any rate; the other names only where a run has been, for a user's archive may have
    a folder `scores` too.
    """
    roots = []
    for place in outputs:
        # as it is named and as it lies: the source may come by either way
        paths = [local_path(place)] if not is_remote(place) else []
        names = [canonical_local(p) for path in paths for p in (path, os.path.realpath(path))]
        ours = ("_runs", "_resume", *((*TABLES, PAGE) if holds_runs(place) else ()))
        for root in names or [escape(split_remote(place)[0])]:
            roots += [f"{root.rstrip('/')}/{name}" for name in ours]
    return lambda uri: any(uri == root or uri.startswith(root + "/") for root in roots)


def in_order(look: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
    """`map`, some requests at a time where items are remote."""
    iterator = iter(items)
    with ThreadPoolExecutor(_LOOKUPS, "listing") as threads:
        while batch := list(islice(iterator, _LOOKUPS * 8)):
            if any(_waits(item) for item in batch):
                yield from threads.map(look, batch)
            else:
                yield from map(look, batch)


def _waits(item: Any) -> bool:
    return is_remote(item.uri if isinstance(item, Found) else item)


def shown_source(source: str) -> str:
    return printable(redact(source) if SCHEME.match(source) else source, limit=1000)
