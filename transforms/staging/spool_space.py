"""How much may lie in the spool at a time: whoever stages a file takes room for it, and gives it back with the file."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..failures import WorldError
from ..storage.requests import LOOK_SECONDS, heed
from ..storage.retries import tell

FREE_SHARE = 0.5
"""Of what is free on the disk when the first file is staged, unless told otherwise."""


class SpoolRoom:
    """Bytes of staged files, bounded. Room is given in the order of tickets, which is that in which files are consumed:
    a later file that had taken it could not be let go of before an earlier one that waits for it. A file that is larger
    than all the room is let in alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._limit_bytes: int | None = None
        self._used_bytes = 0
        self.peak_bytes = 0
        self._held: dict[str, int] = {}
        self._tickets = 0
        self._outstanding: set[int] = set()

    def bound(self, limit_bytes: int | None, folder: Path) -> None:
        """None: half of what is free where `folder` lies, looked up once."""
        with self._changed:
            if limit_bytes is not None:
                self._limit_bytes = limit_bytes
            elif self._limit_bytes is None:
                self._limit_bytes = int(FREE_SHARE * shutil.disk_usage(folder).free)
            self._changed.notify_all()

    def ticket(self) -> int:
        """A place in the order. It has to be used up by `take` or `pass_on`, or those after it wait for ever."""
        with self._changed:
            self._tickets += 1
            self._outstanding.add(self._tickets)
            return self._tickets

    def pass_on(self, ticket: int | None) -> None:
        """Whoever holds this ticket needs no room, or no more of it. May be said twice."""
        with self._changed:
            self._outstanding.discard(ticket or 0)
            self._changed.notify_all()

    def take(self, ticket: int | None, size_bytes: int) -> None:
        """Waits for room. Without a ticket it is taken at once: such a caller may hold other room itself.

        Raises:
            WorldError: the ticket was passed on by somebody else, who wants no more of this file.
        """
        with self._changed:
            while ticket is not None:
                if ticket not in self._outstanding:
                    raise WorldError("the file is no longer wanted")
                if ticket == min(self._outstanding) and self._fits(size_bytes):
                    self._outstanding.discard(ticket)
                    break
                heed()
                self._changed.wait(LOOK_SECONDS)
            self._used_bytes += size_bytes
            self.peak_bytes = max(self.peak_bytes, self._used_bytes)
            self._changed.notify_all()

    def _fits(self, size_bytes: int) -> bool:
        limit = self._limit_bytes
        return limit is None or self._used_bytes == 0 or self._used_bytes + size_bytes <= limit

    def hold(self, path: str, size_bytes: int) -> None:
        """The room that was taken is that of the file at `path`."""
        with self._changed:
            self._held[path] = size_bytes

    def give_back(self, path_or_size: str | int) -> None:
        """Of a file that is gone, or of one that never came to be."""
        with self._changed:
            size = self._held.pop(path_or_size, 0) if isinstance(path_or_size, str) else path_or_size
            self._used_bytes -= size
            self._changed.notify_all()


ROOM = SpoolRoom()
"""This process's."""


def private(path: str, flags: int) -> int:
    """An opener: nobody else may read what is staged."""
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


@contextmanager
def spool_faults() -> Iterator[None]:
    """Raises WorldError for an OSError of the body."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        what = "the spool folder is full" if full else "cannot write to the spool"
        way_out = ": free some space or set TMPDIR to another folder" if full else ""
        raise WorldError(f"{what} ({tell(error)}){way_out}") from None
