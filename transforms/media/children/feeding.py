"""Files of which the parent fetches bytes only as a worker reads them: the parent's side (the worker's is fed.py).

Such a file lies in the spool as long as it is and empty at first. Before a worker reads a stretch of it, it asks on a
socket of its own; the parent has the bytes put into the file and answers. So a worker needs no network, and a film of
which a clip in ten seconds is wanted need not come as a whole.
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
        """Puts bytes [start, start + length) where they belong. From several threads. Raises MediaError, WorldError."""


_announced: dict[str, Source] = {}


def announce(source: Source) -> None:
    """From now on workers that read `source.path` are fed."""
    _announced[source.path] = source


def withdraw(path: str) -> None:
    """No further worker is fed from it. May be said twice."""
    _announced.pop(path, None)


def source_of(path: str) -> Source | None:
    return _announced.get(path)


class Feeder:
    """Feeds one worker, until it or the parent hangs up. Believes nothing: what is asked for is a stretch of this one
    file, and the bytes go into the file, whatever the worker makes of them."""

    def __init__(self, source: Source):
        self._source = source
        self._ours, self.theirs = blocking_pair()
        self.fetching = False
        """Whether the worker waits for the store: that time is not its own."""
        self.error: MediaError | WorldError | None = None
        """Why it could not be fed any more."""
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
        except (Exception, KeyboardInterrupt) as error:  # a mistake of ours, or a signal: the worker must not wait on
            self.error = WorldError(f"cannot feed a decoder process: {type(error).__name__}: {error}")
        finally:
            self.fetching = False
        return self.error is None

    def close(self) -> None:
        """Hangs up. A fetch that is under way ends by itself."""
        with contextlib.suppress(OSError):
            self._ours.shutdown(socket.SHUT_RDWR)
