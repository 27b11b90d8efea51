"""Handles Ctrl-C and SIGTERM while a Beam runner is in control, which would turn them into an error of some step."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from ..transforms.storage.requests import end_waits

SIGNALS = (signal.SIGINT, signal.SIGTERM)
AGAIN_SECONDS = 0.02
_CAME: list[int] = []
"""Signals that have arrived while the body of `interruptible` runs."""


def heed_signals() -> None:
    """Raises KeyboardInterrupt if a signal has arrived since `interruptible` began. A library that catches every
    exception may have swallowed it. Call this where the work can stop at once, such as between two waves."""
    if _CAME:
        raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[None]:
    """Ends the body with KeyboardInterrupt if a signal arrived, even if a library turned it into another error.

    The handler may run inside a destructor or a weak reference's callback, where nothing can be raised. Python then
    reports the exception to `sys.unraisablehook`, and our hook sends the signal again.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set signal handlers
        return
    came = _CAME
    came.clear()
    main = threading.main_thread().ident
    reported = sys.unraisablehook
    over = threading.Event()
    resent: list[threading.Timer] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if over.is_set():
            return  # the first signal has already ended the body: a later one must not interrupt the clean-up
        came.append(number)
        end_waits()  # wakes threads that wait for a store or sleep before a retry: the process would wait for them
        raise KeyboardInterrupt

    def unraisable(lost: Any) -> None:
        if not came or lost.exc_type is not KeyboardInterrupt or main is None:
            reported(lost)
            return
        # From a thread, a little later: raised here it would be inside this hook, and lost again.
        again = threading.Timer(AGAIN_SECONDS, signal.pthread_kill, (main, came[-1]))
        again.daemon = True
        resent.append(again)
        again.start()

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    sys.unraisablehook = unraisable
    try:
        yield
    except Exception:
        if came:
            raise KeyboardInterrupt from None
        raise
    finally:
        over.set()
        for again in resent:
            again.cancel()
            again.join()
        sys.unraisablehook = reported
        for number, handler in before.items():
            signal.signal(number, handler)
        came.clear()
