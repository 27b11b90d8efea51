"""The temporary folder of one command, for staged files and live counters. Nothing in it long outlives the command."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = "deephotlink-spool-"
LOCK = ".lock"


@contextmanager
def spool_folder() -> Iterator[Path]:
    """A new folder, locked while the body runs. Also removes the folders of commands that were killed.

    The lock says whether a command is alive. A process id could not: it means nothing to another container that shares
    the parent folder.
    """
    parent = Path(tempfile.gettempdir())
    for stale in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), open(stale / LOCK, "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(stale, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    # Beam makes temporary folders of its own, and leaves them behind if it is interrupted.
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield folder
    finally:
        tempfile.tempdir = before
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)
