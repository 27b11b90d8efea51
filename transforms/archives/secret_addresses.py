"""Addresses that need a secret. No plan holds them; they are restored from the sources that are named now."""

from __future__ import annotations

import hashlib
import json
import logging
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from tempfile import TemporaryFile
from typing import IO

import numpy as np

from ..failures import UsageError
from ..staging.spool_space import spool_faults
from ..storage.sources import look_local
from ..storage.uris import SCHEME, escape, is_remote, local_path, name_bytes, split_remote, unescape
from .folders import MAGIC, is_pattern, leads_up, shown_source
from .listing_files import is_listing, read_listing


def secret_addresses(sources: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(canonical URI, fetch URI) of everything in these sources that can only be fetched with a secret in its URI.

    A frozen plan holds no secrets. A command that resumes one restores them from the sources named now.
    """
    for source in sources:
        # for a pattern, the folder that holds all its matches
        folder = [MAGIC.split(source)[0].rpartition("/")[0] + "/"] if is_pattern(source) else []
        for address in chain(folder, _addresses(source)):
            if is_remote(address) and (secret := split_remote(address)[1]):
                yield escape(split_remote(address)[0]), secret


class Secrets(Mapping[str, str]):
    """The pairs of `secret_addresses`, by canonical URI: some 16 bytes each in memory, the rest in a nameless file that
    ends with this process. If a URI has several addresses, the last counts."""

    def __init__(self, pairs: Iterable[tuple[str, str]]):
        hashes, offsets = array("Q"), array("Q")
        self._file: IO[bytes] = TemporaryFile()  # noqa: SIM115 - closed with its last reader
        self._digest = hashlib.sha256()
        at = 0
        with spool_faults():
            for name, address in pairs:
                record = json.dumps([name, address]).encode() + b"\n"
                self._digest.update(record)
                hashes.append(_hash(name))
                offsets.append(at)
                at += self._file.write(record)
        order = np.argsort(np.frombuffer(hashes, np.uint64), kind="stable")
        self._hashes = np.frombuffer(hashes, np.uint64)[order]
        self._offsets = np.frombuffer(offsets, np.uint64)[order]

    def __getitem__(self, name: str) -> str:
        wanted = np.uint64(_hash(name))
        start, end = np.searchsorted(self._hashes, wanted, "left"), np.searchsorted(self._hashes, wanted, "right")
        for place in range(int(end) - 1, int(start) - 1, -1):
            with spool_faults():
                self._file.seek(int(self._offsets[place]))
                known, address = json.loads(self._file.readline())
            if known == name:
                return str(address)
        raise KeyError(name)

    def __len__(self) -> int:
        return len(self._hashes)

    def __iter__(self) -> Iterator[str]:
        self._file.seek(0)
        return iter([json.loads(line)[0] for line in self._file])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secrets) and self._digest.digest() == other._digest.digest()

    __hash__ = None  # type: ignore[assignment]


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name_bytes(name), digest_size=8).digest(), "big")


def fetch_address(name: str, secrets: Mapping[str, str]) -> str | None:
    """The address with the secret for a canonical name, from the pairs of `secret_addresses`. None if it needs none.

    The user and password of a folder or pattern apply to what lies below it, and to nothing else.

    >>> fetch_address("http://h/films/a.mp4", {"http://h/films/": "http://me:pw@h/films/"})
    'http://me:pw@h/films/a.mp4'
    >>> fetch_address("http://h.evil.com/films/a.mp4", {"http://h/films/": "http://me:pw@h/films/"})
    """
    if not secrets:
        return None
    scheme = SCHEME.match(name)
    if name in secrets or not scheme or leads_up(name) or "@" in host_of(name):
        return secrets.get(name)
    folder = name
    while (folder := folder.rpartition("/")[0]) and len(folder) > scheme.end():
        # Only on the web does a folder's name always end with a slash.
        secret = secrets.get(folder + "/") or ("" if name.startswith("http") else secrets.get(folder, ""))
        if user := host_of(secret).rpartition("@")[0]:
            return f"{scheme.group(0)}{user}@{unescape(name[scheme.end() :])}"
    return None


def host_of(address: str) -> str:
    """The host of an address, with its user and password if there are any."""
    return SCHEME.sub("", address, count=1).partition("/")[0]


def _addresses(source: str) -> Iterator[str]:
    """The source and what it names, if it is a listing. One that cannot be read (any more) gave the plan no secrets."""
    yield source
    try:
        if is_listing(source) and (is_remote(source) or look_local(local_path(source)).trouble is None):
            yield from read_listing(source)
    except (FileNotFoundError, UsageError, ValueError) as error:
        logging.getLogger(__name__).info("%s: no addresses in it (%s)", shown_source(source), error)
