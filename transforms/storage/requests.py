"""One request to a store: over in time, whatever dribbles in, and ended by Ctrl-C and SIGTERM in whichever thread.

A deadline of the client's own holds between two bytes only; a host that sends one a second would keep us for ever.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from typing import Any, TypeVar

from fsspec.asyn import AsyncFileSystem

T = TypeVar("T")

ATTEMPT_SECONDS = 60.0
LEAST_BYTES_PER_SECOND = 32 << 10
"""An attempt to read so many bytes may take `ATTEMPT_SECONDS` and what this rate takes: some hosts drip."""
PAGES_SECONDS = 3600.0
"""What a store may take to list a folder: of millions of objects, in thousands of answers."""
SILENCE = 0.75
"""Of `ATTEMPT_SECONDS`: who says nothing for so long is not there, and does not pass for one who drips."""
LOOK_SECONDS = 0.25
"""Between two looks whether a signal came."""
_ended: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


class SlowRead(OSError):
    """Bytes kept coming, but so few that an attempt ran out of time. No TimeoutError: of those fsspec makes its own."""


def end_waits() -> None:
    """Ends with KeyboardInterrupt what waits for a store or naps in any thread of now but the main one, and whatever
    else they begin. To be called by a signal's handler, which ends the main thread's waits itself: the threads of a
    pool would be waited for when the process ends."""
    _ended.update(set(threading.enumerate()) - {threading.main_thread()})


def heed() -> None:
    """Raises KeyboardInterrupt in a thread whose waits were ended."""
    if threading.current_thread() in _ended:
        raise KeyboardInterrupt


def nap(seconds: float) -> None:
    """Sleeps, unless a signal ends it."""
    while seconds > 0:
        heed()
        time.sleep(min(LOOK_SECONDS, seconds))
        seconds -= LOOK_SECONDS
    heed()


def seconds_for(length: int) -> float:
    """How long an attempt to read or write so many bytes may take."""
    return ATTEMPT_SECONDS + length / LEAST_BYTES_PER_SECOND


def too_slow() -> SlowRead:
    return SlowRead(f"it came more slowly than {LEAST_BYTES_PER_SECOND >> 10} KiB a second")


def ask(fs: Any, method: str, *args: Any, length: int = 0, **more: Any) -> Any:
    """What the file system's `method` gives, in the time that `length` bytes may take where its client is an
    asynchronous one. The others (FTP) have the limits of their sockets.

    Raises:
        SlowRead
    """
    inner = getattr(fs, f"_{method}", None) if isinstance(fs, AsyncFileSystem) else None
    if inner is None:
        return getattr(fs, method)(*args, **more)
    # Of `info` there may be two: a HEAD and a GET, or the object and the folder of that name.
    seconds = PAGES_SECONDS if method in ("ls", "find") else seconds_for(length) * (2 if method == "info" else 1)
    return in_time(fs, seconds, inner, *args, **more)


def in_time(fs: AsyncFileSystem, seconds: float, call: Callable[..., Awaitable[T]], *args: Any, **more: Any) -> T:
    """What `call` gives on the file system's own loop. Raises SlowRead where it takes longer; the connection is closed
    then."""

    async def bounded() -> T:
        try:
            async with asyncio.timeout(seconds) as clock:
                return await call(*args, **more)
        except TimeoutError:
            if clock.expired():
                raise too_slow() from None
            raise

    return _wait_for(asyncio.run_coroutine_threadsafe(bounded(), fs.loop))


def _wait_for(answer: Future[T]) -> T:
    try:
        while True:
            heed()
            try:
                return answer.result(LOOK_SECONDS)
            except NotYet:
                if answer.done():  # it is the answer that ran out of time
                    return answer.result()
    finally:
        answer.cancel()
