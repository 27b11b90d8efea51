"""Downloads of weights. A file is fetched whole and checked before it gets its name.

Its checksum is either on record or computed here. Takes a local path or a URL that fsspec opens, and leaves a local
file. A download folder holds

    ROOT/<detector>/<file>      checked
    ROOT/.objects/<sha256>      checked; was named by an address and has no other name
    ROOT/.partial/<key>         unfinished; only a killed process leaves one behind, and the next one resumes it
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec

from ...models.weights.files import LocalFile
from ..failures import MediaError, UsageError, WorldError
from .durable_files import sync_folder
from .retries import BACKOFF_SECONDS, ONCE, ShortRead, describe_error, is_storage_fault, retried
from .sources import CHUNK_BYTES, Found, LocalBlob, NoRanges, RemoteBlob, look_local, look_remote, open_blob
from .uris import is_remote, local_path, scheme_of

MAX_WEIGHTS_BYTES = 16 << 30
"""Limit for a file whose size is not on record."""
PARTIAL, OBJECTS = ".partial", ".objects"
LEAST_PIECE_BYTES = 128 << 10
"""Smallest range that is requested, after larger ones were cut."""
STREAMS = 4
"""How often a server that sends only whole files is asked for one."""
_EXTRAS = {"http": "http", "https": "http", "s3": "s3", "gs": "gcs", "az": "azure"}
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
Progress = Callable[[int, int], None]
"""Called with the bytes received so far and the bytes in all (0 if unknown)."""


class NotFound(UsageError):
    """There is nothing at the address, or no file."""


class WrongFile(UsageError):
    """The file at the address is not the one on record."""


def look(address: str) -> Found:
    """What is at a local path or a URL.

    Raises:
        NotFound: there is nothing, or no file.
        UsageError: this kind of URL cannot be opened here, or the file may not be read.
        WorldError: the store does not answer, or refuses us.
    """
    if is_remote(address):
        scheme = scheme_of(address)
        try:
            fsspec.get_filesystem_class(scheme)
        except ImportError:
            extra = _EXTRAS.get(scheme)
            way_out = f': pip install "deephotlink[{extra}]"' if extra else ""
            raise UsageError(f"cannot open {scheme}://: a package for it is not installed{way_out}") from None
        except ValueError:
            raise UsageError(f"cannot open {scheme}://: this kind of store is unknown") from None
        found = look_remote(address)
    else:
        found = look_local(local_path(address))
    if found.trouble in ("folder", "linked_folder", "not_a_file"):
        raise NotFound(f"expected a file at {found.uri}, found something else")
    if found.trouble == "unreadable":
        raise UsageError(f"{found.uri} cannot be read: permission denied")
    if found.trouble is not None and found.trouble != "unknown_size":
        raise NotFound(f"there is nothing at {found.uri}")
    return found


def fetch(
    address: str,
    root: Path,
    name: str | None = None,
    sha256: str = "",
    size_bytes: int = 0,
    progress: Progress | None = None,
) -> LocalFile:
    """Fetches the file at a local path or URL to `root/name`. Without a name, its checksum names it.

    The file gets its name only when it is whole, durable and of the given checksum and size, if any. What was received
    stays for the next call only if this process is killed; an error leaves nothing behind.

    Raises:
        NotFound, WrongFile, UsageError: the file is not to be had at this address.
        WorldError: the store or the disk failed, even after retries.
    """
    found = look(address)
    if size_bytes and found.trouble is None and found.size_bytes != size_bytes:
        raise WrongFile(f"expected {size_bytes} bytes at {found.uri}, it has {found.size_bytes}")
    limit = size_bytes or MAX_WEIGHTS_BYTES
    if found.size_bytes > limit:
        raise WrongFile(f"{found.uri} has {found.size_bytes} bytes, more than {limit}")
    with _download_faults(found.uri), _partial(root, found, sha256) as partial:
        if sha256 and (there := _already_saved(root, name, sha256)) is not None:
            os.unlink(partial.name)  # another process was faster
            return there
        resumed = os.fstat(partial.fileno()).st_size
        if resumed and not sha256:
            partial.truncate(0)  # without a checksum nothing shows whether the two parts fit
        got = _fill(found, partial, limit, progress)
        if resumed and sha256 and got != sha256:
            partial.truncate(0)
            got = _fill(found, partial, limit, progress)
        if sha256 and got != sha256:
            raise WrongFile(f"expected sha256 {sha256} at {found.uri}, got {got}")
        if not sha256 and look(address).version != found.version:
            raise WrongFile(f"{found.uri} was replaced while it was read")
        size = os.fstat(partial.fileno()).st_size
        os.fsync(partial.fileno())
        target = root / (name or f"{OBJECTS}/{got}")
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(partial.name, target)
        sync_folder(str(target.parent))
        return LocalFile(str(target), got, size_bytes=size)


def digest_of(address: str) -> tuple[str, int]:
    """sha256 (hex) and size in bytes of the file at a local path or URL. Raises what `fetch` raises."""
    found = look(address)
    digest, size = hashlib.sha256(), 0
    with _download_faults(found.uri):
        for part in _parts(found):
            if not part:
                digest, size = hashlib.sha256(), 0
            digest.update(part)
            size += len(part)
            if size > MAX_WEIGHTS_BYTES:
                raise WrongFile(f"{found.uri} has more than {MAX_WEIGHTS_BYTES} bytes")
    return digest.hexdigest(), size


def local_file(path: str | Path) -> LocalFile:
    """A file on this machine, with its present checksum and size. Raises what `fetch` raises."""
    absolute = os.path.abspath(path)
    sha256, size = digest_of(absolute)
    return LocalFile(absolute, sha256, size_bytes=size)


def _already_saved(root: Path, name: str | None, sha256: str) -> LocalFile | None:
    path = root / (name or f"{OBJECTS}/{sha256}")
    if not path.is_file():
        return None
    file = local_file(path)
    return file if file.sha256 == sha256 else None


@contextmanager
def _partial(root: Path, found: Found, sha256: str) -> Iterator[Any]:
    """The unfinished file for this source in its present state, locked. It is removed if the body fails, and stays only
    if the process is killed."""
    folder = root / PARTIAL
    source = hashlib.sha256(found.identity + b"\0" + sha256.encode()).hexdigest()[:32]
    state = hashlib.sha256(f"{found.size_bytes} {found.version}".encode()).hexdigest()[:16]
    path = folder / f"{source}-{state}"
    file = _locked(path)
    for other in folder.glob(f"{source}-*"):
        with contextlib.suppress(OSError), other.open("rb") as older:  # of an earlier state of the source
            if other != path:
                fcntl.flock(older, fcntl.LOCK_EX | fcntl.LOCK_NB)
                other.unlink()
    try:
        yield file
    except Exception:
        path.unlink(missing_ok=True)
        raise
    finally:
        file.close()
        with contextlib.suppress(OSError):
            folder.rmdir()


def _locked(path: Path) -> Any:
    """The file at `path`, created if needed, locked for this process: another that fetches the same file waits."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = open(path, "a+b", buffering=0)  # noqa: SIM115
        except FileNotFoundError:
            continue  # another process has finished and just removed the empty folder
        fcntl.flock(file, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.stat(path).st_ino == os.fstat(file.fileno()).st_ino:
                return file
        file.close()


def _fill(found: Found, partial: Any, limit: int, progress: Progress | None) -> str:
    """Downloads from the end of `partial` on. Returns the sha256 (hex) of the whole file."""
    digest, at = hashlib.sha256(), os.fstat(partial.fileno()).st_size
    if at > found.size_bytes:
        partial.truncate(0)
        at = 0
    for start in range(0, at, CHUNK_BYTES):
        digest.update(os.pread(partial.fileno(), min(CHUNK_BYTES, at - start), start))
    for part in _parts(found, at):
        if not part:
            partial.truncate(0)
            digest, at = hashlib.sha256(), 0
            continue
        at += len(part)
        if at > limit:
            raise WrongFile(f"{found.uri} has more than {limit} bytes")
        _write(partial, part)
        digest.update(part)
        if progress is not None:
            progress(at, found.size_bytes)
    return digest.hexdigest()


AGAIN = b""
"""Mark between parts: a server that sends only whole files starts over, so drop what came before."""


def _parts(found: Found, start: int = 0) -> Iterator[bytes]:
    """The bytes from `start` on. After an `AGAIN` they start from the beginning."""
    with open_blob(found.to_file()) as blob:
        at = start
        try:
            if found.trouble == "unknown_size":
                raise NoRanges(found.uri)
            piece = CHUNK_BYTES
            while at < found.size_bytes:
                length = min(piece, found.size_bytes - at)
                try:
                    part = _piece(blob, at, length, patient=piece == LEAST_PIECE_BYTES)
                except (WorldError, MediaError):
                    if piece == LEAST_PIECE_BYTES:
                        raise
                    piece = max(LEAST_PIECE_BYTES, piece // 8)
                    continue
                yield part
                at += length
                piece = min(CHUNK_BYTES, 2 * piece)
        except NoRanges:
            if isinstance(blob, LocalBlob):
                raise
            yield from _streamed(found, blob)


def _piece(blob: LocalBlob | RemoteBlob, start: int, length: int, patient: bool) -> bytes:
    """`length` bytes. A request that is cut loses what it received. So only the smallest one is retried patiently, and
    a connection that keeps breaking still makes progress."""
    if isinstance(blob, LocalBlob):
        return blob.read(start, length)
    return blob.read(start, length, None if patient else ONCE)


def _streamed(found: Found, blob: RemoteBlob) -> Iterator[bytes]:
    for _ in range(STREAMS - 1):
        try:
            yield AGAIN
            yield from _whole(found, blob)
            return
        except Exception as error:
            if not is_storage_fault(error):
                raise
            time.sleep(BACKOFF_SECONDS)
    yield AGAIN
    stream = _whole(found, blob)
    # The last attempt goes through `retried` only for its wording of what went wrong.
    while part := retried(f"read {found.uri}", lambda: next(stream, b""), ONCE):
        yield part


def _whole(found: Found, blob: RemoteBlob) -> Iterator[bytes]:
    total = 0
    for part in blob.stream():
        total += len(part)
        yield part
    if found.trouble is None and total != found.size_bytes:
        raise ShortRead(f"got {total} bytes of {found.size_bytes}")


def _write(file: Any, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


@contextmanager
def _download_faults(shown: str) -> Iterator[None]:
    """Raises what goes wrong in the body as a fault of the address (UsageError) or of the world (WorldError)."""
    try:
        yield
    except MediaError as error:
        if error.error_class == "missing":
            raise NotFound(f"there is nothing at {shown}") from None
        if error.error_class == "unreadable":
            raise UsageError(f"{shown} may not be read: {error.message}") from None
        raise WorldError(f"cannot read {shown}: {error.message}") from None
    except FileNotFoundError:
        raise NotFound(f"there is nothing at {shown}") from None
    except OSError as error:
        full = ": free some space" if error.errno in _FULL else ""
        raise WorldError(f"cannot save the download from {shown}: {describe_error(error)}{full}") from None
