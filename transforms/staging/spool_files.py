"""A path that decoder children can open: a local file where it lies, anything else a file of our own in the spool.

A large remote file comes as far as it is read (sparse.py), any other as a whole. Context-free: whoever holds a `Staged`
last calls `release`, or `remove` with its path.
"""

from __future__ import annotations

import os
import secrets
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..failures import MediaError
from ..media.children import feeding
from ..media.containers.sniff import HEAD_BYTES, sniff
from ..records import MediaFile
from ..storage.retries import ShortRead, retried
from ..storage.sources import (
    CHUNK_BYTES,
    MAX_FILE_BYTES,
    LocalBlob,
    NoRanges,
    RemoteBlob,
    is_local,
    local_version,
    open_blob,
    path_of,
)
from .sparse_files import SparseFile
from .spool_space import ROOM, private, spool_faults

RANGED_BYTES = 256 << 20
"""Larger remote files come as they are read. Up to this size, opening.SCAN_BYTES, the probe reads all of a file."""


@dataclass(slots=True)
class Staged:
    path: str
    """Absolute. Where it is our own spool file its name is too."""
    head: bytes = field(repr=False)
    """The first `HEAD_BYTES` bytes."""
    suffix: str
    """As the first bytes say; empty for what is no media."""
    owned: bool
    """Whether the file goes when it is released."""

    def release(self) -> None:
        """May be called twice."""
        if self.owned:
            self.owned = False
            remove(self.path)


def remove(path: str) -> None:
    """A file of our own in the spool goes, and its room is given back. May be said twice."""
    feeding.withdraw(path)
    Path(path).unlink(missing_ok=True)
    ROOM.give_back(path)


def read_head(file: MediaFile, length: int = HEAD_BYTES) -> bytes:
    """The first bytes of a file or member, without staging it.

    Raises:
        MediaError: `missing`, `unreadable`, `changed`, `read_short`, …
        WorldError: storage failed.
    """
    length = min(length, file.size_bytes)
    with open_blob(file) as blob:
        _refuse_replaced(file, blob)
        try:
            if file.member_compressed_bytes is None:
                return _read(blob, file.member_offset or 0, length)
            out = b""
            for part in _inflated(file, blob, 64 << 10):
                out += part
                if len(out) >= length:
                    break
            return out[:length]
        except MediaError:
            _refuse_replaced(file, blob, certainly=True)
            raise


def refuse_replaced(file: MediaFile) -> None:
    """To be asked before what the first bytes say of a file is its end: they may be those of another.

    Raises:
        MediaError: `changed`, `missing`, …
        WorldError: storage failed.
    """
    with open_blob(file) as blob:
        _refuse_replaced(file, blob, certainly=True)


def stage(file: MediaFile, spool: Path, *, max_bytes: int = MAX_FILE_BYTES, ticket: int | None = None) -> Staged:
    """The file on a local path. Callers check with `sniff` first that it is worth it. What is larger than `max_bytes`
    is refused, also where it lies. What has to be staged waits for room, in the order of the tickets (room.py).

    Raises:
        MediaError: stage `read`: `missing`, `unreadable`, `changed`, `read_short`, `too_large`, `damaged_archive`.
        WorldError: storage failed, or the spool is full.
    """
    if file.size_bytes > max_bytes:
        raise MediaError("too_large", f"{file.size_bytes} bytes: at most {max_bytes} are allowed", stage="read")
    in_place = is_local(file) and file.member is None and _is_plain(path_of(file))
    with open_blob(file) as blob:
        _refuse_replaced(file, blob)
        if in_place:
            head = blob.read(0, min(HEAD_BYTES, file.size_bytes))
            return Staged(os.fsdecode(path_of(file)), head, sniff(head).suffix, owned=False)
        ROOM.take(ticket, file.size_bytes)
        try:
            staged = _by_ranges(file, blob, spool) or _spooled(file, blob, spool)
        except BaseException as error:
            ROOM.give_back(file.size_bytes)
            if isinstance(error, MediaError):
                _refuse_replaced(file, blob, certainly=True)
            raise
        ROOM.hold(staged.path, file.size_bytes)
        try:
            _refuse_replaced(file, blob, certainly=True)
        except BaseException:
            staged.release()
            raise
        return staged


def refuse_partial(file: MediaFile, path: str) -> None:
    """Of a file at `path` that came as it was read: whether all that was asked for came, and of the file that was
    listed. To be asked after it was read; of other files there is nothing to ask.

    Raises:
        MediaError: stage `read`: `changed`, `missing`, `read_short`, …
        WorldError: storage failed.
    """
    source = feeding.source_of(path)
    if isinstance(source, SparseFile):
        if source.failure is not None:
            raise source.failure
        _refuse_replaced(file, source.blob, certainly=True)


