"""The client of a store: opened by its URI, and opened anew where the store no longer trusts whom it took us for."""

from __future__ import annotations

import ftplib
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import fsspec

from .asking import ask, client_options, range_of
from .failures import UsageError, printable
from .retries import LISTING, ONCE, BadAddress, Patience, retried, tell
from .uris import redact, scheme_of


class Client:
    """Holds secrets, and is part of no record."""

    def __init__(self, address: str, patience: Patience = LISTING):
        self.address = address
        self.fs, self.path = open_store(address, patience)

    def ask(self, method: str, *args: Any, **more: Any) -> Any:
        return ask(self.fs, method, *args, **more)

    def range_of(self, start: int, length: int) -> bytes | None:
        return range_of(self.fs, self.path, start, length)

    def renew(self) -> bool:
        """Whether there is another client now: one that has read this machine's credentials anew. Those of the web
        stand in the address."""
        if scheme_of(self.address) in ("http", "https"):
            return False
        self.fs = renewed(self.fs, lambda: open_store(self.address, ONCE)[0])
        return True


def renewed(fs: Any, opened: Callable[[], Any]) -> Any:
    """A client that knows the credentials of now, instead of `fs`; `opened` opens one, which fsspec may remember."""
    now = opened()
    if now is fs:  # or another thread was faster
        type(fs).clear_instance_cache()
        now = opened()
    return now


def open_store(address: str, patience: Patience = LISTING) -> tuple[Any, str]:
    """The fsspec file system of a URI, and the path in it.

    Not `fsspec.url_to_fs`: a `::` in the name of an object is no chain here.

    Raises:
        UsageError: nobody here knows that kind of store, or the address is none.
        WorldError: it has to be connected to, and does not let us in.
    """
    scheme = scheme_of(address)
    try:
        kind = fsspec.get_filesystem_class(scheme)
    except (ImportError, ValueError) as error:
        raise UsageError(f"cannot open {scheme}:// sources: {printable(redact(str(error)))}") from None
    shown = printable(redact(address), limit=1000)
    if scheme in ("http", "https") and not _has_host(address):
        raise BadAddress(f"{shown} is no address: it names no host that one could ask")
    if scheme == "ftp" and not hasattr(kind, "ftp"):
        kind.ftp = ftplib.FTP()  # noqa: S321 - which its __del__ closes, though no connection ever came about
    try:
        options = {**kind._get_kwargs_from_urls(address), **client_options(address)}
        return retried(f"open {shown}", lambda: kind(**options), patience), kind._strip_protocol(address)
    except FileNotFoundError:
        raise UsageError(f"cannot open {shown}: a file that its settings name is not there") from None
    except (ImportError, ValueError, TypeError) as error:
        raise UsageError(f"cannot open {shown}: {tell(error)}") from None


def _has_host(address: str) -> bool:
    try:
        parts = urlsplit(address)
        return bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # half an IPv6 address, or a port that is no number
        return False
