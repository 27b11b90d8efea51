"""Feeds workers with files whose bytes are fetched only when they are read. The worker's side: containers/fed_file.py.

In the spool such a file has its full length, but is empty at first. Before a worker reads a stretch of it, it asks on a
separate socket. The parent has the bytes written into the file and answers. So a worker needs no network, and a large
file of which one clip every ten seconds is wanted need not be fetched whole.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Protocol

from ...failures import MediaError, WorldError
from ..containers.fed_file import ASKED, HERE
from .sockets import blocking_pair


class Source(Protocol):
    """A file in the spool that fills as it is read."""

    path: str
    """Absolute."""
    size_bytes: int

    def fetch(self, start: int, length: int) -> None:
        """Writes bytes [start, start + length) into the file. Called from several threads. Raises MediaError or
        WorldError."""


_announced: dict[str, Source] = {}


def announce(source: Source) -> None:
    """From now on, workers that read `source.path` are fed."""
    _announced[source.path] = source


def withdraw(path: str) -> None:
    """From now on, no new worker is fed from `path`. May be called twice."""
    _announced.pop(path, None)


def source_of(path: str) -> Source | None:
    return _announced.get(path)


class Feeder:
    """Feeds one worker until it or the parent hangs up. Trusts nothing: a worker can only ask for a stretch of this one
    file, and the bytes only go into this file, whatever the worker does with them."""

    def __init__(self, source: Source):
        self._source = source
        self._ours, self.theirs = blocking_pair()
        self.fetching = False
        """Whether the worker is waiting for the store: this time is not held against it."""
        self.error: MediaError | WorldError | None = None
        """Why feeding it failed; None if it did not."""
        threading.Thread(target=self._serve, name="deephotlink-feed", daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError), self._ours:
            while len(asked := self._ours.recv(ASKED.size, socket.MSG_WAITALL)) == ASKED.size:
                start, length = ASKED.unpack(asked)
                length = min(length, self._source.size_bytes - start)
                if length > 0 and not self._fetched(start, length):
                    return
                self._ours.sendall(HERE)

    def _fetched(self, start: int, length: int) -> bool:
        self.fetching = True
        try:
            self._source.fetch(start, length)
        except (MediaError, WorldError) as error:
            self.error = error
        except (Exception, KeyboardInterrupt) as error:  # our bug, or a signal: the worker must not go on waiting
            self.error = WorldError(f"cannot feed a decoder process: {type(error).__name__}: {error}")
        finally:
            self.fetching = False
        return self.error is None

    def close(self) -> None:
        """Hangs up. A fetch in progress ends by itself."""
        with contextlib.suppress(OSError):
            self._ours.shutdown(socket.SHUT_RDWR)