def _by_ranges(file: MediaFile, blob: LocalBlob | RemoteBlob, spool: Path) -> Staged | None:
    """None where it has to be staged whole: it is small, local, deflated, or its server gives no ranges."""
    if not isinstance(blob, RemoteBlob) or file.size_bytes <= RANGED_BYTES or file.member_compressed_bytes is not None:
        return None
    path = _spool_path(file, spool, "")
    with spool_faults():
        source = SparseFile(blob, file.member_offset or 0, file.size_bytes, path)
    try:
        # The end first: of a server that knows no ranges the beginning can be had all the same.
        source.fetch(file.size_bytes - 1, 1)
        source.fetch(0, HEAD_BYTES)
        head = path.open("rb").read(HEAD_BYTES)
    except NoRanges:
        path.unlink(missing_ok=True)
        return None
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    feeding.announce(source)
    return Staged(source.path, head, sniff(head).suffix, owned=True)


def _spool_path(file: MediaFile, spool: Path, suffix: str) -> Path:
    # a random part: the same media may be staged twice at a time
    return spool / f"{file.media_id}-{secrets.token_hex(4)}{suffix}"


def _is_plain(path: bytes) -> bool:
    """Whether every library can open a file of that name; decord, for one, takes UTF-8 only."""
    try:
        path.decode()
    except UnicodeDecodeError:
        return False
    return True


def _refuse_replaced(file: MediaFile, blob: LocalBlob | RemoteBlob, certainly: bool = False) -> None:
    """Whether this is still what was listed. Of a store it is asked (one request) only where `certainly` is wanted."""
    if isinstance(blob, LocalBlob):
        now = local_version(os.stat(blob.descriptor) if certainly else blob.status)
    elif certainly:
        try:
            now = blob.version()
        except FileNotFoundError:
            raise MediaError("missing", "it no longer exists", stage="read") from None
    else:
        return
    if now != file.version:
        raise MediaError("changed", "it was replaced after it was listed", stage="read")


def _spooled(file: MediaFile, blob: LocalBlob | RemoteBlob, spool: Path) -> Staged:
    try:
        return _write(file, content(file, blob), spool)
    except NoRanges:
        if file.member is not None or not isinstance(blob, RemoteBlob):
            raise
        remote = blob
        written = lambda: _write(file, remote.stream(), spool)  # noqa: E731
        return retried(f"read {file.uri}", written, answers=remote.answers)


def content(file: MediaFile, blob: LocalBlob | RemoteBlob) -> Iterator[bytes]:
    """All bytes of a file or member, inflated, in pieces, exactly as many as it is listed with."""
    if file.member_compressed_bytes is not None:
        yield from _inflated(file, blob, CHUNK_BYTES)
        return
    start = file.member_offset or 0
    for at in range(0, file.size_bytes, CHUNK_BYTES):
        yield _read(blob, start + at, min(CHUNK_BYTES, file.size_bytes - at))


def _read(blob: LocalBlob | RemoteBlob, start: int, length: int) -> bytes:
    try:
        return blob.read(start, length)
    except FileNotFoundError:
        raise MediaError("missing", "it no longer exists", stage="read") from None


def _inflated(file: MediaFile, blob: LocalBlob | RemoteBlob, chunk: int) -> Iterator[bytes]:
    """A deflated member, counted as it comes: a bomb is stopped at the first byte past what it declared."""
    assert file.member_compressed_bytes is not None
    inflate, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
    for at in range(0, file.member_compressed_bytes, chunk):
        data = _read(blob, (file.member_offset or 0) + at, min(chunk, file.member_compressed_bytes - at))
        # Asked until nothing comes: a full piece may leave more behind it, though all that went in was taken.
        while part := _piece(inflate, data):
            data, total = inflate.unconsumed_tail, total + len(part)
            if total > file.size_bytes:
                message = f"the member inflates to more than the {file.size_bytes} bytes that it declared"
                raise MediaError("too_large", message, stage="read")
            yield part
    if not inflate.eof or total != file.size_bytes:
        message = f"the member inflates to {total} bytes but declared {file.size_bytes}"
        raise MediaError("damaged_archive", message, stage="read")


def _piece(inflate: zlib._Decompress, data: bytes) -> bytes:
    try:
        return b"" if inflate.eof else inflate.decompress(data, 1 << 20)
    except zlib.error as error:
        raise MediaError("damaged_archive", f"the member does not inflate: {error}", stage="read") from error


def _write(file: MediaFile, parts: Iterator[bytes], spool: Path) -> Staged:
    """Writes a spool file under a name of our own, whole or not at all."""
    path: Path | None = None
    head, total = b"", 0
    try:
        first = next(parts, b"")
        while len(first) < min(HEAD_BYTES, file.size_bytes) and (more := next(parts, b"")):
            first += more
        head = first[:HEAD_BYTES]
        suffix = sniff(head).suffix
        path = _spool_path(file, spool, suffix)
        with spool_faults():
            target = open(path, "xb", buffering=0, opener=private)  # noqa: SIM115
        with target:
            part = first
            while part:
                total += len(part)
                if total > file.size_bytes:
                    raise MediaError("changed", f"more than the {file.size_bytes} bytes that were listed", stage="read")
                view = memoryview(part)
                with spool_faults():
                    while view:
                        view = view[target.write(view) :]
                part = next(parts, b"")
        if total != file.size_bytes:
            raise ShortRead(f"got {total} bytes of {file.size_bytes}")
    except BaseException:
        if path is not None:
            path.unlink(missing_ok=True)
        raise
    return Staged(str(path.absolute()), head, suffix, owned=True)
