"""What lies in a tar or zip shard, from one walk over its headers: names, offsets, lengths. Nothing is ever extracted.

Headers are parsed by the standard library over a reader that refuses absurd reads. Names are never used as paths.
"""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from .failures import MediaError, UsageError, WorldError
from .records import MediaFile
from .sources import MAX_FILE_BYTES, Blob
from .uris import escape, media_id_of, name_bytes

_FIRST_READ = 64 << 10
_MOST_READ = 8 << 20
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
"""Signature, version, flags, method, time, date, crc, compressed, size, length of name, length of extra."""
_DOCUMENTS = ("[content_types].xml", "meta-inf/manifest.mf", "meta-inf/container.xml", "androidmanifest.xml")


@dataclass(frozen=True, slots=True)
class ShardLimits:
    """What an archive may ask of us. One inside another is never opened (`nested_archive`), so there is no depth."""

    max_members: int = 1_000_000
    max_bytes: int = MAX_FILE_BYTES
    """Of one member, inflated."""
    max_ratio: int = 1000
    """Inflated to deflated bytes of a member. Digital silence reaches nearly this; deflate itself ends at 1032. Members
    may not overlap, so it holds for the archive as a whole too."""
    max_directory_bytes: int = 128 << 20
    """Of a zip's directory, which is held in memory as a whole."""
    max_tar_header_bytes: int = 1 << 20
    """Of one extended tar header (long names, PAX)."""


@dataclass(frozen=True, slots=True)
class Member:
    name: str
    """As it stands in the shard; bytes that are no UTF-8 as surrogates."""
    offset: int
    """Bytes from the shard's start to the member's first data byte."""
    size_bytes: int
    """Inflated, as declared."""
    compressed_bytes: int | None = None
    """Where it is deflated."""
    skip: str | None = None
    failure: MediaError | None = None


