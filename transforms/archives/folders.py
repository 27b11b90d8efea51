"""Walks over folders and stores: everything below a place, ordered by name, or what a pattern matches."""

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

from ..failures import UsageError, WorldError, printable
from ..storage.buckets import Entry
from ..storage.clients import Client
from ..storage.output_names import ICEBERG, OLD_PAGE, PAGE, TABLE_FOLDERS, VIEWS_FILE
from ..storage.output_store import holds_runs
from ..storage.ranges import links_of
from ..storage.retries import LISTING, READING, retried
from ..storage.sources import Found, found_object, found_remote, look_local, look_remote
from ..storage.uris import (
    SCHEME,
    canonical_local,
    escape,
    is_remote,
    local_path,
    redact,
    scheme_of,
    split_remote,
    unescape,
)

A = TypeVar("A")
B = TypeVar("B")
Excluded = Callable[[str], bool]
"""Whether to leave out a canonical URI, with everything below it."""
MAGIC = re.compile(r"[*?\[]")
_SORTED = 1 << 16
_LOOKUPS = 16
"""Requests in flight at the same time."""
_NO_MATCH = "no file matches (folders do not count: `**` matches the files in them)"


def walk_local(root: bytes, excluded: Excluded) -> Iterator[Found]:
    """Every entry below a folder, except folders. Linked folders are not entered. Entries are ordered by name, except
    in folders of more than `_SORTED` entries, which are never held in memory whole."""
    folders = [root]
    while folders:
        folder = folders.pop()
        inner: list[bytes] = []
        try:
            with os.scandir(folder) as entries:
                while part := sorted((e.name, e.is_dir(follow_symlinks=False)) for e in islice(entries, _SORTED)):
                    for name, is_folder in part:
                        path = os.path.join(folder, name)
                        if excluded(canonical_local(path)):
                            continue
                        if is_folder:
                            inner.append(path)
                        elif (found := look_local(path)).trouble != "missing":
                            yield found
        except FileNotFoundError:
            continue  # it was removed while we looked
        except PermissionError:
            yield replace(look_local(folder), trouble="unreadable")
            continue
        except OSError as error:
            raise WorldError(f"cannot list {canonical_local(folder)}: {error.strerror}") from None
        folders += reversed(inner)


def glob_local(source: str, excluded: Excluded) -> Iterator[Found]:
    """Files that match the pattern; `**` matches through folders."""
    base = re.sub(r"^file://(localhost)?", "", source)
    pattern = base if os.path.isabs(base) else os.path.join(glob.escape(os.getcwd()), os.path.expanduser(base))
    folder = _folder_before_star(pattern)
    if MAGIC.search(folder) and os.path.isdir(folder):  # `show [2020]/*.mp4`, and a folder has that very name
        pattern = glob.escape(folder) + pattern[len(folder) :]
        root = folder.rstrip("/")
    else:
        root = "/".join(os.fsdecode(local_path(MAGIC.split(source)[0] + "x")).split("/")[:-1])
    matches = _matcher(os.path.normpath(pattern), source)
    if not os.path.isdir(root or "/"):
        raise UsageError(f"{shown_source(source)}: no such file or folder")
    none = True
    for found in walk_local(os.fsencode(root or "/"), excluded):
        if matches(os.fsdecode(found.identity)):
            none = False
            yield found
    if none:
        raise UsageError(f"{shown_source(source)}: {_NO_MATCH}")


def _folder_before_star(pattern: str) -> str:
    """The part of a pattern, with its slash, that may be a folder's own name in spite of brackets or question marks."""
    until = pattern.find("*") if "*" in pattern else len(pattern)
    return pattern[: pattern.rfind("/", 0, until) + 1]


def walk_remote(source: str, pattern: bool, excluded: Excluded) -> Iterator[Found]:
    """Every file below a folder of a store, or every file that matches a pattern.

    Raises:
        UsageError: there is no such folder, or nothing matches.
        WorldError
    """
    client = Client(source)
    if client.objects is not None:
        walk = _walk_objects(client, source, pattern)
    elif is_web(split_remote(source)[0]):
        walk = _walk_pages(client, source, pattern, excluded)
    else:
        walk = _walk_folders(client, source, pattern, excluded)
    none = True
    for found in walk:
        if not excluded(found.uri):
            none = False
            yield found
    if none and pattern:
        raise UsageError(f"{shown_source(source)}: {_NO_MATCH}")


