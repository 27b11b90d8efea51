"""What runs in a worker: wave after wave, each a Beam job in this process, until the command hangs up."""

from __future__ import annotations

import os
import tempfile
import traceback
from multiprocessing.connection import Connection
from pathlib import Path

from ...transforms.failures import UsageError, WorldError
from ...transforms.media.children.shared_pool import close_shared_pool
from ...transforms.metrics import FOLDER_VARIABLE
from ...transforms.staging.spool_space import ROOM
from ..interrupts import heed_signals, interruptible
from ..waves import run_wave
from .cost import Meter
from .messages import Done, Work

INTERRUPTED = 130


class WorkerFault(Exception):
    """A mistake of ours in a worker: its traceback, as text."""


def work(connection: Connection) -> int:
    """Answers each Work with a Done; returns the exit code."""
    try:
        with interruptible():
            while True:
                try:
                    asked: Work | None = connection.recv()
                except (EOFError, OSError):
                    return 0
                if asked is None:
                    return 0
                os.environ[FOLDER_VARIABLE] = asked.counters
                tempfile.tempdir = asked.wave.spool  # Beam's own temporary folders
                ROOM.share(Path(asked.wave.spool))
                answer = _score(asked)
                heed_signals()
                connection.send(answer)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the command has gone
        return 0
    finally:
        close_shared_pool()


def _score(asked: Work) -> Done:
    meter = Meter() if asked.metered else None
    try:
        run_wave(asked.wave)
    except Exception as error:
        heed_signals()
        return Done(sendable(error))
    return Done(cost=meter.read() if meter is not None else None)


def sendable(error: Exception) -> Exception:
    """What another process is to raise: what was foreseen as it is, a mistake of ours as its traceback."""
    for kind in (UsageError, WorldError, MemoryError):
        if isinstance(error, kind):
            return kind(str(error))
    if isinstance(error, OSError):
        return OSError(error.errno, error.strerror, error.filename)
    return WorkerFault("".join(traceback.format_exception(error)))
