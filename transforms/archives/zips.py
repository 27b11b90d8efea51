"""The members of a zip, from its directory, in bounded memory.

Does not use `zipfile.ZipFile`: it makes an object of 800 bytes for every entry before anyone can count them. Format:
PKWARE's APPNOTE 6.3.10, 4.3 (records) and 4.5.3 (zip64).
"""

from __future__ import annotations

import struct
import zipfile
from array import array
from collections.abc import Iterator
from typing import NamedTuple

from ..failures import MediaError
from .members import Member, Reader, ShardLimits, failing

_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
"""Signature, version, flags, method, time, date, crc, compressed, size, length of name, length of extra."""
_ENTRY = struct.Struct("<4s6H3I5H2I")
"""Signature, made by, version, flags, method, time, date, crc, compressed, size, lengths of name, extra and comment,
disk, internal attributes, external attributes, offset of the local header."""
_END = struct.Struct("<4s4H2IH")
"""Signature, four numbers of disks and entries, size and offset of the directory, length of the comment."""
_END_64, _LOCATOR_64 = 56, 20
"""Sizes in bytes of the zip64 records before the end record."""
_ELSEWHERE = 0xFFFFFFFF
"""Stands for a number that is in the zip64 extra field."""
_IS_UTF8 = 0x800
_DOCUMENTS = frozenset({"[content_types].xml", "meta-inf/manifest.mf", "meta-inf/container.xml", "androidmanifest.xml"})


class _Entry(NamedTuple):
    name: str
    offset: int
    """Offset of the local header, as written."""
    size: int
    compressed: int
    method: int
    flags: int
    is_link: bool
    end: int
    """Bytes from the directory's start to the next entry."""


class _NoDirectory(ValueError):
    pass


def walk_zip(reader: Reader, limits: ShardLimits) -> Iterator[Member]:
    """All members except folders, in their order in the file; at most `max_members` + 1.

    Raises:
        MediaError: `not_media`, before any member, for a document or a program; `too_large`, after the readable ones.
        ValueError: it is damaged; raised after the readable members.
    """
    try:
        start, length, shift = _find_directory(reader)
        directory = reader.peek(start, min(length, limits.max_directory_bytes))
        places = _in_file_order(directory, len(directory) == length, limits.max_members + 1)
    except _NoDirectory:
        yield from _walk_local_headers(reader)
        raise
    yield from _walk_entries(reader, directory, places, shift)
    if len(directory) < length:
        message = f"a directory of {length} bytes: at most {limits.max_directory_bytes} are allowed"
        raise MediaError("too_large", message, stage="listing")


def _find_directory(reader: Reader) -> tuple[int, int, int]:
    """(start, length, shift) of the directory. The offsets in it are off by `shift` if something was put before the
    zip."""
    tail_at = max(reader.size_bytes - _END.size - 0xFFFF, 0)
    tail = reader.peek(tail_at, _END.size + 0xFFFF)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + _END.size > len(tail):
        raise _NoDirectory("no directory at its end")
    *_, length, offset, _ = _END.unpack_from(tail, at)
    end = tail_at + at
    if end >= _END_64 + _LOCATOR_64:
        record = reader.peek(end - _LOCATOR_64 - _END_64, _END_64 + _LOCATOR_64)
        if record.startswith(b"PK\x06\x06") and record.startswith(b"PK\x06\x07", _END_64):
            length, offset = struct.unpack_from("<QQ", record, 40)
            end -= _END_64 + _LOCATOR_64
    if length > end:
        raise _NoDirectory(f"a directory of {length} bytes that ends at byte {end}")
    return end - length, length, end - length - offset


def _in_file_order(directory: bytes, whole: bool, most: int) -> array[int]:
    """Positions in the directory of its first `most` members, in the order of the members in the file.

    Raises MediaError: `not_media`.
    """
    keys: list[int] = []
    at = 0
    first, first_offset = "", 1 << 64
    while at < len(directory) and len(keys) < most:
        entry = _entry(directory, at)
        if entry is None:
            if whole:
                raise _NoDirectory("its directory ends in the middle of an entry")
            break
        if entry.name.lower() in _DOCUMENTS:
            raise _document()
        if entry.offset < first_offset:
            first, first_offset = entry.name, entry.offset
        if not entry.name.endswith("/"):
            keys.append(entry.offset << 32 | at)  # one number: a million tuples would take five times the memory
        at = entry.end
    if first == "mimetype":
        raise _document()
    keys.sort()
    return array("L", (key & 0xFFFFFFFF for key in keys))


