"""Local files that exist whole or not at all, even after a power cut: written under a temporary name, synced, then
named."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import uuid
from collections.abc import Iterator
from typing import IO

TEMPORARY = ".tmp-"
"""Prefix of the names of unfinished local files. No reader's `*.parquet` matches it."""
_PART_BYTES = 4 << 20
_CANNOT_LINK = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL}


class CannotLink(Exception):
    """This file system has no hard links."""


@contextlib.contextmanager
def written(folder: str, data: bytes | IO[bytes]) -> Iterator[str]:
    """A temporary file that holds `data`, durable and locked. It is removed afterwards, unless it was renamed."""
    temporary = os.path.join(folder, f"{TEMPORARY}{uuid.uuid4().hex}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with contextlib.suppress(OSError):  # the lock only tells `sweep` that the writer is alive
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for part in parts_of(data):
            rest = memoryview(part)
            while rest:
                rest = rest[os.write(fd, rest) :]
        os.fsync(fd)
        yield temporary
    finally:
        os.close(fd)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def parts_of(data: bytes | IO[bytes]) -> Iterator[bytes]:
    """`data` in parts. A file is read whole, from its start."""
    if isinstance(data, bytes):
        yield data
        return
    data.seek(0)
    yield from iter(lambda: data.read(_PART_BYTES), b"")


def link(temporary: str, path: str) -> bool:
    """Gives the file its name unless that is taken. Returns whether it did. Raises CannotLink."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as e:
        if e.errno in _CANNOT_LINK:
            raise CannotLink(os.strerror(e.errno or 0)) from e
        raise
    return True


def rename_alone(root: str, temporary: str, path: str) -> bool:
    """Like `link`, for file systems without hard links. A lock that dies with its holder makes look and rename one
    step."""
    os.makedirs(os.path.join(root, "_runs"), exist_ok=True)
    with open(os.path.join(root, "_runs", ".lock"), "ab") as lock:
        with contextlib.suppress(OSError):  # no locks here either: the user was warned
            fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.lexists(path):
            return False
        os.rename(temporary, path)
    return True


def make_folders(folder: str) -> None:
    """Like `os.makedirs`, but durable: the entry of each new folder is synced too."""
    if os.path.isdir(folder):
        return
    make_folders(os.path.dirname(folder))
    with contextlib.suppress(FileExistsError):
        os.mkdir(folder)
        sync_folder(os.path.dirname(folder))


def sync_folder(folder: str) -> None:
    """Makes the names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as e:
        if e.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # some network file systems cannot
            raise
    finally:
        os.close(fd)
