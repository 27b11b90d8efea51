"""Paths that decoder children can open. A local file stays where it is; for all else there is a file in the spool.

A large remote file is fetched as it is read (sparse_files.py), any other whole. No context manager: the last holder of
a `Staged` calls `release`, or `remove` with its path.
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
from ..metrics import inc_counter
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
"""Larger remote files are fetched as they are read. The probe reads smaller ones whole (opening.SCAN_BYTES)."""


@dataclass(slots=True)
class Staged:
    path: str
    """Absolute. The name of a spool file is our own."""
    head: bytes = field(repr=False)
    """The first `HEAD_BYTES` bytes."""
    suffix: str
    """Found from the first bytes; empty if it is not media."""
    owned: bool
    """Whether `release` removes the file."""

    def release(self) -> None:
        """Removes the file if it is owned. May be called twice."""
        if self.owned:
            self.owned = False
            remove(self.path)


def remove(path: str) -> None:
    """Removes one of our spool files and gives its room back. May be called twice."""
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
    """Raises if a file is no longer the listed one. Call it before its first bytes decide its outcome: they may belong
    to another file.

    Raises:
        MediaError: `changed`, `missing`, …
        WorldError: storage failed.
    """
    with open_blob(file) as blob:
        _refuse_replaced(file, blob, certainly=True)


def stage(file: MediaFile, spool: Path, *, max_bytes: int = MAX_FILE_BYTES, ticket: int | None = None) -> Staged:
    """The file at a local path. Callers first check with `sniff` that it is worth it. A file larger than `max_bytes` is
    refused, even a local one. A file that has to be staged waits for room, in the order of tickets (spool_space.py).

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
            if (staged := _by_ranges(file, blob, spool)) is None:
                staged = _spooled(file, blob, spool)
                if isinstance(blob, RemoteBlob):
                    inc_counter("bytes_fetched", file.member_compressed_bytes or file.size_bytes)
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
    """Raises if a file at `path` that was fetched as it was read did not arrive as requested, or is not the listed one
    any more. Call it after the file was read. Other files need no check.

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
    """None if it has to be staged whole: it is small, local, deflated, or its server has no ranges."""
    if not isinstance(blob, RemoteBlob) or file.size_bytes <= RANGED_BYTES or file.member_compressed_bytes is not None:
        return None
    path = _spool_path(file, spool, "")
    with spool_faults():
        source = SparseFile(blob, file.member_offset or 0, file.size_bytes, path)
    try:
        # The end first: even a server without ranges can send the beginning.
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
    # With a random part, because the same file may be staged twice at the same time.
    return spool / f"{file.media_id}-{secrets.token_hex(4)}{suffix}"


def _is_plain(path: bytes) -> bool:
    """Whether every library can open a file of that name: decord, for one, takes only UTF-8."""
    try:
        path.decode()
    except UnicodeDecodeError:
        return False
    return True


def _refuse_replaced(file: MediaFile, blob: LocalBlob | RemoteBlob, certainly: bool = False) -> None:
    """Raises if this is no longer the listed file. A store is asked (one request) only if `certainly` is set."""
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
    """All bytes of a file or member, inflated, in pieces: exactly as many as were listed."""
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
    """Bytes of a deflated member, counted as they come: a bomb is stopped at the first byte past its declared size."""
    assert file.member_compressed_bytes is not None
    inflate, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
    for at in range(0, file.member_compressed_bytes, chunk):
        data = _read(blob, (file.member_offset or 0) + at, min(chunk, file.member_compressed_bytes - at))
        # Repeated until nothing comes: after a full piece there may be more output, even if all input was taken.
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
