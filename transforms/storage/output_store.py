"""Storage of an output: objects that are put once, whole or not at all, and never change.

Everything a run leaves behind goes through `put_new`. Two rules make units and tables exactly-once: the first put of a
name wins, and no reader ever sees half an object. That takes no lock, no rename and no clock.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import IO, Any, BinaryIO, TypeVar

import fsspec

from ..failures import MediaError, UsageError, WorldError, printable
from .durable_files import TEMPORARY, CannotLink, link, make_folders, parts_of, rename_alone, sync_folder, written
from .output_names import FOLDERS
from .ranges import Retried, client_options, range_of, seekable
from .requests import ask
from .retries import Patience, is_refusal, is_storage_fault, retried, root_error
from .uris import redact

T = TypeVar("T")
Names = list[str]

CONDITIONAL_PUTS = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "memory"}
"""Protocols whose fsspec file system sends `mode="create"` as a condition (If-None-Match, ifGenerationMatch=0,
overwrite=False). The others look first and then write, which two processes may do at the same time."""
READ_ONLY = {"http", "https"}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EISDIR}
_OUR_TEMPORARY = re.compile(re.escape(TEMPORARY) + "[0-9a-f]{32}")
ATTEMPTS = 10
"""Attempts at an object that arrives short or cut."""
LOCAL_SECONDS = 5.0
"""How long a local folder that fails is retried."""
_MEMORY_LOCK = threading.Lock()


@dataclass(frozen=True, slots=True)
class OutputStore:
    """The folder or URI of an output. Small and picklable: file systems hold secrets, so they are opened where needed.

    Every method takes names relative to the root, with `/`. They raise UsageError if nothing may be written (or read),
    and WorldError if storage failed for `patience_seconds`.
    """

    root: str
    """A local path, or an fsspec URI."""
    single_committer: bool = False
    """Whether this process must be the only writer, because the store does not refuse a second put."""
    patience_seconds: float = 600.0
    """How long a store that answers with errors is retried."""

    @property
    def is_local(self) -> bool:
        return "://" not in self.root or self.root.startswith("file://")

    def path(self, name: str) -> str:
        """The local path, or the URI, of `name`."""
        if self.is_local:
            return os.path.join(os.path.abspath(self.root.removeprefix("file://")), *name.split("/"))
        return f"{self.root.rstrip('/')}/{name}".rstrip("/")

    def put_new(self, name: str, data: bytes | IO[bytes]) -> bool:
        """Puts `data`, or the whole content of a file, as `name` unless that exists. Returns whether this call did it.

        After True the object is whole and durable. After False an earlier object is there. After an error there is
        either nothing or the whole object.
        """
        put = self._put_local if self.is_local else self._put_remote
        try:
            return self._retried(f"write {name}", lambda: put(name, data))
        except CannotLink as e:
            raise WorldError(
                f"cannot write {name}: the file system under {self.root} has no hard links ({e})"
            ) from None

    def read(self, name: str) -> bytes:
        """All bytes of `name`. Raises FileNotFoundError."""

        def read() -> bytes:
            if self.is_local:
                with open(self.path(name), "rb") as f:
                    return f.read()
            return self._range(name, 0, self._size(name))

        return self._retried(f"read {name}", read)

    def open(self, name: str) -> BinaryIO:
        """A seekable file, for reading parts of it. Each read of a remote file is retried."""
        if self.is_local:
            return open(self.path(name), "rb")
        size = self._retried(f"read {name}", lambda: self._size(name))
        return seekable(size, lambda at, length: self._retried(f"read {name}", lambda: self._range(name, at, length)))

    def _size(self, name: str) -> int:
        fs, path = self._remote(name)
        return int(ask(fs, "info", path)["size"])

    def _range(self, name: str, start: int, length: int) -> bytes:
        data = range_of(*self._remote(name), start, length) if length else b""
        if data is None or len(data) != length:  # some clients return a short body as success
            raise OSError(errno.EIO, f"got {len(data or b'')} bytes of {length} from byte {start} on")
        return data

    def exists(self, name: str) -> bool:
        if self.is_local:
            return os.path.lexists(self.path(name))
        return self._retried(f"look up {name}", lambda: self._remote_exists(name))

    def list(self, prefix: str) -> Names:
        """Names of all objects in the folder `prefix` and below it, sorted. Empty if there is no such folder."""

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
                found = ask(fs, "find", path)
            except FileNotFoundError:
                return []
            return [f"{prefix}{p[len(path) :]}" for p in found if p.startswith(path + "/")]

        return sorted(walk() if self.is_local else self._retried(f"list {prefix}", find))

    def folders(self, prefix: str) -> Names:
        """Names of the folders directly in the folder `prefix`, sorted, without the prefix."""

        def children() -> Names:
            if self.is_local:
                with contextlib.suppress(FileNotFoundError), os.scandir(self.path(prefix)) as entries:
                    return [entry.name for entry in entries if entry.is_dir()]
                return []
            fs, path = self._remote(prefix)
            try:
                found = ask(fs, "ls", path, detail=True)
            except FileNotFoundError:
                return []
            return [entry["name"].rstrip("/").rsplit("/", 1)[-1] for entry in found if entry["type"] == "directory"]

        return sorted(self._retried(f"list {prefix}", children))

    def canary(self) -> bool:
        """Puts one name twice. Returns whether the store accepted the first put and refused the second, as it must."""
        self._refuse_read_only()
        name = f"_runs/.canary-{uuid.uuid4().hex}"
        hasty = replace(self, single_committer=False, patience_seconds=min(self.patience_seconds, 15.0))
        try:
            put = hasty._put_local if self.is_local else hasty._put_remote
            enforced = hasty._retried("write", lambda: put(name, b"first"))
            enforced = enforced and not hasty._retried("write", lambda: put(name, b"second"))
            enforced = enforced and hasty.read(name) == b"first"
        except CannotLink:
            return False
        finally:
            with contextlib.suppress(Exception):  # a store may forbid deletion; a leftover canary is harmless
                self._delete(name)
        return enforced and (self.is_local or self._protocol() in CONDITIONAL_PUTS)

    def replace(self, name: str, data: bytes) -> None:
        """Puts a page that may change. It is put whole or not at all, and the last one wins."""

        def put() -> None:
            if not self.is_local:
                self._refuse_read_only()
                fs, path = self._remote(name)
                ask(fs, "pipe_file", path, data, length=len(data))
                return
            folder = os.path.dirname(self.path(name))
            make_folders(folder)
            make_folders(self.path("_runs"))  # the temporary file goes where `sweep` looks
            with written(self.path("_runs"), data) as temporary:
                os.replace(temporary, self.path(name))
            sync_folder(folder)

        self._retried(f"write {name}", put)

    def sweep(self) -> None:
        """Removes temporary files that nobody holds a lock on: their writers were killed."""
        if not self.is_local:
            return
        for top in FOLDERS:
            for folder, _, files in os.walk(self.path(top)):
                for file in filter(_OUR_TEMPORARY.fullmatch, files):
                    with contextlib.suppress(OSError), open(os.path.join(folder, file), "rb") as f:
                        fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        os.unlink(f.name)

    def filesystem(self) -> Any:
        """The fsspec file system of a remote root. Never keep it in anything that is pickled: it holds secrets."""
        return self._remote("")[0]

    def patient_filesystem(self) -> Any:
        """The same for DuckDB. What is read through it is retried."""

        def open_file(path: str) -> BinaryIO:
            fs, root = self._remote("")
            bare = fs._strip_protocol(path)
            name = bare.removeprefix(root).lstrip("/")
            return self.open(name) if self._remote(name)[1] == bare else fs.open(path, "rb")

        return Retried(self.filesystem, lambda call: self._retried("read what is there", call), open_file)

    def _put_local(self, name: str, data: bytes | IO[bytes]) -> bool:
        path = self.path(name)
        folder = os.path.dirname(path)
        if os.path.lexists(path):
            return False
        make_folders(folder)
        with written(folder, data) as temporary:
            made = rename_alone(self.path(""), temporary, path) if self.single_committer else link(temporary, path)
        sync_folder(folder)
        return made

    def _put_remote(self, name: str, data: bytes | IO[bytes]) -> bool:
        self._refuse_read_only()
        data = b"".join(parts_of(data))  # in one put, so that the object is there whole or not at all
        fs, path = self._remote(name)
        if self.single_committer:
            if ask(fs, "exists", path):
                return False
            if self._protocol() in CONDITIONAL_PUTS:
                ask(fs, "pipe_file", path, data, length=len(data))
                return True
            temporary = f"{path.rpartition('/')[0]}/{TEMPORARY}{uuid.uuid4().hex}"
            fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            ask(fs, "pipe_file", temporary, data, length=len(data))
            fs.mv(temporary, path)
            return True
        try:
            # The memory file system looks first and then writes: only our own lock makes that safe among threads.
            with _MEMORY_LOCK if self._protocol() == "memory" else contextlib.nullcontext():
                ask(fs, "pipe_file", path, data, mode="create", length=len(data))
            return True
        except Exception:
            # A refusal is a FileExistsError, a ResourceExistsError or a bare OSError 22 (radosgw). Whatever it was, an
            # object that exists is whole and was first: another writer's, or ours if the answer to our put was lost.
            if self._remote_exists(name):
                return False
            raise

    def _remote_exists(self, name: str) -> bool:
        fs, path = self._remote(name)
        return bool(ask(fs, "exists", path))

    def _delete(self, name: str) -> None:
        if self.is_local:
            os.unlink(self.path(name))
        else:
            fs, path = self._remote(name)
            ask(fs, "rm_file", path)

    def _protocol(self) -> str:
        return self.root.partition("://")[0].lower()

    def _refuse_read_only(self) -> None:
        if not self.is_local and self._protocol() in READ_ONLY:
            raise UsageError(f"{self._shown} cannot be written to: name a folder or the URI of an object store")

    @property
    def _shown(self) -> str:
        return self.root if self.is_local else printable(redact(self.root), limit=1000)

    def _remote(self, name: str) -> tuple[Any, str]:
        try:
            # A cached listing would hide what others have put since.
            fs, path = fsspec.core.url_to_fs(self.path(name), use_listings_cache=False, **client_options(self.root))
        except (ImportError, ValueError) as e:
            raise UsageError(f"cannot open the output {self._shown}: {printable(redact(str(e)))}") from None
        return fs, path.rstrip("/")

    def _retried(self, what: str, operation: Callable[[], T]) -> T:
        """Calls `operation` by the retry policy of all stores (`retries.retried`); words its faults for users."""

        def attempt(renewed: bool = False) -> T:
            try:
                return operation()
            except (UsageError, WorldError, CannotLink, NotImplementedError):
                raise
            except Exception as raised:
                error = root_error(raised)
                if not self.is_local and not renewed and is_refusal(error):
                    type(self.filesystem()).clear_instance_cache()  # a new client reads the credentials again
                    return attempt(renewed=True)
                raise self._fault(what, error) from None

        seconds = min(self.patience_seconds, LOCAL_SECONDS) if self.is_local else self.patience_seconds
        try:
            return retried(f"{what} in {self._shown}", attempt, Patience(ATTEMPTS, seconds), say=_first_words)
        except FileNotFoundError:
            if what.startswith("read"):
                raise
            raise UsageError(f"cannot {what} in {self._shown}: there is no such bucket or container") from None
        except MediaError as error:
            raise WorldError(f"cannot {what} in {self._shown}: {error.message}") from None

    def _fault(self, what: str, error: Exception) -> Exception:
        number = getattr(error, "errno", None)
        if number in _FULL:
            return WorldError(f"cannot {what}: no space left in {self._shown}: free some; what is committed stays")
        if isinstance(error, PermissionError) or (self.is_local and number in _DENIED):
            reason = printable(redact(str(getattr(error, "strerror", None) or error)), 200)
            return UsageError(f"cannot {what} in {self._shown}: {reason}")
        if isinstance(error, FileNotFoundError) and self.is_local and not what.startswith("read"):
            return _Fault(_first_words(error))  # another process has removed the folder
        # An error that a client raises because it cannot read an answer is the store's fault too.
        return error if is_storage_fault(error) else _Fault(_first_words(error))


class _Fault(OSError):
    pass


def _first_words(error: BaseException) -> str:
    """The only part of a store's message that is repeated: the rest may hold a signed URL."""
    kind = "" if isinstance(error, _Fault) else f"{type(error).__name__}: "
    return kind + printable(redact(str(error)).partition("?")[0], 200)


def holds_runs(root: str) -> bool:
    """Whether any run was begun in `root`. A folder `_runs` alone does not show that: the canary creates it too."""
    store = OutputStore(root, patience_seconds=15.0)
    store._refuse_read_only()
    return bool(store.folders("_runs"))


def open_store(root: str) -> tuple[OutputStore, str | None]:
    """The store for a writer, tested with `canary`, and a warning if only one process may write to it."""
    store = OutputStore(root)
    store.sweep()
    if store.canary():
        return store, None
    what = "this file system has no hard links" if store.is_local else "this store accepts a second put of a name"
    return replace(store, single_committer=True), (
        f"{what}, so nothing stops two jobs from writing the same output: run only one at a time on {root}"
    )
