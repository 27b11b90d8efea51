"""The weights that come with the package: what their sidecars say, and where they are.

    NAME.safetensors   fp16, at most MAX_FILE_BYTES
    NAME.json          the sidecar: sha256 and size of that file, and how it was made
    NAME.md            the model card

Nothing here raises while detectors are imported. If a sidecar is missing or damaged, its weights are unavailable: the
registry reports that detector as broken, and all others work.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..weights.files import WeightsError, WeightsFile

FOLDER = Path(__file__).resolve().parent
MAX_FILE_BYTES, MAX_BYTES = 20_000_000, 40_000_000
"""For one weights file, and for all of them together."""
GIST = "What it judges"
"""The section of a card whose first paragraph is the summary."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


def embedded_weights(name: str) -> tuple[WeightsFile, ...]:
    """An embedded detector's one file, role `weights`, as its sidecar records it; no `url`, since nobody downloads it.

    Without a readable sidecar the file has no sha256, and `fault` says why.
    """
    file_name = f"{name}.safetensors"
    try:
        record = sidecar(name)
    except WeightsError:
        return (WeightsFile(file_name, url=""),)
    return (WeightsFile(file_name, url="", sha256=record["sha256"], size_bytes=record["size_bytes"]),)


def embedded_path(name: str) -> Path:
    """Path of an embedded detector's weights, whether or not they exist."""
    return FOLDER / f"{name}.safetensors"


def card_path(name: str) -> Path | None:
    """The model card of an embedded detector; None if it has none."""
    path = FOLDER / f"{name}.md"
    return path if path.is_file() else None


def sidecar(name: str) -> Mapping[str, Any]:
    """The record of a detector's weights, with valid `sha256` (hex) and `size_bytes`.

    Raises:
        WeightsError: there is no such file, or it is damaged.
    """
    path = FOLDER / f"{name}.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightsError(f"expected {path}, the record of the weights of {name}, got no such file: {_MEND}") from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"expected the record of the weights of {name} in {path}, got {error}: {_MEND}") from None
    sha256, size = (record.get("sha256"), record.get("size_bytes")) if isinstance(record, dict) else (None, None)
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256) or type(size) is not int or size < 1:
        raise WeightsError(f"expected sha256 (64 hex digits) and size_bytes in {path}, got {sha256=}, {size=}: {_MEND}")
    return dict(record)


_MEND = "install deephotlink again, or copy there what `deephotlink train` made"


def embedded_file(file: WeightsFile) -> Path | None:
    """Path of a recorded file in this package; None for a file that somebody else publishes."""
    return None if file.url else FOLDER / file.file_name


def fault(file: WeightsFile) -> str | None:
    """Why an embedded file is unavailable; None if no fault is known, or if the file is not embedded."""
    if file.url or file.sha256:
        return None
    try:
        sidecar(file.file_name.removesuffix(".safetensors"))
    except WeightsError as error:
        return str(error)
    return f"no URL and no sha256 is recorded for {file.file_name}"


def own_copy(sha256: str) -> Path | None:
    """The file in this machine's package that is recorded with that checksum; None if there is none.

    Its bytes are checked when it is read, as with any other file.
    """
    for path in FOLDER.glob("*.safetensors"):
        try:
            if sidecar(path.stem)["sha256"] == sha256:
                return path
        except WeightsError:
            continue
    return None


def gist(name: str) -> str:
    """The first paragraph of the card's section `What it judges`, as one line; empty if there is none."""
    path = card_path(name)
    if path is None:
        return ""
    section = re.search(rf"^#+ *{GIST}\s*\n(.*?)(?=^#|\Z)", path.read_text(encoding="utf-8"), re.M | re.S)
    return " ".join(section[1].strip().split("\n\n")[0].split()) if section else ""
