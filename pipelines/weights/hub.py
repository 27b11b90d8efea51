"""Pulls models from the Hugging Face hub into the cache: weights without code, and the files that describe them."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from ...models.adapters.licences import forbids_commercial_use
from ...models.extras import lacking
from ...transforms.failures import UsageError, WorldError, printable
from ...transforms.storage.downloads import MAX_WEIGHTS_BYTES, PARTIAL, digest_of
from ...transforms.storage.retries import describe_error, is_storage_fault
from ...transforms.storage.uris import is_remote
from .cache import HUB_NAME, below, local_root, note, upload

PATTERNS = (
    "config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "deephotlink.json",
    "README.md",
)
"""Files that are pulled. Never `.bin`, `.pt` or `.py`: those may contain code."""
_NETWORK = ("huggingface_hub", "hf_xet", "httpx", "httpx2", "httpcore", "httpcore2", "requests", "anyio")
"""Packages whose errors mean that the hub could not be reached, besides the errors of any store. Several are listed,
because the hub's client has changed from one to another."""
_REFUSALS = {
    "RepositoryNotFoundError": "there is no such model, or it is private",
    "RevisionNotFoundError": "the model has no such revision",
    "GatedRepoError": "its authors must grant access first: ask on its page, then log in with `hf auth login`",
    "DisabledRepoError": "the hub has disabled it",
    "OfflineModeIsEnabled": "HF_HUB_OFFLINE is set: unset it",
}


def pull_hub(name: str, cache: str, accepted: Collection[str] = ()) -> Iterator[tuple[str, int, str, str]]:
    """Downloads `hf:OWNER/REPO[@REVISION]`; yields file name, size in bytes, sha256 and address of each file.

    The hub's checksums of large files are compared before any file gets its name in the cache. A killed pull can be
    continued; a failed one leaves nothing behind.

    Raises:
        UsageError: there is no such model, it has no safetensors, or its licence was not accepted.
        WorldError: the hub does not answer, or the disk is full.
    """
    match = HUB_NAME.fullmatch(name.removeprefix("hf:"))
    if match is None or ".." in match[1]:
        raise UsageError(f"expected hf:OWNER/REPO or hf:OWNER/REPO@REVISION to pull, got {name}")
    if (lack := lacking(f"pulling {name} needs", "hf", "huggingface_hub")) is not None:
        raise UsageError(lack)
    from huggingface_hub import HfApi

    repo, revision = match[1], match[2]
    root = local_root(cache)
    key = hashlib.sha256(f"{repo}@{revision}".encode()).hexdigest()[:32]
    staging, target = root / PARTIAL / f"hub-{key}", root / "hf" / repo
    try:
        info = HfApi().model_info(repo, revision=revision, files_metadata=True)
        _check_licence(name, repo, info, accepted)
        commit, sums = _download(repo, info, staging)
        shutil.rmtree(staging / ".cache", ignore_errors=True)  # the hub client's own notes
        files = {str(path.relative_to(staging)): digest_of(str(path)) for path in _files(staging)}
        for file_name, expected in sums.items():
            if file_name in files and files[file_name][0] != expected:
                raise UsageError(f"expected sha256 {expected} of {file_name} of {repo}, got {files[file_name][0]}")
        if "config.json" not in files or not any(file.endswith(".safetensors") for file in files):
            raise UsageError(f"{repo} has no config.json with safetensors: other formats may contain code: convert it")
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.rename(staging, target)
    except (UsageError, WorldError):
        _remove(staging)
        raise
    except Exception as error:
        _remove(staging)
        raise _hub_fault(error, repo) from None
    _remove(staging)
    note(
        cache,
        f"hf/{repo}",
        {file: sha256 for file, (sha256, _) in files.items()},
        f"hf:{repo}@{revision or 'main'}",
        commit,
    )
    for file_name, (sha256, size) in sorted(files.items()):
        where = below(cache, f"hf/{repo}/{file_name}")
        if is_remote(cache):
            upload(str(target / file_name), where)
        yield file_name, size, sha256, where


def _check_licence(name: str, repo: str, info: Any, accepted: Collection[str]) -> None:
    card = info.card_data or {}
    licence = " ".join(str(card.get(key) or "") for key in ("license", "license_name")).strip()
    if forbids_commercial_use(licence) and not {name, f"hf:{repo}"} & set(accepted):
        raise UsageError(
            f"the licence of {name} ({printable(licence)}) forbids commercial use: give --accept-licence {name} if "
            "it allows your use"
        )


def _download(repo: str, info: Any, folder: Path) -> tuple[str, dict[str, str]]:
    """Downloads the files into `folder`; returns the commit, and the hub's recorded sha256 of large files by name."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import filter_repo_objects

    siblings = list(info.siblings or [])
    wanted = list(filter_repo_objects(siblings, allow_patterns=list(PATTERNS), key=lambda file: file.rfilename))
    total = sum(file.size or 0 for file in wanted)
    if total > MAX_WEIGHTS_BYTES:
        raise UsageError(f"{repo} has {total} bytes, more than {MAX_WEIGHTS_BYTES}")
    commit = str(info.sha)
    folder.mkdir(parents=True, exist_ok=True)
    snapshot_download(repo, revision=commit, local_dir=folder, allow_patterns=list(PATTERNS))
    return commit, {file.rfilename: file.lfs.sha256 for file in wanted if file.lfs is not None}


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _remove(staging: Path) -> None:
    shutil.rmtree(staging, ignore_errors=True)
    if staging.parent.is_dir() and not any(staging.parent.iterdir()):
        staging.parent.rmdir()


def _hub_fault(error: Exception, repo: str) -> Exception:
    kind = type(error).__name__
    if kind in _REFUSALS:
        return UsageError(f"cannot pull hf:{repo}: {_REFUSALS[kind]}")
    root = type(error).__module__.partition(".")[0]
    if is_storage_fault(error) or root in _NETWORK:
        return WorldError(
            f"cannot pull hf:{repo}: {describe_error(error)}; nothing of it was kept; run the same command again"
        )
    return error
