"""Ctrl-C and SIGTERM while a runner has the word: it would make a fault of some step of them."""

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
"""Signals that came while the body runs."""


def heed_signals() -> None:
    """Raises KeyboardInterrupt where a signal came since `interruptible` began: a library that catches all that it
    calls may have swallowed it. To be asked where the work can be left at once, between two waves."""
    if _CAME:
        raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[None]:
    """Ends the body with KeyboardInterrupt when one of the signals came, whatever was made of it in between.

    A handler may happen to run inside a destructor or a weak reference's callback, out of which nothing can be raised:
    Python reports that to `sys.unraisablehook`, and here the signal is then sent once more.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's business
        return
    came = _CAME
    came.clear()
    main = threading.main_thread().ident
    reported = sys.unraisablehook
    over = threading.Event()
    resent: list[threading.Timer] = []

    def heed(number: int, frame: FrameType | None) -> None:
        if over.is_set():
            return  # the body has ended by the first of them: a later one must not hit what closes down
        came.append(number)
        end_waits()  # threads that wait for a store or nap: the process would wait for them
        raise KeyboardInterrupt

    def unraisable(lost: Any) -> None:
        if not came or lost.exc_type is not KeyboardInterrupt or main is None:
            reported(lost)
            return
        # From a thread and a little later: here it would be raised inside this hook, and be lost again.
        again = threading.Timer(AGAIN_SECONDS, signal.pthread_kill, (main, came[-1]))
        again.daemon = True
        resent.append(again)
        again.start()

    before = {number: signal.signal(number, heed) for number in SIGNALS}
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
