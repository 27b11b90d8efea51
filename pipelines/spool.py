"""The folder of one command's own: staged files, live counters. Nothing in it outlives the command for long."""

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
    """A new folder, locked while the body runs; on the way those are removed whose holders were killed.

    The lock, and not a process id, tells who lives: ids mean nothing to another container that shares the folder.
    """
    parent = Path(tempfile.gettempdir())
    for stale in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), open(stale / LOCK, "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(stale, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    # Beam makes temporary folders of its own, and leaves them where it is interrupted.
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield folder
    finally:
        tempfile.tempdir = before
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)
