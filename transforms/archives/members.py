"""What the walks over tars and zips share: the members that they find, their limits, and reads by range."""

from __future__ import annotations

from dataclasses import dataclass

from ..failures import MediaError
from ..storage.sources import MAX_FILE_BYTES, Blob

_FIRST_READ = 64 << 10
_MOST_READ = 8 << 20


@dataclass(frozen=True, slots=True)
class ShardLimits:
    """What an archive may cost us. Its depth needs no limit: archives inside it are never opened (`nested_archive`)."""

    max_members: int = 1_000_000
    max_bytes: int = MAX_FILE_BYTES
    """Bytes of one member, inflated."""
    max_ratio: int = 1000
    """Inflated bytes of a member to its deflated bytes. Digital silence comes close to this; deflate itself ends at
    1032. Members may not overlap, so the limit holds for the whole archive too."""
    max_directory_bytes: int = 128 << 20
    """Bytes of a zip's directory, which is held in memory whole. One number for each entry is kept besides."""
    max_tar_header_bytes: int = 1 << 20
    """Bytes of one extended tar header (long names, PAX)."""


@dataclass(frozen=True, slots=True)
class Member:
    name: str
    """As written in the shard. Bytes that are not UTF-8 become surrogates."""
    offset: int
    """Bytes from the shard's start to the member's first data byte."""
    size_bytes: int
    """Inflated, as declared."""
    compressed_bytes: int | None = None
    """Bytes in the shard if it is deflated, else None."""
    skip: str | None = None
    failure: MediaError | None = None


def failing(member: Member, error_class: str, message: str) -> Member:
    error = MediaError(error_class, message, stage="listing")
    return Member(member.name, member.offset, member.size_bytes, member.compressed_bytes, failure=error)


class Reader:
    """Ranges of a blob of `size_bytes`. The longer reads continue without a jump, the further it reads ahead: a shard
    of small members is read in 8 MB pieces, a shard of films header by header."""

    def __init__(self, blob: Blob, size_bytes: int):
        self.size_bytes = size_bytes
        self._blob = blob
        self._start, self._buffer, self._ahead = 0, b"", _FIRST_READ

    def peek(self, offset: int, length: int) -> bytes:
        """At most `length` bytes from `offset` on, fewer at the end of the file. The caller has to bound both."""
        length = max(min(length, self.size_bytes - offset), 0)
        inside = offset - self._start
        if inside < 0 or inside + length > len(self._buffer):
            onward = 0 <= inside <= len(self._buffer) + _FIRST_READ and self._buffer
            self._ahead = min(self._ahead * 2, _MOST_READ) if onward else _FIRST_READ
            self._buffer = (
                self._blob.read(offset, min(max(length, self._ahead), self.size_bytes - offset)) if length else b""
            )
            self._start, inside = offset, 0
        return self._buffer[inside : inside + length]
