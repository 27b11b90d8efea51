"""The weights that come with the package: what their sidecars say, and where they lie.

    NAME.safetensors   fp16, at most MAX_FILE_BYTES
    NAME.json          the sidecar: sha256 and size of that file, and how it was made
    NAME.md            the model card

Nothing here raises while detectors are imported: weights whose sidecar is missing or damaged leave a file that cannot
be had, the registry says so of that detector, and all the others go on.
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
"""Of one file of weights, and of all together."""
GIST = "What it judges"
"""The section of a card whose first paragraph is its gist."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


def embedded_weights(name: str) -> tuple[WeightsFile, ...]:
    """The one file of a detector of ours, role `weights`, as its sidecar has it; `url` is empty, nobody downloads it.

    Without a sidecar that can be read the file has no sha256, and `fault` says why.
    """
    file_name = f"{name}.safetensors"
    try:
        record = sidecar(name)
    except WeightsError:
        return (WeightsFile(file_name, url=""),)
    return (WeightsFile(file_name, url="", sha256=record["sha256"], size_bytes=record["size_bytes"]),)


def embedded_path(name: str) -> Path:
    """Where the weights of a detector of ours lie, whether or not there are any."""
    return FOLDER / f"{name}.safetensors"


def card_path(name: str) -> Path | None:
    """The model card of a detector of ours; None where it has none."""
    path = FOLDER / f"{name}.md"
    return path if path.is_file() else None


def sidecar(name: str) -> Mapping[str, Any]:
    """What is on record of a detector's weights; `sha256` (hex) and `size_bytes` are there and fit to be used.

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
    """Where a file on record lies in this package; None for a file that somebody else publishes."""
    return None if file.url else FOLDER / file.file_name


def fault(file: WeightsFile) -> str | None:
    """Why an embedded file cannot be had; None where nothing speaks against it, or where it is no embedded one."""
    if file.url or file.sha256:
        return None
    try:
        sidecar(file.file_name.removesuffix(".safetensors"))
    except WeightsError as error:
        return str(error)
    return f"{file.file_name} has neither a URL nor a sha256 on record"


def own_copy(sha256: str) -> Path | None:
    """The file of this machine's own package that is on record with that checksum; None where there is none.

    Which bytes it has is found out when it is read, as with any other file.
    """
    for path in FOLDER.glob("*.safetensors"):
        try:
            if sidecar(path.stem)["sha256"] == sha256:
                return path
        except WeightsError:
            continue
    return None


def gist(name: str) -> str:
    """The first paragraph of the card's section `What it judges`, as one line; empty where there is none."""
    path = card_path(name)
    if path is None:
        return ""
    section = re.search(rf"^#+ *{GIST}\s*\n(.*?)(?=^#|\Z)", path.read_text(encoding="utf-8"), re.M | re.S)
    return " ".join(section[1].strip().split("\n\n")[0].split()) if section else ""
