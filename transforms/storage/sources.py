"""Access to what a user named: looks at files and reads exact ranges of them, locally and through fsspec.

Reads are retried if the store is at fault. Every length is checked, because some clients return a short body as
success. No record keeps a file system object, because pickling one carries its secrets.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from ..failures import MediaError, Refused, WorldError
from ..records import Failure, MediaFile, MediaOutcome
from .buckets import Entry, Objects
from .clients import Client
from .refusals import Way, remember_access, still_allows
from .requests import in_time, seconds_for, too_slow
from .retries import LISTING, READING, Patience, ShortRead, describe_error, retried
from .uris import canonical_local, escape, media_id_of, name_bytes, scheme_of, split_remote, unescape, without_signature

CHUNK_BYTES = 8 << 20
"""Size of one range request when a whole file is read."""
MAX_FILE_BYTES = 64 << 30
"""Default limit for one file or member, after decompression."""

_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EISDIR})


class Planned(NamedTuple):
    """A file, with its outcome if that is known before the file is read."""

    file: MediaFile
    outcome: MediaOutcome | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A file as its folder or store describes it."""

    uri: str
    """Canonical."""
    identity: bytes
    """The exact bytes of the file's name: half of its media_id."""
    size_bytes: int = 0
    version: str = ""
    path_bytes: bytes | None = None
    """The local path, if `uri` is not exactly that path."""
    fetch_uri: str | None = field(default=None, repr=False)
    trouble: str | None = None
    """None, or `folder`, `folder_mark`, `not_a_file`, `broken_link`, `linked_folder`, `missing`, `unreadable`,
    `unknown_size`, `needs_query`, `refused`, `no_answer`, `unaddressable`."""

    def to_file(self) -> MediaFile:
        return MediaFile(
            media_id=media_id_of(self.identity, self.version.encode()),
            uri=self.uri,
            size_bytes=self.size_bytes,
            version=self.version,
            path_bytes=self.path_bytes,
            fetch_uri=self.fetch_uri,
        )


def skipped(file: MediaFile, reason: str) -> Planned:
    return Planned(file, MediaOutcome(file, "skipped", skipped_reason=reason))


def failed(file: MediaFile, error: MediaError) -> Planned:
    return Planned(file, MediaOutcome(file, "failed", failure=Failure(error.stage, error.error_class, error.message)))


class NoRanges(MediaError):
    """The server sends only whole files."""

    def __init__(self, uri: str):
        super().__init__("no_ranges", f"the server of {uri} cannot send part of a file: download it first", "read")


class Blob(Protocol):
    """Bytes of one file by range."""

    uri: str

    def read(self, start: int, length: int) -> bytes:
        """Exactly `length` bytes. Raises MediaError (`changed`, `read_short`) or WorldError."""


class LocalBlob:
    def __init__(self, path: bytes, uri: str):
        self.uri = uri
        # O_NONBLOCK: a fifo that has replaced the file must not block us.
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        self.status = os.fstat(self.descriptor)
        if not stat.S_ISREG(self.status.st_mode):
            os.close(self.descriptor)
            raise MediaError("changed", "it is no longer a file", stage="read")

    def read(self, start: int, length: int) -> bytes:
        if start < 0 or length < 0:
            # The kernel would answer EINVAL, which looks like a fault of the disk and would be retried for ever.
            raise MediaError("damaged_archive", f"it was listed with {length} bytes at byte {start}", stage="read")
        parts, left = [], length
        while left:
            try:
                part = os.pread(self.descriptor, min(left, 1 << 30), start)
            except OSError as error:
                # A bad sector stays bad: one such file must not stop the others.
                if error.errno == errno.EIO:
                    raise MediaError(
                        "unreadable", f"reading failed at byte {start}: {describe_error(error)}", "read"
                    ) from error
                raise WorldError(f"cannot read {self.uri}: {describe_error(error)}") from error
            if not part:
                raise MediaError("changed", f"it ends at byte {start}, {left} bytes earlier than listed", stage="read")
            parts.append(part)
            start, left = start + len(part), left - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        os.close(self.descriptor)