def _document() -> MediaError:
    return MediaError("not_media", "a document or a program in zip form", stage="listing")


def _entry(directory: bytes, at: int) -> _Entry | None:
    """The entry at `at`; None if the directory ends before the entry does."""
    if not directory.startswith(b"PK\x01\x02"[: len(directory) - at], at):
        raise _NoDirectory(f"no entry at byte {at} of its directory")
    if at + _ENTRY.size > len(directory):
        return None
    _, made_by, _, flags, method, _, _, _, compressed, size, *lengths, _, _, external, offset = _ENTRY.unpack_from(
        directory, at
    )
    name_at = at + _ENTRY.size
    extra_at = name_at + lengths[0]
    end = name_at + sum(lengths)
    if end > len(directory):
        return None
    if _ELSEWHERE in (size, compressed, offset):
        extra = directory[extra_at : extra_at + lengths[1]]
        size, compressed, offset = _of_zip64(extra, (size, compressed, offset))
    is_link = made_by >> 8 == 3 and external >> 28 == 0xA
    return _Entry(_name(directory[name_at:extra_at], flags), offset, size, compressed, method, flags, is_link, end)


def _of_zip64(extra: bytes, numbers: tuple[int, int, int]) -> tuple[int, int, int]:
    """`numbers`, with the missing ones taken from the zip64 extra field, which has them in the same order."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            wide = [number for (number,) in struct.iter_unpack("<Q", extra[at + 4 : at + 4 + length // 8 * 8])]
            if len(wide) < numbers.count(_ELSEWHERE):
                raise _NoDirectory("an entry of its directory is incomplete")
            size, compressed, offset = (wide.pop(0) if number == _ELSEWHERE else number for number in numbers)
            return size, compressed, offset
        at += 4 + length
    return numbers


def _name(name: bytes, flags: int) -> str:
    if flags & _IS_UTF8 or name.isascii():
        return name.decode("utf-8", "surrogateescape")
    return name.decode("cp437")


def _walk_entries(reader: Reader, directory: bytes, places: array[int], shift: int) -> Iterator[Member]:
    end = 0
    for at in places:
        entry = _entry(directory, at)
        assert entry is not None
        offset = entry.offset + shift
        header = reader.peek(offset, _LOCAL_HEADER.size) if offset >= 0 else b""
        if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\x03\x04"):
            blank = Member(entry.name, max(offset, 0), entry.size)
            yield failing(blank, "damaged_archive", "no header where the directory says it is")
            continue
        fields = _LOCAL_HEADER.unpack(header)
        start = offset + _LOCAL_HEADER.size + fields[-2] + fields[-1]
        if offset < end:
            # This is how 42 kB become petabytes within any ratio: members share each other's bytes (Fifield 2019).
            shared = Member(entry.name, start, entry.size, entry.compressed)
            yield failing(shared, "damaged_archive", "it shares bytes with the member before it")
            continue
        end = start + entry.compressed
        yield _member(entry.name, start, entry.size, entry.compressed, entry.method, entry.flags, entry.is_link)


def _walk_local_headers(reader: Reader) -> Iterator[Member]:
    """Members of a zip whose directory is lost, as after a broken download. Follows the headers as long as they give
    lengths."""
    at = 0
    while len(header := reader.peek(at, _LOCAL_HEADER.size)) == _LOCAL_HEADER.size and header.startswith(b"PK\x03\x04"):
        _, _, flags, method, _, _, _, compressed, size, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        name = _name(reader.peek(at + _LOCAL_HEADER.size, name_length), flags)
        start = at + _LOCAL_HEADER.size + name_length + extra_length
        if flags & 0x08 or _ELSEWHERE in (compressed, size) or start + compressed > reader.size_bytes:
            return
        if not name.endswith("/"):
            yield _member(name, start, size, compressed, method, flags, False)
        at = start + compressed


def _member(name: str, start: int, size: int, compressed: int, method: int, flags: int, is_link: bool) -> Member:
    member = Member(name, start, size, None if method == zipfile.ZIP_STORED else compressed)
    if is_link:
        return Member(name, start, 0, skip="link")
    if flags & 0x1:
        return failing(member, "encrypted", "the member needs a password")
    if method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return failing(
            member, "unsupported_archive", f"zip compression {method}: only stored and deflated members can be read"
        )
    if method == zipfile.ZIP_STORED and compressed != size:
        return failing(member, "damaged_archive", f"stored, but {compressed} bytes claim to hold {size}")
    return member
