"""The cache of weights: where it is, and what it has at hand.

    CACHE/<detector>/<file>          published weights
    CACHE/hf/<owner>/<repo>/<file>   models of the hub

CACHE is a folder or any fsspec URL, so that the machines of a cluster may share a mirror. Of a URL each file is copied
to this machine before it is used.
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
"""In the cache at home: local copies of what was used out of a cache that is a URL."""
PULLED = ".pulled.json"
"""Beside files that no record knows the checksums of: what they were when they came, and the revision."""
HUB_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", re.ASCII)
"""OWNER/REPO and perhaps @REVISION."""


def weights_folder(override: str | None = None) -> str:
    """The cache: what is given, else DEEPHOTLINK_WEIGHTS, else a folder of the user's. An absolute path or a URL."""
    named = override or os.environ.get("DEEPHOTLINK_WEIGHTS") or str(_home())
    return named.rstrip("/") if is_remote(named) else os.fsdecode(local_path(named))


def _home() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "deephotlink" / "weights"


def local_root(cache: str) -> Path:
    """The folder on this machine that files of the cache are read from: the cache itself, or its mirror."""
    if not is_remote(cache):
        return Path(cache)
    return _home() / MIRRORS / hashlib.sha256(split_remote(cache)[0].encode()).hexdigest()[:16]


def at_hand(cache: str, detector: str, file: WeightsFile) -> LocalFile | None:
    """A file of a published detector out of the cache, as it is on record; None where the cache has none.

    Raises:
        UsageError: the cache holds another file under its name.
        WorldError: a cache that is a URL does not answer.
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
    """A file of a cache that is a URL, as a copy on this machine."""
    root, address = local_root(cache), below(cache, name)
    found, copy = look(address), root / name
    if copy.is_file() and copy.stat().st_size == found.size_bytes:
        file = local_file(copy)
        if not sha256 or file.sha256 == sha256:
            return file
    return fetch(address, root, name, sha256, size_bytes)


def mirror_hub(cache: str, reference: str) -> Path:
    """The local folder that holds `hf/OWNER/REPO` of the cache; what a cache that is a URL has there is copied."""
    root, folder = local_root(cache), f"hf/{reference.partition('@')[0]}"
    if is_remote(cache) and HUB_NAME.fullmatch(reference):
        for name in listed(cache, folder):
            _mirrored(cache, name)
    return root


def below(base: str, name: str) -> str:
    """The address of `name` in a folder or URL; what follows a `?` in it stays behind."""
    if not is_remote(base):
        return os.path.join(os.fsdecode(local_path(base)), name)
    if scheme_of(base) in ("http", "https"):
        parts = urlsplit(base)
        return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))
    return f"{base.rstrip('/')}/{name}"


def shown(cache: str) -> str:
    """The cache as it may be printed."""
    return printable(escape(split_remote(cache)[0]) if is_remote(cache) else cache, 1000)


def listed(cache: str, folder: str = "") -> list[str]:
    """Names of all files of the cache in a folder of it, sorted; our own notes and unfinished files left out."""
    names = OutputStore(cache, patience_seconds=15.0).list(folder)
    return [name for name in (n.lstrip("/") for n in names) if not any(p.startswith(".") for p in name.split("/"))]


def upload(path: str, address: str) -> None:
    """A local file as an object of a store: readers find the whole of it or nothing.

    Raises:
        UsageError, WorldError: the store does not take it.
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
            raise OSError("it did not arrive whole")

    try:
        retried(f"write {shown}", put, LISTING)
    except FileNotFoundError:
        raise UsageError(f"cannot write {shown}: there is no such bucket or container") from None


def note(cache: str, folder: str, files: dict[str, str], source: str, revision: str = "") -> None:
    """Writes down what the files of a folder are whose checksums (by name) are on no record."""
    text = json.dumps({"source": source, "revision": revision, "files": files}, indent=1, sort_keys=True)
    path = local_root(cache) / folder / PULLED
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{PULLED}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)
    if is_remote(cache):
        upload(str(path), below(cache, f"{folder}/{PULLED}"))


def noted(cache: str, folder: str) -> dict[str, Any]:
    """What was written down of a folder: `source`, `revision`, `files` (sha256 by name); empty where nothing was."""
    try:
        found = json.loads(OutputStore(cache, patience_seconds=15.0).read(f"{folder}/{PULLED}"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("files"), dict) else {}