def shard_kind(head: bytes, name: str = "") -> Literal["tar", "zip", "unsupported"] | None:
    """Whether a file that begins with `head` is an archive whose members could be media. `name` decides only where
    nothing else can: for an empty tar, which is all zeros, and for compressed tars."""
    lower = name.lower()
    if _is_tar(head, lower):
        return "tar"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    if head.startswith((b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07")):
        return "unsupported"
    if head.startswith(b"\x1f\x8b"):
        try:
            start = zlib.decompressobj(wbits=31).decompress(head, 512)
        except zlib.error:
            start = b""
        # what 512 deflated bytes give may end before a tar's magic
        if start[257:262] == b"ustar" or lower.endswith((".tar.gz", ".tgz")):
            return "unsupported"
    if head.startswith((b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")) and (".tar." in lower or lower.endswith(_SHORT)):
        return "unsupported"
    return None


_SHORT = (".tbz", ".tbz2", ".txz", ".tzst")


def _is_tar(head: bytes, lower: str) -> bool:
    block = head[:512]
    if len(block) < 512:
        return False
    if not any(block):
        return lower.endswith(".tar")
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return block[257:262] == b"ustar" and lower.endswith(".tar")
    return block[257:262] == b"ustar" or lower.endswith(".tar")


def list_members(kind: Literal["tar", "zip"], blob: Blob, size_bytes: int, limits: ShardLimits) -> Iterator[Member]:
    """The members of a shard but its folders, in their order in the file.

    Raises:
        MediaError: `damaged_archive` or `too_large`, after the members that could be had; `not_media`, before any, for
            a zip that is a document or a program (docx, epub, jar, …).
        WorldError: the store did not do its part.
    """
    reader = _Reader(blob, size_bytes, limits.max_directory_bytes if kind == "zip" else limits.max_tar_header_bytes)
    walk = _walk_tar(reader, size_bytes) if kind == "tar" else _walk_zip(reader, size_bytes, limits)
    count = 0
    try:
        for member in walk:
            count += 1
            if count > limits.max_members:
                raise MediaError("too_large", f"more than {limits.max_members} members", stage="listing")
            yield _judged(member, size_bytes, limits)
    except (MediaError, WorldError, UsageError):
        raise
    except OSError as error:
        if isinstance(error, _BeforeStart):
            raise MediaError("damaged_archive", f"after {count} members: {error}", stage="listing") from error
        raise WorldError(f"cannot read {blob.uri}") from error
    except Exception as error:
        # Both parsers raise nearly anything on hostile bytes; what the store did was told apart above.
        raise MediaError(
            "damaged_archive", f"after {count} members: {error or type(error).__name__}", "listing"
        ) from error


def member_file(shard: MediaFile, kind: str, member: Member) -> MediaFile:
    """The record of a member of a shard."""
    name = escape(member.name)
    return MediaFile(
        # the offset tells members of the same name apart
        media_id=media_id_of(
            shard.path_bytes or name_bytes(shard.uri),
            shard.version.encode(),
            name_bytes(member.name),
            str(member.offset).encode(),
        ),
        uri=f"{kind}://{name}::{shard.uri}",
        size_bytes=member.size_bytes,
        version=shard.version,
        shard=shard.uri,
        member=name,
        member_offset=member.offset,
        member_compressed_bytes=member.compressed_bytes,
        path_bytes=shard.path_bytes,
        fetch_uri=shard.fetch_uri,
    )


def _judged(member: Member, size_bytes: int, limits: ShardLimits) -> Member:
    if member.skip or member.failure:
        return member
    stored = member.size_bytes if member.compressed_bytes is None else member.compressed_bytes
    message = None
    if member.offset + stored > size_bytes:
        return _failing(member, "truncated", "the shard ends before the member does")
    if member.size_bytes > limits.max_bytes:
        message = f"{member.size_bytes} bytes: at most {limits.max_bytes} are read"
    elif member.size_bytes > limits.max_ratio * max(stored, 1):
        message = (
            f"{stored} bytes that say they inflate to {member.size_bytes}: at most {limits.max_ratio} times as many"
        )
    if message:
        return _failing(member, "too_large", message)
    if member.size_bytes == 0:
        return Member(member.name, member.offset, 0, member.compressed_bytes, skip="empty")
    return member


def _failing(member: Member, error_class: str, message: str) -> Member:
    error = MediaError(error_class, message, stage="listing")
    return Member(member.name, member.offset, member.size_bytes, member.compressed_bytes, failure=error)


def _walk_tar(reader: _Reader, size_bytes: int) -> Iterator[Member]:
    if not any(reader.peek(0, 512)):
        return
    last = -1
    with tarfile.TarFile(fileobj=reader, mode="r", encoding="utf-8", errors="surrogateescape") as tar:
        while (info := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # it would keep a million of them
            if info.offset <= last:
                raise ValueError("a header points backwards")
            last = info.offset
            member = Member(info.name, info.offset_data, info.size)
            if info.isdir():
                continue
            if info.issym() or info.islnk():
                yield Member(info.name, info.offset_data, 0, skip="link")
            elif info.issparse():
                yield _failing(member, "unsupported_archive", "a sparse tar member: repack the shard without --sparse")
            elif not info.isreg():
                yield Member(info.name, info.offset_data, 0, skip="not_a_file")
            else:
                yield member
        # tarfile ends quietly at the first header that it cannot read
        rest = reader.peek(tar.offset, 512)
        if tar.offset > size_bytes or any(rest):
            raise ValueError(f"no header where one should be, at byte {tar.offset} of {size_bytes}")


def _walk_zip(reader: _Reader, size_bytes: int, limits: ShardLimits) -> Iterator[Member]:
    try:
        archive = zipfile.ZipFile(reader)
    except zipfile.BadZipFile:
        yield from _walk_local_headers(reader, size_bytes)
        raise
    entries = sorted(archive.infolist(), key=lambda info: info.header_offset)
    names = {info.filename.lower() for info in entries}
    if names & set(_DOCUMENTS) or (entries and entries[0].filename == "mimetype"):
        raise MediaError("not_media", "a document or a program in zip form", stage="listing")
    end = 0
    for info in entries:
        if info.is_dir():
            continue
        header = reader.peek(info.header_offset, _LOCAL_HEADER.size)
        if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\x03\x04"):
            blank = Member(info.filename, max(info.header_offset, 0), info.file_size)
            yield _failing(blank, "damaged_archive", "no header where the directory says")
            continue
        fields = _LOCAL_HEADER.unpack(header)
        start = info.header_offset + _LOCAL_HEADER.size + fields[-2] + fields[-1]
        if info.header_offset < end:
            # How 42 kB become petabytes within any ratio: every member shares the bytes of the others (Fifield 2019).
            shared = Member(info.filename, start, info.file_size, info.compress_size)
            yield _failing(shared, "damaged_archive", "its bytes are those of the member before it too")
            continue
        end = start + info.compress_size
        is_link = info.create_system == 3 and info.external_attr >> 28 == 0xA
        yield _zip_member(
            info.filename, start, info.file_size, info.compress_size, info.compress_type, info.flag_bits, is_link
        )


def _walk_local_headers(reader: _Reader, size_bytes: int) -> Iterator[Member]:
    """A zip whose directory is lost, as after a broken download: from header to header, as long as they say lengths."""
    at = 0
    while len(header := reader.peek(at, _LOCAL_HEADER.size)) == _LOCAL_HEADER.size and header.startswith(b"PK\x03\x04"):
        _, _, flags, method, _, _, _, compressed, size, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        name = reader.peek(at + _LOCAL_HEADER.size, name_length).decode(
            "utf-8" if flags & 0x800 else "cp437", "replace"
        )
        start = at + _LOCAL_HEADER.size + name_length + extra_length
        if flags & 0x08 or 0xFFFFFFFF in (compressed, size) or start + compressed > size_bytes:
            return
        if not name.endswith("/"):
            yield _zip_member(name, start, size, compressed, method, flags, False)
        at = start + compressed


def _zip_member(name: str, start: int, size: int, compressed: int, method: int, flags: int, is_link: bool) -> Member:
    member = Member(name, start, size, None if method == zipfile.ZIP_STORED else compressed)
    if is_link:
        return Member(name, start, 0, skip="link")
    if flags & 0x1:
        return _failing(member, "encrypted", "the member needs a password")
    if method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return _failing(
            member, "unsupported_archive", f"zip compression {method}: only stored and deflated members are read"
        )
    if method == zipfile.ZIP_STORED and compressed != size:
        return _failing(member, "damaged_archive", f"stored, but {compressed} bytes are said to hold {size}")
    return member


class _BeforeStart(OSError):
    """What a file raises that is sought before its start; zipfile counts on it."""


class _Reader(io.RawIOBase):
    """A seekable file over ranges of a blob. Reads ahead the further, the longer it goes straight on: a shard of
    small members is read in 8 MB pieces, one of films header by header."""

    def __init__(self, blob: Blob, size_bytes: int, max_read: int):
        self._blob, self._size, self._max_read = blob, size_bytes, max_read
        self._at, self._start, self._buffer, self._ahead = 0, 0, b"", _FIRST_READ

    def peek(self, offset: int, length: int) -> bytes:
        """At most `length` bytes from `offset` on, fewer at the end of the file."""
        if offset < 0 or length > self._max_read:
            raise ValueError(f"a header asks for {length} bytes at byte {offset}")
        length = max(min(length, self._size - offset), 0)
        inside = offset - self._start
        if inside < 0 or inside + length > len(self._buffer):
            onward = 0 <= inside <= len(self._buffer) + _FIRST_READ and self._buffer
            self._ahead = min(self._ahead * 2, _MOST_READ) if onward else _FIRST_READ
            self._buffer = (
                self._blob.read(offset, min(max(length, self._ahead), self._size - offset)) if length else b""
            )
            self._start, inside = offset, 0
        return self._buffer[inside : inside + length]

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise _BeforeStart(f"a header points to byte {base + offset}")
        self._at = base + offset
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        wanted = max(self._size - self._at, 0) if size is None or size < 0 else size
        data = self.peek(self._at, wanted)
        self._at += len(data)
        return data
