"""Where the output lies: objects that are put once, whole or not at all, and never change.

Everything that a run leaves behind goes through `put_new`; that the first put of a name wins and no reader ever sees
half an object is all that the exactly-once of units and tables rests on. No lock, no rename, no clock.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, TypeVar

import fsspec

from .durable import TEMPORARY, CannotLink, link, make_folders, rename_alone, sync_folder, written
from .failures import UsageError, WorldError, printable
from .tables import TABLES
from .uris import redact

T = TypeVar("T")
Names = list[str]

FOLDERS = ("_runs", "_resume", "_weights", *TABLES)
"""All that is ours in an output, but for its page: whatever else lies there is the user's."""
PAGE = "summary.html"
"""What was found, for people; rewritten by each run."""
CONDITIONAL_PUTS = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "memory"}
"""Protocols whose fsspec file system sends `mode="create"` on as a condition (If-None-Match, ifGenerationMatch=0,
overwrite=False). The others look first and write then, which two processes may do at once."""
READ_ONLY = {"http", "https"}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EISDIR}
_OUR_TEMPORARY = re.compile(re.escape(TEMPORARY) + "[0-9a-f]{32}")
_MEMORY_LOCK = threading.Lock()


@dataclass(frozen=True, slots=True)
class OutputStore:
    """The folder or URI of an output. Small and picklable: file systems, which hold secrets, are opened where needed.

    Every method takes names relative to the root, with `/`. They raise UsageError where nothing may be written (or
    read), WorldError where storage did not do its part for `patience_seconds`.
    """

    root: str
    """A local path, or an fsspec URI."""
    single_committer: bool = False
    """Whether this process must be the only one that writes, because the store does not refuse a second put."""
    patience_seconds: float = 600.0
    """How long a store that answers with errors is tried again."""

    @property
    def is_local(self) -> bool:
        return "://" not in self.root or self.root.startswith("file://")

    def path(self, name: str) -> str:
        """The local path, or the URI, of `name`."""
        if self.is_local:
            return os.path.join(os.path.abspath(self.root.removeprefix("file://")), *name.split("/"))
        return f"{self.root.rstrip('/')}/{name}".rstrip("/")

    def put_new(self, name: str, data: bytes) -> bool:
        """Puts `data` as `name` unless it is there already; whether it was this call that made it.

        After True the object is whole and durable. After False somebody's earlier object stands. After an error there
        is either nothing or the whole object.
        """
        put = self._put_local if self.is_local else self._put_remote
        try:
            return self._retried(f"write {name}", lambda: put(name, data))
        except CannotLink as e:
            raise WorldError(
                f"cannot write {name}: the file system under {self.root} has no hard links ({e})"
            ) from None

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError where there is none."""

        def read() -> bytes:
            with self.open(name) as f:
                data = f.read()
            if not self.is_local:
                # Some clients hand over a short body as success.
                fs, path = self._remote(name)
                if len(data) != fs.size(path):
                    raise OSError(errno.EIO, f"got {len(data)} bytes of {fs.size(path)}")
            return data

        return self._retried(f"read {name}", read)

    def open(self, name: str) -> BinaryIO:
        """A seekable file, for reading parts of it."""
        if self.is_local:
            return open(self.path(name), "rb")
        fs, path = self._remote(name)
        return fs.open(path, "rb")

    def exists(self, name: str) -> bool:
        if self.is_local:
            return os.path.lexists(self.path(name))
        return self._retried(f"look up {name}", lambda: self._remote_exists(name))

    def list(self, prefix: str) -> Names:
        """Names of all objects in the folder `prefix` and those below it, sorted; none where there is no folder."""

        def walk() -> Iterator[str]:
            top = self.path(prefix)
            for folder, _, files in os.walk(top):
                inner = os.path.relpath(folder, top)
                for file in files:
                    if not file.startswith(TEMPORARY):
                        yield "/".join([prefix, *([] if inner == "." else inner.split(os.sep)), file])

        def find() -> Names:
            fs, path = self._remote(prefix)
            try:
                found = fs.find(path)
            except FileNotFoundError:
                return []
            return [f"{prefix}{p[len(path) :]}" for p in found if p.startswith(path + "/")]

        return sorted(walk() if self.is_local else self._retried(f"list {prefix}", find))

    def folders(self, prefix: str) -> Names:
        """Names of the folders right in the folder `prefix`, sorted, without it."""

        def children() -> Names:
            if self.is_local:
                with contextlib.suppress(FileNotFoundError), os.scandir(self.path(prefix)) as entries:
                    return [entry.name for entry in entries if entry.is_dir()]
                return []
            fs, path = self._remote(prefix)
            try:
                found = fs.ls(path, detail=True)
            except FileNotFoundError:
                return []
            return [entry["name"].rstrip("/").rsplit("/", 1)[-1] for entry in found if entry["type"] == "directory"]

        return sorted(self._retried(f"list {prefix}", children))

    def canary(self) -> bool:
        """Puts one name twice; whether the store took the first and refused the second, as it must."""
        self._refuse_read_only()
        name = f"_runs/.canary-{uuid.uuid4().hex}"
        hasty = replace(self, single_committer=False, patience_seconds=min(self.patience_seconds, 15.0))
        try:
            enforced = hasty._retried("write", lambda: hasty._put(name, b"first"))
            enforced = enforced and not hasty._retried("write", lambda: hasty._put(name, b"second"))
            enforced = enforced and hasty.read(name) == b"first"
        except CannotLink:
            return False
        finally:
            with contextlib.suppress(Exception):  # a store may forbid deletion; a stray canary harms nobody
                self._delete(name)
        return enforced and (self.is_local or self._protocol() in CONDITIONAL_PUTS)

    def replace(self, name: str, data: bytes) -> None:
        """Puts a page that may change: whole or not at all, the last one wins."""

        def put() -> None:
            if not self.is_local:
                self._refuse_read_only()
                fs, path = self._remote(name)
                fs.pipe_file(path, data)
                return
            folder = os.path.dirname(self.path(name))
            make_folders(folder)
            make_folders(self.path("_runs"))  # the temporary file goes where `sweep` looks
            with written(self.path("_runs"), data) as temporary:
                os.replace(temporary, self.path(name))
            sync_folder(folder)

        self._retried(f"write {name}", put)

    def sweep(self) -> None:
        """Removes temporary files of our writers that were killed: those that nobody holds a lock on."""
        if not self.is_local:
            return
        for top in FOLDERS:
            for folder, _, files in os.walk(self.path(top)):
                for file in filter(_OUR_TEMPORARY.fullmatch, files):
                    with contextlib.suppress(OSError), open(os.path.join(folder, file), "rb") as f:
                        fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        os.unlink(f.name)

    def filesystem(self) -> Any:
        """The fsspec file system of a remote root. Do not keep it in anything that is pickled: it holds secrets."""
        return self._remote("")[0]

    def _put(self, name: str, data: bytes) -> bool:
        return self._put_local(name, data) if self.is_local else self._put_remote(name, data)

    def _put_local(self, name: str, data: bytes) -> bool:
        path = self.path(name)
        folder = os.path.dirname(path)
        if os.path.lexists(path):
            return False
        make_folders(folder)
        with written(folder, data) as temporary:
            made = rename_alone(self.path(""), temporary, path) if self.single_committer else link(temporary, path)
        sync_folder(folder)
        return made

    def _put_remote(self, name: str, data: bytes) -> bool:
        self._refuse_read_only()
        fs, path = self._remote(name)
        if self.single_committer:
            if fs.exists(path):
                return False
            if self._protocol() in CONDITIONAL_PUTS:
                fs.pipe_file(path, data)
                return True
            temporary = f"{path.rpartition('/')[0]}/{TEMPORARY}{uuid.uuid4().hex}"
            fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            fs.pipe_file(temporary, data)
            fs.mv(temporary, path)
            return True
        try:
            # The memory file system looks first and writes then: safe among threads under our own lock only.
            with _MEMORY_LOCK if self._protocol() == "memory" else contextlib.nullcontext():
                fs.pipe_file(path, data, mode="create")
            return True
        except Exception:
            # Refusals come as FileExistsError, ResourceExistsError or a bare OSError 22 (radosgw). Whatever it was: an
            # object that stands is whole and was first, be it another's or our own of a put whose answer was lost.
            if self._remote_exists(name):
                return False
            raise

    def _remote_exists(self, name: str) -> bool:
        fs, path = self._remote(name)
        return bool(fs.exists(path))

    def _delete(self, name: str) -> None:
        if self.is_local:
            os.unlink(self.path(name))
        else:
            fs, path = self._remote(name)
            fs.rm_file(path)

    def _protocol(self) -> str:
        return self.root.partition("://")[0].lower()

    def _refuse_read_only(self) -> None:
        if not self.is_local and self._protocol() in READ_ONLY:
            raise UsageError(f"{self._shown} cannot be written to: name a folder, or a URI of an object store")

    @property
    def _shown(self) -> str:
        return self.root if self.is_local else printable(redact(self.root), limit=1000)

    def _remote(self, name: str) -> tuple[Any, str]:
        try:
            # A cached listing would hide what others have put meanwhile.
            fs, path = fsspec.core.url_to_fs(self.path(name), use_listings_cache=False)
        except (ImportError, ValueError) as e:
            raise UsageError(f"cannot open the output {self._shown}: {printable(redact(str(e)))}") from None
        return fs, path.rstrip("/")

    def _retried(self, what: str, operation: Callable[[], T]) -> T:
        patience = min(self.patience_seconds, 5.0) if self.is_local else self.patience_seconds
        deadline, pause = time.monotonic() + patience, 0.25
        while True:
            try:
                return operation()
            except (UsageError, WorldError, CannotLink):
                raise
            except FileNotFoundError as e:
                if what.startswith("read"):
                    raise
                problem: Exception = e
                if not self.is_local:
                    message = f"cannot {what} in {self._shown}: there is no such bucket or container"
                    raise UsageError(message) from None
            except Exception as e:
                problem = e
                number = getattr(e, "errno", None)
                if number in _FULL:
                    raise WorldError(
                        f"cannot {what}: no space left in {self._shown}: free some; what is committed stays"
                    ) from None
                if isinstance(e, PermissionError) or (self.is_local and number in _DENIED):
                    reason = getattr(e, "strerror", None) or str(e)
                    said = printable(redact(str(reason)), 200)
                    raise UsageError(f"cannot {what} in {self._shown}: {said}") from None
            if time.monotonic() + pause > deadline:
                # The message of a store may hold a signed URL: its first words are all we repeat.
                text = printable(redact(str(problem)).partition("?")[0], 200)
                raise WorldError(f"cannot {what} in {self._shown}: {type(problem).__name__}: {text}") from None
            time.sleep(pause)
            pause = min(2 * pause, 30.0)


def holds_runs(root: str) -> bool:
    """Whether some run was begun in `root`: the folder `_runs` alone may be there for the canary."""
    store = OutputStore(root, patience_seconds=15.0)
    store._refuse_read_only()
    return bool(store.folders("_runs"))


def open_store(root: str) -> tuple[OutputStore, str | None]:
    """The store for a writer, its canary sung, and a warning where only one process may write to it."""
    store = OutputStore(root)
    store.sweep()
    if store.canary():
        return store, None
    what = "this file system has no hard links" if store.is_local else "this store lets a second put of a name through"
    return replace(store, single_committer=True), (
        f"{what}, so nothing stops two jobs from writing the same output: run only one at a time on {root}"
    )