class RemoteBlob:
    def __init__(self, uri: str, address: str, patience: Patience = READING):
        self.uri, self._patience = uri, patience
        self._client = Client(address, patience)
        self._http = scheme_of(uri) in ("http", "https")

    def read(self, start: int, length: int, patience: Patience | None = None) -> bytes:
        if not length:
            return b""
        patience = patience or self._patience
        read = lambda: self._range(start, length)  # noqa: E731
        with refusals(self._client.address, "read"):
            return retried(f"read {self.uri}", read, patience, self.answers, renew=self._client.renew)

    def _range(self, start: int, length: int) -> bytes:
        data = self._client.range_of(start, length)
        if data is None:
            raise NoRanges(self.uri)
        if len(data) != length:
            raise ShortRead(f"got {len(data)} bytes of {length} from byte {start}")
        return data

    def stream(self) -> Iterator[bytes]:
        """The whole file in one request, for servers without ranges. Not retried: the caller starts again."""
        fs, path = self._client.fs, self._client.path
        if not self._http:
            with fs.open(path, "rb") as f:
                yield from iter(lambda: f.read(CHUNK_BYTES), b"")
            return
        from . import web

        got, spent, body = 0, 0.0, web.Stream(fs, path)
        try:
            while spent < seconds_for(got):
                begun = time.monotonic()
                part = in_time(fs, seconds_for(got) - spent, body.read)
                spent += time.monotonic() - begun
                if not part:
                    return
                got += len(part)
                yield part
            raise too_slow()
        finally:
            asyncio.run_coroutine_threadsafe(body.close(), fs.loop)

    def answers(self) -> Mapping[str, Any]:
        """What the store says about the file. Raises if it says nothing."""
        return self._client.info()

    def version(self) -> str:
        """The store's name for the present state of the file."""
        look = self.answers
        with refusals(self._client.address, "look"):
            return version_of(retried(f"look up {self.uri}", look, self._patience, look, renew=self._client.renew))


@contextmanager
def refusals(address: str, way: Way) -> Iterator[None]:
    """Raises a refusal as the fault of this one file if the store still lets us have others: no reason to stop.

    Raises:
        MediaError: `refused`
    """
    try:
        yield
    except Refused as error:
        if not still_allows(address, way):
            raise
        raise MediaError("refused", f"{error}; other files can be read", stage="read") from None
    remember_access(address, way)


def address_of(file: MediaFile) -> str:
    """Where a remote file (or a member's shard) is fetched from."""
    return file.fetch_uri or unescape(file.shard or file.uri)


def path_of(file: MediaFile) -> bytes:
    """The local path of a file (or a member's shard)."""
    return file.path_bytes or os.fsencode(unescape(file.shard or file.uri))


def is_local(file: MediaFile) -> bool:
    return (file.shard or file.uri).startswith("/")


@contextmanager
def open_blob(file: MediaFile, patience: Patience = READING) -> Iterator[LocalBlob | RemoteBlob]:
    """The bytes of a file, or of the shard that holds a member.

    Raises:
        MediaError: `missing`, `unreadable`, `changed`.
    """
    name = file.shard or file.uri
    if not is_local(file):
        try:
            yield RemoteBlob(name, address_of(file), patience)
        except FileNotFoundError:
            raise MediaError("missing", "it no longer exists", stage="read") from None
        return
    try:
        blob = LocalBlob(path_of(file), name)
    except OSError as error:
        raise local_fault(error, name) from error
    try:
        yield blob
    finally:
        blob.close()


def local_fault(error: OSError, uri: str) -> MediaError | WorldError:
    """What to raise if a local file cannot be opened: the file's own fault or the world's."""
    if error.errno in _GONE:
        return MediaError("missing", f"it no longer exists ({error.strerror})", stage="read")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EIO):
        return MediaError("unreadable", f"it cannot be read ({error.strerror})", stage="read")
    return WorldError(f"cannot open {uri}: {describe_error(error)}")