def _walk_objects(client: Client, source: str, pattern: bool) -> Iterator[Found]:
    """Every object on the pages of the store's listing, in their order. Nothing in between drops a key."""
    objects = client.objects
    assert objects is not None
    if not objects.has_bucket:
        for name in _buckets(client, source):
            inner = f"{scheme_of(source)}://{name}/{objects.key}"
            yield from _walk_objects(Client(inner), inner, pattern)
        return
    key, matches = objects.key, None
    prefix = key if not key or key.endswith("/") else key + "/"
    if pattern:
        folder = _folder_before_star(key)
        if (
            MAGIC.search(folder)
            and retried(
                f"list {shown_source(source)}", partial(objects.page, folder, most=1), LISTING, renew=client.renew
            ).entries
        ):
            prefix, key = folder, glob.escape(folder) + key[len(folder) :]
        else:
            prefix = MAGIC.split(key)[0]
        matches = _matcher(key, source)
    for entry in _entries(client, prefix, source):
        if matches is None or matches(entry.key):
            yield found_object(objects, entry)


def _entries(client: Client, prefix: str, source: str) -> Iterator[Entry]:
    what, patience = f"list {shown_source(source)}", LISTING
    after: str | None = None
    while True:
        assert client.objects is not None
        try:
            page = retried(what, partial(client.objects.page, prefix, after), patience, renew=client.renew)
        except FileNotFoundError:
            raise UsageError(f"{shown_source(source)}: no such file or folder") from None
        yield from page.entries
        if page.next is None:
            return
        if page.next == after:
            raise WorldError(f"cannot {what}: the store sends the same page again and again")
        after, patience = page.next, READING


def _buckets(client: Client, source: str) -> list[str]:
    """Names of the buckets that we may see or, for a pattern, of those that match."""
    assert client.objects is not None
    what = f"list {shown_source(source)}"
    listed = retried(what, partial(client.ask, "ls", "", detail=False), LISTING, renew=client.renew)
    matches = _matcher(client.objects.bucket or "*", source)
    return sorted(name for name in (str(name).strip("/") for name in listed) if matches(name))


def _walk_pages(client: Client, source: str, pattern: bool, excluded: Excluded) -> Iterator[Found]:
    """The files that web pages link to, below the first page's address. Each is looked up: pages give names only."""
    what = f"list {shown_source(source)}"
    root = MAGIC.split(source)[0].rpartition("/")[0] + "/" if pattern else re.split(r"[?#]", source, maxsplit=1)[0]
    top = split_remote(root)[0]  # without user and password
    matches = _matcher(split_remote(source)[0], source) if pattern else None
    folders, patience, seen = [root if pattern else source], LISTING, {top}
    while folders:
        folder = folders.pop()
        try:
            links = retried(what, partial(links_of, client.fs, folder, split_remote(folder)[0]), patience)
        except FileNotFoundError:
            if patience is LISTING and not pattern:
                raise UsageError(f"{shown_source(source)}: no such file or folder") from None
            continue
        patience = READING
        inner: list[str] = []
        files: dict[str, bool] = {}  # whether every link to it has a query
        for link in links:
            shown = split_remote(link)[0]
            if not shown.startswith(top) or shown == top or leads_up(shown) or excluded(escape(shown)):
                continue
            address = root + shown[len(top) :]  # the user and password apply below the root too
            if not shown.endswith("/"):
                if matches is None or matches(shown):
                    files[address] = files.get(address, True) and "?" in link
            elif shown not in seen:  # pages link to themselves, sorted another way
                seen.add(shown)
                inner.append(address)
        for found in in_order(partial(look_remote, patience=READING, one_of_many=True), files):
            with_query = files[found.fetch_uri or unescape(found.uri)]
            yield replace(found, trouble="needs_query") if found.trouble and with_query else found
        folders += reversed(inner)


def _walk_folders(client: Client, source: str, pattern: bool, excluded: Excluded) -> Iterator[Found]:
    """Files and folders on a file server, by fsspec's `ls`: its listings name paths."""
    path, what = client.path, f"list {shown_source(source)}"
    client.fs.invalidate_cache()
    root = path
    if pattern:
        root = MAGIC.split(path)[0].rpartition("/")[0] or client.fs.root_marker
    matches = _matcher(path, source) if pattern else None
    # These paths have no scheme and sometimes no host, so they are appended to the address of the root.
    address = MAGIC.split(source)[0].rpartition("/")[0] if pattern else source.rstrip("/")
    if address.endswith(":/"):
        address += "/"
    folders, patience = [root], LISTING
    while folders:
        folder = folders.pop()
        try:
            listed = retried(what, partial(client.ask, "ls", folder, detail=True), patience, renew=client.renew)
        except FileNotFoundError:
            if folder == root and not pattern:
                raise UsageError(f"{shown_source(source)}: no such file or folder") from None
            continue
        patience = READING
        client.fs.invalidate_cache()  # do not keep millions of entries in memory
        inner = []
        for info in sorted(listed, key=lambda info: info["name"]):
            name = info["name"]
            if not name.startswith(root.rstrip("/") + "/"):
                continue  # the folder itself
            below = f"{address}/{name[len(root.rstrip('/')) :].lstrip('/')}"
            if info["type"] == "directory":
                if not excluded(escape(split_remote(below)[0])):
                    inner.append(name)
            elif matches is None or matches(name):
                yield found_remote(below, info)
        folders += reversed(inner)


def is_web(source: str) -> bool:
    return source.startswith(("http://", "https://"))


def is_pattern(source: str) -> bool:
    """Whether a remote source is a pattern. In a URL `?` and `[` are ordinary characters."""
    shown = split_remote(source)[0]
    return "*" in shown if is_web(shown) else bool(MAGIC.search(shown))


def leads_up(name: str) -> bool:
    """Whether `..` leads a URL out of the folder that it seems to be in."""
    return ".." in unquote(name).split("/")


def _matcher(pattern: str, source: str) -> Callable[[str], Any]:
    try:
        return re.compile(glob_translate(pattern)).match
    except (ValueError, re.error) as error:
        raise UsageError(f"{shown_source(source)}: not a valid pattern ({error})") from None


def excluding(outputs: Sequence[str]) -> Excluded:
    """Excludes what is ours in these outputs: the tables, the runs and the page, but no file of the user beside them.

    `_runs` and `_resume` are always ours. The other names are ours only if there was a run, because a user's archive
    may have a folder `scores` too.
    """
    roots = []
    for place in outputs:
        # Both as it is named and as its real path, because the source may use either.
        paths = [local_path(place)] if not is_remote(place) else []
        names = [canonical_local(p) for path in paths for p in (path, os.path.realpath(path))]
        results = (*TABLE_FOLDERS, "_calibration", ICEBERG, PAGE, OLD_PAGE, VIEWS_FILE)
        ours = ("_runs", "_resume", *(results if holds_runs(place) else ()))
        for root in names or [escape(split_remote(place)[0])]:
            roots += [f"{root.rstrip('/')}/{name}" for name in ours]
    exact, folders = frozenset(roots), tuple(f"{root}/" for root in roots)
    return lambda uri: uri in exact or uri.startswith(folders)


def in_order(look: Callable[[A], B], items: Iterable[A], waits: Callable[[A], bool] | None = None) -> Iterator[B]:
    """Like `map`, but runs several requests at a time if `look` waits for a store: by default, if items are remote."""
    iterator, waits = iter(items), waits or _waits
    with ThreadPoolExecutor(_LOOKUPS, "listing") as threads:
        while batch := list(islice(iterator, _LOOKUPS * 8)):
            if any(map(waits, batch)):
                yield from threads.map(look, batch)
            else:
                yield from map(look, batch)


def _waits(item: Any) -> bool:
    return is_remote(item.uri if isinstance(item, Found) else item)


def shown_source(source: str) -> str:
    return printable(redact(source) if SCHEME.match(source) else source, limit=1000)
