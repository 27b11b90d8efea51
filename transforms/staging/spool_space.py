"""Limit on what is in the spool at a time. Staging a file takes room for it; removing the file gives the room back."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..failures import WorldError
from ..storage.requests import LOOK_SECONDS, check_for_signal
from ..storage.retries import describe_error

FREE_SHARE = 0.5
"""Default limit, as a share of what is free on the disk when the first file is staged."""


class _Others:
    """What the other processes of this command hold: each has a folder beside that of this one, with a note in it. A
    folder goes with its process, and so does what it held."""

    NOTE, TURN = ".held", ".turn"

    def __init__(self, folder: Path):
        self.folder = folder
        self._note = os.open(folder / self.NOTE, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._turn = os.open(folder.parent / self.TURN, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def tell(self, used_bytes: int) -> None:
        os.pwrite(self._note, used_bytes.to_bytes(8, "little", signed=True), 0)

    def used_bytes(self) -> int:
        total = 0
        for note in self.folder.parent.glob(f"*/{self.NOTE}"):
            if note.parent != self.folder:
                with contextlib.suppress(OSError):  # it was removed just now
                    total += int.from_bytes(note.read_bytes()[:8], "little", signed=True)
        return total

    def take_turn(self) -> bool:
        """Whether it is this process's turn to take room, until it says `pass_turn` or ends. A lock, so that the first
        to wait for room gets it: a large file would wait for ever behind small ones."""
        try:
            fcntl.flock(self._turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def pass_turn(self) -> None:
        fcntl.flock(self._turn, fcntl.LOCK_UN)


class SpoolRoom:
    """Bytes of staged files, bounded. Room is given in the order of tickets, which is the order in which files are
    consumed: otherwise a later file could take the room and then not be released before an earlier one that waits for
    it. A file that is larger than all the room is let in alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._limit_bytes: int | None = None
        self._used_bytes = 0
        self.peak_bytes = 0
        self._held: dict[str, int] = {}
        self._tickets = 0
        self._outstanding: set[int] = set()
        self._others: _Others | None = None

    def share(self, folder: Path) -> None:
        """From now on the room is that of all processes which have a folder beside this one, of this process alone."""
        with self._changed:
            if self._others is None or self._others.folder != folder:
                self._others = _Others(folder)
                self._others.tell(self._used_bytes)

    def bound(self, limit_bytes: int | None, folder: Path) -> None:
        """Sets the limit. None means half of what is free on the disk of `folder`, looked up once."""
        with self._changed:
            if limit_bytes is not None:
                self._limit_bytes = limit_bytes
            elif self._limit_bytes is None:
                self._limit_bytes = int(FREE_SHARE * shutil.disk_usage(folder).free)
            self._changed.notify_all()

    def ticket(self) -> int:
        """A place in the order. `take` or `pass_on` has to use it up, or those after it wait for ever."""
        with self._changed:
            self._tickets += 1
            self._outstanding.add(self._tickets)
            return self._tickets

    def pass_on(self, ticket: int | None) -> None:
        """Gives up a ticket whose holder needs no room, or no more of it. May be called twice."""
        with self._changed:
            self._outstanding.discard(ticket or 0)
            self._changed.notify_all()

    def take(self, ticket: int | None, size_bytes: int) -> None:
        """Waits for room and takes it. Without a ticket takes it at once: such a caller may hold other room itself.

        Raises:
            WorldError: somebody else gave up the ticket, because the file is no longer wanted.
        """
        with self._changed:
            try:
                while ticket is not None:
                    if ticket not in self._outstanding:
                        raise WorldError("the file is no longer wanted")
                    if ticket == min(self._outstanding) and self._fits(size_bytes):
                        self._outstanding.discard(ticket)
                        break
                    check_for_signal()
                    self._changed.wait(LOOK_SECONDS)
                self._use(size_bytes)
            finally:
                if self._others is not None and ticket is not None:
                    self._others.pass_turn()

    def _use(self, size_bytes: int) -> None:
        self._used_bytes += size_bytes
        self.peak_bytes = max(self.peak_bytes, self._used_bytes)
        if self._others is not None:
            self._others.tell(self._used_bytes)
        self._changed.notify_all()

    def _fits(self, size_bytes: int) -> bool:
        limit, used = self._limit_bytes, self._used_bytes
        if limit is not None and self._others is not None:
            if not self._others.take_turn():
                return False
            used += self._others.used_bytes()
        return limit is None or used == 0 or used + size_bytes <= limit

    def hold(self, path: str, size_bytes: int) -> None:
        """Assigns the room that was taken to the file at `path`."""
        with self._changed:
            self._held[path] = size_bytes

    def give_back(self, path_or_size: str | int) -> None:
        """Gives back the room of a removed file (its path), or of one that was never created (its size)."""
        with self._changed:
            size = self._held.pop(path_or_size, 0) if isinstance(path_or_size, str) else path_or_size
            self._use(-size)


ROOM = SpoolRoom()
"""The room of this process."""


def private(path: str, flags: int) -> int:
    """An opener for staged files, which nobody else may read."""
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


@contextmanager
def spool_faults() -> Iterator[None]:
    """Raises WorldError for an OSError in the body."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        what = "the spool folder is full" if full else "cannot write to the spool"
        way_out = ": free some space or set TMPDIR to another folder" if full else ""
        raise WorldError(f"{what} ({describe_error(error)}){way_out}") from None