def local_version(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}"


def version_of(info: Mapping[str, Any]) -> str:
    """A store's name for this state of a file: its ETag or generation, else its size and time of last change."""
    for key in ("ETag", "etag", "generation", "md5Hash", "Content-MD5", "content_md5", "contentHash"):
        if info.get(key):
            return escape(str(info[key]).removeprefix("W/").strip('"'))
    for key in ("mtime", "LastModified", "Last-Modified", "last_modified", "updated", "modified", "created"):
        if (moment := info.get(key)) is not None:
            # fsspec's own file systems give the same time as a datetime in one call and as a number in another.
            moment = f"{moment.timestamp():.6f}" if isinstance(moment, datetime) else moment
            moment = f"{moment:.6f}" if isinstance(moment, (int, float)) else moment
            return escape(f"{info.get('size')}-{moment}")
    return str(info.get("size"))


def look_local(path: bytes) -> Found:
    """What is at an absolute path. Symbolic links to files are followed; nothing is opened."""
    uri = canonical_local(path)
    found = Found(uri, path, path_bytes=path if uri != os.fsdecode(path) or not _is_utf8(path) else None)

    def of(**fields: Any) -> Found:
        return Found(found.uri, found.identity, path_bytes=found.path_bytes, **fields)

    try:
        status = os.stat(path)
    except PermissionError:
        return of(trouble="unreadable")
    except OSError as error:
        if os.path.islink(path):
            return of(trouble="not_a_file" if error.errno == errno.ELOOP else "broken_link")
        if error.errno in _GONE:
            return of(trouble="missing")
        raise WorldError(f"cannot look up {uri}: {describe_error(error)}") from error
    if stat.S_ISDIR(status.st_mode):
        return of(trouble="linked_folder" if os.path.islink(path) else "folder")
    if not stat.S_ISREG(status.st_mode):
        return of(trouble="not_a_file")
    return of(size_bytes=status.st_size, version=local_version(status))


def look_remote(address: str, patience: Patience = LISTING, one_of_many: bool = False) -> Found:
    """What is at a URI. If it is one of many, trouble with it alone is not raised: it is `no_answer` if the store's
    answer is nonsense or too slow, and `refused` if the store lets us have others.

    Raises:
        WorldError: the store does not answer, or refuses us.
    """
    shown = without_signature(split_remote(address)[0])
    client = Client(address, patience)
    look = client.info
    answers = look if one_of_many else None
    try:
        with refusals(address, "look") if one_of_many else nullcontext():
            info = retried(f"look up {escape(shown)}", look, patience, answers, renew=client.renew)
    except FileNotFoundError:
        return found_remote(address, {}, trouble="missing")
    except MediaError as error:
        return found_remote(address, {}, trouble="refused" if error.error_class == "refused" else "no_answer")
    return found_remote(address, info)


def found_remote(address: str, info: Mapping[str, Any], trouble: str | None = None) -> Found:
    shown, fetch = split_remote(address)
    if trouble is None and info.get("type") != "file":
        trouble = "folder" if info.get("type") == "directory" else "not_a_file"
    size = info.get("size")
    if trouble is None and (size is None or size < 0):
        trouble = "unknown_size"
    return Found(
        escape(without_signature(shown) if trouble == "missing" else shown),
        name_bytes(shown),
        max(0, size or 0),
        version_of(info) if trouble is None else "",
        fetch_uri=fetch or None,
        trouble=trouble,
    )


def found_object(objects: Objects, entry: Entry) -> Found:
    """An object as a page of its store's listing describes it."""
    uri = objects.uri(entry.key)
    trouble = None if objects.is_addressable(entry.key) else "unaddressable"
    if trouble is None and entry.is_mark:
        trouble = "folder_mark"
    version = version_of(entry.info)
    return Found(escape(uri), name_bytes(uri), int(entry.info["size"] or 0), version, trouble=trouble)


def _is_utf8(path: bytes) -> bool:
    try:
        path.decode()
    except UnicodeDecodeError:
        return False
    return True
