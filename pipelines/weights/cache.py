"""The weights cache: where it is, and what it holds.

    CACHE/<detector>/<file>          published weights
    CACHE/hf/<owner>/<repo>/<file>   models from the hub

CACHE is a folder or any fsspec URL, so that the machines of a cluster can share a mirror. From a URL each file is
copied to this machine before it is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from ...models.weights.files import LocalFile, WeightsFile
from ...transforms.failures import UsageError, printable
from ...transforms.storage.clients import open_store
from ...transforms.storage.downloads import NotFound, WrongFile, fetch, local_file, look
from ...transforms.storage.output_store import CONDITIONAL_PUTS, OutputStore
from ...transforms.storage.requests import ask
from ...transforms.storage.retries import LISTING, retried
from ...transforms.storage.uris import escape, is_remote, local_path, scheme_of, split_remote

MIRRORS = ".mirrors"
"""Folder in the user's own cache for local copies of files from caches that are URLs."""
PULLED = ".pulled.json"
"""File beside weights whose checksums are not on record. It has the checksums that they had when pulled, and the
revision."""
HUB_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", re.ASCII)
"""OWNER/REPO, optionally with @REVISION."""


def weights_folder(override: str | None = None) -> str:
    """The cache as an absolute path or a URL: `override`, else $DEEPHOTLINK_WEIGHTS, else a folder in the user's own
    cache."""
    named = override or os.environ.get("DEEPHOTLINK_WEIGHTS") or str(_home())
    return named.rstrip("/") if is_remote(named) else os.fsdecode(local_path(named))


def _home() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "deephotlink" / "weights"


def local_root(cache: str) -> Path:
    """The local folder from which files of the cache are read: the cache itself, or its mirror if it is a URL."""
    if not is_remote(cache):
        return Path(cache)
    return _home() / MIRRORS / hashlib.sha256(split_remote(cache)[0].encode()).hexdigest()[:16]


def at_hand(cache: str, detector: str, file: WeightsFile) -> LocalFile | None:
    """A published detector's file from the cache, checked against the record; None if the cache does not hold it.

    Raises:
        UsageError: the cache holds another file under its name.
        WorldError: the cache is a URL and does not answer.
    """
    name = f"{detector}/{file.file_name}"
    try:
        if is_remote(cache):
            found = _mirrored(cache, name, file.sha256, file.size_bytes)
        else:
            look(os.path.join(cache, name))
            found = local_file(os.path.join(cache, name))
    except NotFound:
        return None
    except WrongFile as error:
        raise UsageError(f"{error}: {_refresh(detector)}") from None
    if (file.size_bytes and found.size_bytes != file.size_bytes) or (file.sha256 and found.sha256 != file.sha256):
        raise UsageError(
            f"expected sha256 {file.sha256 or '(not on record)'}, {file.size_bytes or '?'} bytes in {shown(cache)}/"
            f"{name}, got {found.sha256}, {found.size_bytes} bytes: {_refresh(detector)}"
        )
    return found


def _refresh(detector: str) -> str:
    return f'look with "deephotlink weights verify {detector}", replace it with "deephotlink weights pull {detector}"'


def _mirrored(cache: str, name: str, sha256: str = "", size_bytes: int = 0) -> LocalFile:
    """A local copy of a file from a cache that is a URL."""
    root, address = local_root(cache), below(cache, name)
    found, copy = look(address), root / name
    if copy.is_file() and copy.stat().st_size == found.size_bytes:
        file = local_file(copy)
        if not sha256 or file.sha256 == sha256:
            return file
    return fetch(address, root, name, sha256, size_bytes)


def mirror_hub(cache: str, reference: str) -> Path:
    """The local folder that holds the cache's `hf/OWNER/REPO`. If the cache is a URL, its files are copied there."""
    root, folder = local_root(cache), f"hf/{reference.partition('@')[0]}"
    if is_remote(cache) and HUB_NAME.fullmatch(reference):
        for name in listed(cache, folder):
            _mirrored(cache, name)
    return root


def below(base: str, name: str) -> str:
    """The address of `name` in a folder or URL. The query of a URL stays at the end."""
    if not is_remote(base):
        return os.path.join(os.fsdecode(local_path(base)), name)
    if scheme_of(base) in ("http", "https"):
        parts = urlsplit(base)
        return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))
    return f"{base.rstrip('/')}/{name}"


def shown(cache: str) -> str:
    """The cache's address, safe to print."""
    return printable(escape(split_remote(cache)[0]) if is_remote(cache) else cache, 1000)


def listed(cache: str, folder: str = "") -> list[str]:
    """Sorted names of all files in a folder of the cache, without our own notes and unfinished files."""
    names = OutputStore(cache, patience_seconds=15.0).list(folder)
    return [name for name in (n.lstrip("/") for n in names) if not any(p.startswith(".") for p in name.split("/"))]


def upload(path: str, address: str) -> None:
    """Writes a local file to a store as one object. Readers find the whole of it or nothing.

    Raises:
        UsageError, WorldError: the store does not accept it.
    """
    shown = escape(split_remote(address)[0])
    fs, target = open_store(address)
    whole = scheme_of(address) in CONDITIONAL_PUTS

    def put() -> None:
        fs.makedirs(target.rpartition("/")[0], exist_ok=True)
        aside = target if whole else f"{target}.part"
        ask(fs, "put_file", path, aside, length=os.path.getsize(path))
        if not whole:
            fs.mv(aside, target)
        if ask(fs, "info", target)["size"] != os.path.getsize(path):
            raise OSError("only part of it arrived")

    try:
        retried(f"write {shown}", put, LISTING)
    except FileNotFoundError:
        raise UsageError(f"cannot write {shown}: there is no such bucket or container") from None


def note(cache: str, folder: str, files: dict[str, str], source: str, revision: str = "") -> None:
    """Stores the checksums (`files`: sha256 by name) of a folder's files that are not on record, with their source and
    revision."""
    text = json.dumps({"source": source, "revision": revision, "files": files}, indent=1, sort_keys=True)
    path = local_root(cache) / folder / PULLED
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{PULLED}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)
    if is_remote(cache):
        upload(str(path), below(cache, f"{folder}/{PULLED}"))


def noted(cache: str, folder: str) -> dict[str, Any]:
    """What `note` stored for a folder: `source`, `revision`, `files` (sha256 by name); empty if there is nothing."""
    try:
        found = json.loads(OutputStore(cache, patience_seconds=15.0).read(f"{folder}/{PULLED}"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("files"), dict) else {}
