"""Clients of stores. One is opened by a URI, and opened again when the store no longer accepts our credentials."""

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
from .retries import LISTING, ONCE, BadAddress, Patience, describe_error, retried
from .uris import SCHEME, redact, scheme_of

_SERVERS = frozenset({"ftp", "sftp", "ssh"})


class Client:
    """An address with the client that reads from it. Holds secrets, so it is never part of a record."""

    def __init__(self, address: str, patience: Patience = LISTING):
        self.address = address
        self.fs, self.path = open_store(address, patience)
        self.objects = objects_of(self.fs, address)

    def ask(self, method: str, *args: Any, **more: Any) -> Any:
        return ask(self.fs, method, *args, **more)

    def info(self) -> Mapping[str, Any]:
        """What the store says about the address: `type`, `size`, a version. Raises FileNotFoundError."""
        info = self.objects.look() if self.objects is not None else self.ask("info", self.path)
        return cast(Mapping[str, Any], info)

    def range_of(self, start: int, length: int) -> bytes | None:
        """At most `length` bytes from `start` on, or None if the store sends only whole files."""
        if self.objects is not None:
            return self.objects.range_of(self.objects.key, start, length)
        return range_of(self.fs, self.path, start, length)

    def renew(self) -> bool:
        """Replaces the client with one that has read this machine's credentials again. Returns whether it did: on the
        web the credentials are part of the address."""
        if scheme_of(self.address) in ("http", "https"):
            return False
        self.fs = renewed(self.fs, lambda: open_store(self.address, ONCE)[0])
        if self.objects is not None:
            self.objects.fs = self.fs
        return True


def renewed(fs: Any, opened: Callable[[], Any]) -> Any:
    """A client with the present credentials, in place of `fs`. `opened` opens one; fsspec may return a cached one."""
    now = opened()
    if now is fs:  # otherwise another thread has renewed it
        type(fs).clear_instance_cache()
        now = opened()
    return now


def open_store(address: str, patience: Patience = LISTING) -> tuple[Any, str]:
    """The fsspec file system of a URI, and the path in it.

    Does not use `fsspec.url_to_fs`, because a `::` in an object's name does not chain file systems here.

    Raises:
        UsageError: this kind of store cannot be opened here, or the address is not valid.
        WorldError: opening the store means connecting to it, and that failed.
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
        kind.ftp = ftplib.FTP()  # noqa: S321 - its __del__ closes `ftp`, even if it never connected
    try:
        options = {**_of_address(kind, address), **client_options(address)}
        fs = retried(f"open {shown}", lambda: kind(**options), patience)
    except FileNotFoundError:
        raise UsageError(f"cannot open {shown}: a file that its settings name does not exist") from None
    except (ImportError, ValueError, TypeError) as error:
        raise UsageError(f"cannot open {shown}: {describe_error(error)}") from None
    _refuse_other_account(fs, address)
    if scheme in _SERVERS:  # fsspec ends their names at `?` and `#`
        return fs, "/" + SCHEME.sub("", address, count=1).partition("/")[2].strip("/")
    return fs, kind._strip_protocol(address)


def _of_address(kind: Any, address: str) -> Mapping[str, Any]:
    """Options in a URI for opening its store. Versions of objects are left out: `?` and `#` are characters of keys."""
    scheme = scheme_of(address)
    if scheme in ("s3", "gs"):
        return {}
    options = {name: value for name, value in kind._get_kwargs_from_urls(address).items() if name != "version_aware"}
    if scheme == "az" and (account := _account(address)):
        options["account_name"] = account
    return options


def _account(address: str) -> str:
    """The account in a URI: `films` for `az://container@films.dfs.core.windows.net/…`, empty if none is named."""
    _, at, host = SCHEME.sub("", address, count=1).partition("/")[0].rpartition("@")
    return host.partition(".")[0] if at else ""


def _refuse_other_account(fs: Any, address: str) -> None:
    """Refuses an account that this machine's connection string is not for: adlfs would use the string all the same.

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
    except ValueError:  # half an IPv6 address, or a port that is not a number
        return False
