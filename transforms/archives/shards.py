"""Contents of a tar or zip shard, from one walk over its headers: names, offsets, lengths. Nothing is ever extracted.

`tars.py` and `zips.py` read the two formats. Names are never used as paths.
"""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator
from typing import Literal

from ..failures import MediaError, UsageError, WorldError
from ..records import MediaFile
from ..storage.sources import Blob
from ..storage.uris import escape, media_id_of, name_bytes
from .members import Member, Reader, ShardLimits, failing
from .tars import walk_tar
from .zips import walk_zip

_LARGEST = (1 << 63) - 1
"""Largest offset or size in a file. The tables hold no larger number either."""


def shard_kind(head: bytes, name: str = "") -> Literal["tar", "zip", "unsupported"] | None:
    """Kind of archive, if a file that begins with `head` is one whose members could be media, else None. `name` decides
    only when nothing else can: for an empty tar, which is all zeros, and for compressed tars."""
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
        # The inflated start may end before a tar's magic.
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
    """The members of a shard except its folders, in their order in the file.

    Raises:
        MediaError: `damaged_archive` or `too_large`, after the readable members; `not_media`, before any, for a zip
            that is a document or a program (docx, epub, jar, …).
        WorldError: the store failed.
    """
    reader = Reader(blob, size_bytes)
    walk = walk_tar(reader, limits) if kind == "tar" else walk_zip(reader, limits)
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
        raise WorldError(f"cannot read {blob.uri}") from error
    except Exception as error:
        # Parsers raise nearly anything on hostile bytes. The store's faults were handled above.
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
    numbers = (member.offset, member.size_bytes, member.compressed_bytes or 0)
    if min(numbers) < 0 or max(numbers) > _LARGEST:
        # Both formats can hold such numbers. Neither a read nor a table may ever see them.
        claim = f"a header claims {member.size_bytes} bytes at byte {member.offset}"
        return failing(Member(member.name, min(max(member.offset, 0), _LARGEST), 0), "damaged_archive", claim)
    if member.skip or member.failure:
        return member
    stored = member.size_bytes if member.compressed_bytes is None else member.compressed_bytes
    message = None
    if member.offset + stored > size_bytes:
        return failing(member, "truncated", "the shard ends before the member does")
    if member.size_bytes > limits.max_bytes:
        message = f"{member.size_bytes} bytes: at most {limits.max_bytes} are allowed"
    elif member.size_bytes > limits.max_ratio * max(stored, 1):
        message = (
            f"{stored} bytes that inflate to {member.size_bytes}: at most {limits.max_ratio} times as many are allowed"
        )
    if message:
        return failing(member, "too_large", message)
    if member.size_bytes == 0:
        return Member(member.name, member.offset, 0, member.compressed_bytes, skip="empty")
    return member
