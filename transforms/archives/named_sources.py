"""What is at a name that a person or a table wrote, by itself or as a row of a listing."""

from __future__ import annotations

import hashlib
import os
import secrets
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import groupby
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np

from ..failures import MediaError, UsageError, WorldError
from ..staging.spool_space import spool_faults
from ..storage.clients import Client
from ..storage.retries import LISTING, READING, BadAddress, Patience, retried
from ..storage.sources import Found, Planned, failed, look_local, look_remote
from ..storage.uris import (
    SCHEME,
    escape,
    is_member,
    is_remote,
    local_path,
    meanings,
    name_bytes,
    shards_of,
    split_remote,
)
from .folders import excluding, in_order
from .secret_addresses import host_of

_FOLDERS = ("folder", "linked_folder")
Expand = Callable[[Iterable[Found], Any], Iterator[Planned]]


def look_up(named: str, patience: Patience, one_of_many: bool = False) -> tuple[str, Found]:
    """The first name that `named` may mean and that exists, with what is there. If none exists, the first, `missing`.
    For `one_of_many`, a row of a listing, a file takes precedence over a folder.

    Raises:
        UsageError: this kind of store cannot be opened here, or the address is not valid.
        WorldError
    """
    first: tuple[str, Found] | None = None
    for name in _of_row(named) if one_of_many else meanings(named):
        found = name, _look(name, patience, one_of_many)
        # A row names a file, so it does not stand for a folder that its text may also mean.
        if found[1].trouble not in ("missing", *(_FOLDERS if one_of_many else ())):
            return found
        if first is None or first[1].trouble == "missing":
            first = found
    assert first is not None
    return first


def _of_row(named: str) -> tuple[str, ...]:
    """Names that a row may mean: `meanings`, and the name without spaces after it. If the listing is not UTF-8, the
    bytes are a name as old file systems have it, or Western European text as Windows writes it. What exists decides."""
    names = meanings(named)
    if named[-1:].isspace():
        names += (named.rstrip(),)
    if not named.isascii() and any("\udc80" <= char <= "\udcff" for char in named):
        with suppress(UnicodeError):
            names += (os.fsencode(named).decode("cp1252"),)
    return names


def _look(name: str, patience: Patience, one_of_many: bool) -> Found:
    try:
        return look_remote(name, patience, one_of_many) if is_remote(name) else look_local(local_path(name))
    except (ValueError, BadAddress) as error:  # a NUL, half a surrogate pair, a URL without a host
        if isinstance(error, BadAddress) and not one_of_many:
            raise
        shown = split_remote(name)[0] if is_remote(name) else name
        return Found(escape(shown), name_bytes(shown), trouble="missing")


def objects_below(name: str) -> bool:
    """Whether longer keys continue an object's key, as if it were a folder too."""
    if SCHEME.match(name) is None or (client := Client(name)).objects is None:
        return False
    page = partial(client.objects.page, client.objects.key + "/", most=1)
    with suppress(FileNotFoundError, WorldError):  # looking up an object may be allowed, and listing not
        return bool(retried(f"list {escape(name)}", page, LISTING, renew=client.renew).entries)
    return False


def list_rows(uris: Iterable[str], options: Any, expand: Expand) -> Iterator[Planned]:
    """The files that a listing names, also as our tables spell them. A file that does not exist becomes a failure."""
    excluded = excluding(options.exclude)
    answered: set[str] = set()  # hosts and buckets

    def look(uri: str) -> Found:
        host = host_of(uri) if is_remote(uri) else ""
        _, found = look_up(uri, READING if host in answered else LISTING, one_of_many=True)
        answered.add(host)
        folder = found.trouble in _FOLDERS
        return replace(found, trouble="not_a_file") if folder else found

    # Neighbouring rows of one shard are taken together, so that it is walked once for all of them.
    for shards, rows in groupby(uris, lambda uri: tuple(shards_of(uri)) if is_member(uri) else None):
        if shards is None:
            found = (one for one in in_order(look, rows) if not excluded(one.uri))
            yield from expand(found, options)
            continue
        with TemporaryFile() as names:
            yield from _members(shards, _Wanted(rows, names), look, lambda shard: expand([shard], options))


def _members(
    shards: Sequence[str],
    wanted: _Wanted,
    look: Callable[[str], Found],
    members: Callable[[Found], Iterator[Planned]],
) -> Iterator[Planned]:
    """The members that a listing names in one shard. If names contain `::`, several URIs may mean that shard."""
    none = True
    for shard in shards:
        if not none and next(wanted.unseen(), None) is None:
            return
        try:
            found = look(shard)
        except (UsageError, WorldError):
            if none:
                raise
            continue  # it only looks like a URI
        for entry in members(found):
            if wanted.has(entry.file.uri):
                none = False
                yield entry
    for uri in wanted.unseen():
        missing = Found(uri, name_bytes(uri), trouble="missing").to_file()
        yield failed(missing, MediaError("missing", "no such member", stage="listing"))


class _Wanted:
    """Members that a listing names. Each takes a few bytes of memory; the names themselves are in the file `names`."""

    def __init__(self, rows: Iterable[str], names: IO[bytes]):
        self._key, self._names = secrets.token_bytes(16), names
        digests = array("Q")
        for uri in rows:
            digests.extend(self._digests_of(uri))
            line = name_bytes(uri)
            with spool_faults():
                names.write(len(line).to_bytes(4, "big") + line)
        self._digests = np.unique(np.frombuffer(digests, np.uint64))
        self._seen = np.zeros(len(self._digests), bool)

    def _digests_of(self, uri: str) -> list[int]:
        """Digests of the canonical spellings of what a row may mean."""
        # Keyed: the uploader chooses members' names, and two with the same digest would be confused.
        spelt = (name_bytes(escape(name)) for name in meanings(uri))
        return [int.from_bytes(hashlib.blake2b(name, digest_size=8, key=self._key).digest(), "big") for name in spelt]

    def _place(self, digest: int) -> int | None:
        at = int(np.searchsorted(self._digests, np.uint64(digest)))
        return at if at < len(self._digests) and int(self._digests[at]) == digest else None

    def has(self, uri: str) -> bool:
        """Whether this member is wanted. If so, marks it as seen. Two members may have the same name."""
        place = self._place(self._digests_of(uri)[0])
        if place is not None:
            self._seen[place] = True
        return place is not None

    def unseen(self) -> Iterator[str]:
        self._names.seek(0)
        while head := self._names.read(4):
            uri = self._names.read(int.from_bytes(head, "big")).decode("utf-8", "surrogatepass")
            if not any(self._seen[self._place(digest)] for digest in self._digests_of(uri)):
                yield uri
