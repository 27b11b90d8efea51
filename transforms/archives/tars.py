"""The members of a tar, header by header, in bounded memory and in time proportional to its length.

Does not use `tarfile.TarFile`: it recurses for each extended header, searches their text in quadratic time, keeps
global headers and sparse maps without limit, and believes negative sizes. Blocks are still parsed by
`tarfile.TarInfo`. Formats: POSIX.1-2017 pax (ustar and extended headers), GNU tar's long names and sparse members.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator

from .members import Member, Reader, ShardLimits, failing

_BLOCK = tarfile.BLOCKSIZE
_LONG = {tarfile.GNUTYPE_LONGNAME: "path", tarfile.GNUTYPE_LONGLINK: "linkpath"}
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE)
_SPARSE = "GNU.sparse"


def walk_tar(reader: Reader, limits: ShardLimits) -> Iterator[Member]:
    """All members except folders. Raises ValueError or tarfile.HeaderError if a header is missing where one belongs."""
    at = 0
    lasting: dict[str, str] = {}
    headers: dict[str, str] = {}
    while any(block := reader.peek(at, _BLOCK)):
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise ValueError(f"no header at byte {at} of {reader.size_bytes}") from error
        data = at + _BLOCK
        if info.type in _PAX or info.type in _LONG:
            if not 0 <= info.size <= limits.max_tar_header_bytes:
                raise ValueError(f"an extended header of {info.size} bytes at byte {at}")
            body = reader.peek(data, info.size)
            found = _pax(body) if info.type in _PAX else {_LONG[info.type]: _text(body.partition(b"\0")[0])}
            if info.type == tarfile.XGLTYPE:
                lasting.update(found)
            else:
                headers = {**found, **headers}  # if several precede a member, the first counts
            at = data + _padded(info.size)
            continue
        if info.type == tarfile.GNUTYPE_SPARSE:
            data = _after_sparse_map(reader, block, data)
        headers = {**lasting, **headers}
        size = int(headers["size"]) if "size" in headers else info.size
        has_data = info.isreg() or info.type not in tarfile.SUPPORTED_TYPES
        # A negative size must not lead backwards; `list_members` reports it.
        at = data + (_padded(max(size, 0)) if has_data else 0)
        if not info.isdir():
            yield _member(info, headers, data, size)
        headers = {}
    if at > reader.size_bytes or headers:
        raise ValueError(f"no header at byte {at} of {reader.size_bytes}")


def _member(info: tarfile.TarInfo, headers: dict[str, str], data: int, size: int) -> Member:
    member = Member(headers.get("path", info.name).rstrip("/"), data, size)
    if info.issym() or info.islnk():
        return Member(member.name, data, 0, skip="link")
    if info.type == tarfile.GNUTYPE_SPARSE or _SPARSE in headers:
        return failing(member, "unsupported_archive", "a sparse tar member: repack the shard without --sparse")
    if not info.isreg():
        return Member(member.name, data, 0, skip="not_a_file")
    return member


def _pax(body: bytes) -> dict[str, str]:
    """The values that matter here, from records `LENGTH KEY=VALUE\\n`. LENGTH counts the whole record."""
    found: dict[str, str] = {}
    at = 0
    while at < len(body) and body[at]:
        digits, space, _ = body[at : at + 12].partition(b" ")
        length = int(digits) if space and digits.isdigit() else 0
        key, equals, value = body[at + len(digits) + 1 : at + length - 1].partition(b"=")
        if not equals or body[at + length - 1 : at + length] != b"\n":
            raise ValueError("an extended header with an invalid record")
        if key in (b"path", b"size"):
            found[key.decode()] = _text(value)
        elif key.startswith(_SPARSE.encode()):
            found[_SPARSE] = ""
        at += length
    return found


def _after_sparse_map(reader: Reader, block: bytes, data: int) -> int:
    """Offset of the data of an old GNU sparse member. Blocks that continue its map come before them."""
    more = block[482]
    while more:
        more = reader.peek(data, _BLOCK)[504]
        data += _BLOCK
    return data


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK
