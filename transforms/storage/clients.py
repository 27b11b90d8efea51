"""The client of a store: opened by its URI, and opened anew where the store no longer trusts whom it took us for."""

from __future__ import annotations

import ftplib
from collections.abc import Callable, Mapping
from typing import Any, cast
from urllib.parse import urlsplit

import fsspec

from ..failures import UsageError, printable
from .buckets import objects_of
from .ranges import client_options, range_of
from .requests import ask
from .retries import LISTING, ONCE, BadAddress, Patience, retried, tell
from .uris import SCHEME, redact, scheme_of

_SERVERS = frozenset({"ftp", "sftp", "ssh"})


class Client:
    """What an address names, and the client that asks for it. Holds secrets, and is part of no record."""

    def __init__(self, address: str, patience: Patience = LISTING):
        self.address = address
        self.fs, self.path = open_store(address, patience)
        self.objects = objects_of(self.fs, address)

    def ask(self, method: str, *args: Any, **more: Any) -> Any:
        return ask(self.fs, method, *args, **more)

    def info(self) -> Mapping[str, Any]:
        """What the store says of it: `type`, `size`, a version. Raises FileNotFoundError where nothing is there."""
        info = self.objects.look() if self.objects is not None else self.ask("info", self.path)
        return cast(Mapping[str, Any], info)

    def range_of(self, start: int, length: int) -> bytes | None:
        """Bytes from `start` on, at most `length`; None where the store gives whole files only."""
        if self.objects is not None:
            return self.objects.range_of(self.objects.key, start, length)
        return range_of(self.fs, self.path, start, length)

    def renew(self) -> bool:
        """Whether there is another client now: one that has read this machine's credentials anew. Those of the web
        stand in the address."""
        if scheme_of(self.address) in ("http", "https"):
            return False
        self.fs = renewed(self.fs, lambda: open_store(self.address, ONCE)[0])
        if self.objects is not None:
            self.objects.fs = self.fs
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
        raise BadAddress(f"{shown} is not a valid address: it names no host")
    if scheme == "ftp" and not hasattr(kind, "ftp"):
        kind.ftp = ftplib.FTP()  # noqa: S321 - which its __del__ closes, though no connection ever came about
    try:
        options = {**_of_address(kind, address), **client_options(address)}
        fs = retried(f"open {shown}", lambda: kind(**options), patience)
    except FileNotFoundError:
        raise UsageError(f"cannot open {shown}: a file that its settings name does not exist") from None
    except (ImportError, ValueError, TypeError) as error:
        raise UsageError(f"cannot open {shown}: {tell(error)}") from None
    _refuse_other_account(fs, address)
    if scheme in _SERVERS:  # fsspec takes `?` and `#` for the ends of their names
        return fs, "/" + SCHEME.sub("", address, count=1).partition("/")[2].strip("/")
    return fs, kind._strip_protocol(address)


def _of_address(kind: Any, address: str) -> Mapping[str, Any]:
    """What a URI says of how to open its store, but for versions of objects: `?` and `#` are characters of keys."""
    scheme = scheme_of(address)
    if scheme in ("s3", "gs"):
        return {}
    options = {name: value for name, value in kind._get_kwargs_from_urls(address).items() if name != "version_aware"}
    if scheme == "az" and (account := _account(address)):
        options["account_name"] = account
    return options


def _account(address: str) -> str:
    """`films` of `az://container@films.dfs.core.windows.net/…`; empty where none is named."""
    _, at, host = SCHEME.sub("", address, count=1).partition("/")[0].rpartition("@")
    return host.partition(".")[0] if at else ""


def _refuse_other_account(fs: Any, address: str) -> None:
    """A connection string of this machine would be taken for whatever account the URI names.

    Raises:
        UsageError
    """
    named, opened = _account(address) if scheme_of(address) == "az" else "", getattr(fs, "service_client", None)
    if named and opened is not None and opened.account_name != named:
        raise UsageError(
            f"cannot open {printable(redact(address), 1000)}: AZURE_STORAGE_CONNECTION_STRING belongs to the "
            f"account {opened.account_name}: unset it, or set the one of {named}"
        )


def _has_host(address: str) -> bool:
    try:
        parts = urlsplit(address)
        return bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # half an IPv6 address, or a port that is no number
        return False
