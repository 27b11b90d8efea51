"""One request to a store, with a time limit for the whole of it. Ctrl-C and SIGTERM end it in any thread.

The clients' own timeouts cover only the gap between two bytes: a host that sends one a second would hold us for ever.
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
"""An attempt may take `ATTEMPT_SECONDS` plus the time that its bytes take at this rate: some hosts only trickle."""
PAGES_SECONDS = 3600.0
"""How long a store may take to list a folder: of millions of objects, in thousands of answers."""
SILENCE = 0.75
"""Share of `ATTEMPT_SECONDS`. A host that sends nothing for that long counts as down, not as slow."""
LOOK_SECONDS = 0.25
"""Interval at which a wait checks for a signal."""
_ended: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


class SlowRead(OSError):
    """Bytes kept coming, but so few that an attempt ran out of time. Not a TimeoutError: fsspec replaces those."""


def end_waits() -> None:
    """Ends all waits for a store and all naps with KeyboardInterrupt, in every current thread except the main one, and
    all waits that these threads begin later. A signal handler calls it and ends the main thread's waits itself.
    Without it the process would wait at its end for the threads of a pool."""
    _ended.update(set(threading.enumerate()) - {threading.main_thread()})


def check_for_signal() -> None:
    """Raises KeyboardInterrupt in a thread whose waits were ended."""
    if threading.current_thread() in _ended:
        raise KeyboardInterrupt


def interruptible_sleep(seconds: float) -> None:
    """Sleeps, unless a signal ends it."""
    while seconds > 0:
        check_for_signal()
        time.sleep(min(LOOK_SECONDS, seconds))
        seconds -= LOOK_SECONDS
    check_for_signal()


def seconds_for(length: int) -> float:
    """How long an attempt to read or write `length` bytes may take."""
    return ATTEMPT_SECONDS + length / LEAST_BYTES_PER_SECOND


def too_slow() -> SlowRead:
    return SlowRead(f"data arrived more slowly than {LEAST_BYTES_PER_SECOND >> 10} KiB a second")


def ask(fs: Any, method: str, *args: Any, length: int = 0, **more: Any) -> Any:
    """Result of the file system's `method`. An asynchronous client has the time that `length` bytes may take; the
    others (FTP) have the timeouts of their sockets.

    Raises:
        SlowRead
    """
    inner = getattr(fs, f"_{method}", None) if isinstance(fs, AsyncFileSystem) else None
    if inner is None:
        return getattr(fs, method)(*args, **more)
    # `info` may send two requests: a HEAD and a GET, or one for the object and one for the folder of that name.
    seconds = PAGES_SECONDS if method in ("ls", "find") else seconds_for(length) * (2 if method == "info" else 1)
    return in_time(fs, seconds, inner, *args, **more)


def in_time(fs: AsyncFileSystem, seconds: float, call: Callable[..., Awaitable[T]], *args: Any, **more: Any) -> T:
    """Result of `call` on the file system's own loop. If it takes longer than `seconds`, the connection is closed and
    SlowRead raised."""

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
            check_for_signal()
            try:
                return answer.result(LOOK_SECONDS)
            except NotYet:
                if answer.done():  # the call itself ended with a TimeoutError
                    return answer.result()
    finally:
        answer.cancel()
