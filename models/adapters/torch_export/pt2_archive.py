"""Reads the zip archive of a `.pt2` without torch. Each member is stored once, uncompressed, under one root folder."""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

from ...weights.files import WeightsError
from ..detector_spec import LARGEST_FILE

LARGEST_GRAPH = 32 << 20
"""Most bytes of a JSON member, which takes twenty times as much memory during the check; a large network has 3 MB."""
MOST_MEMBERS = 20_000
MADE_BY = "torch.export.save(torch.export.export(model.eval(), (rows,), dynamic_shapes=…), FILE)"


class Refused(WeightsError):
    """A file holds something that a network does not need."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"refused {name} (none of it was run): {why}")


class Archive:
    """The members, by name below the archive's one root folder."""

    def __init__(self, data: bytes, name: str) -> None:
        """Raises Refused: `data` is not such an archive, or holds pickles or machine code under torch's names."""
        self.name = name
        if len(data) > LARGEST_FILE:
            self.refuse(f"expected at most {LARGEST_FILE} bytes, got {len(data)}")
        if not zipfile.is_zipfile(io.BytesIO(data)):
            self.refuse(f"expected a zip archive, made by {MADE_BY}")
        self.zip = zipfile.ZipFile(io.BytesIO(data))
        self.members = self._members()

    def refuse(self, why: str) -> Any:
        raise Refused(self.name, why)

    def _members(self) -> dict[str, zipfile.ZipInfo]:
        """The checked members, by name below the root folder."""
        infos = self.zip.infolist()
        if not infos or len(infos) > MOST_MEMBERS:
            self.refuse(f"expected 1 to {MOST_MEMBERS} members, got {len(infos)}")
        root = infos[0].filename.split("/")[0] + "/"
        members: dict[str, zipfile.ZipInfo] = {}
        for info in infos:
            inner = info.filename.removeprefix(root)
            if not info.filename.startswith(root) or ".." in inner.split("/") or "\\" in inner or inner in members:
                self.refuse(f"the member {info.filename!r} is outside the one folder {root!r}, or occurs twice")
            if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
                self.refuse(f"the member {info.filename!r} is compressed or encrypted: torch stores them as they are")
            members[inner] = info
        if sum(info.file_size for info in infos) > LARGEST_FILE:
            self.refuse("its members are larger than the file: they overlap")
        if "serialized_exported_program.json" in members or "version" in members:
            self.refuse(
                "it has the layout of torch 2.7 and older, which is pickles: export it again with torch >= 2.10"
            )
        code = next(
            (inner for inner in members if inner.startswith("data/aotinductor/") or inner.endswith(".so")), None
        )
        if code:
            self.refuse(f"{code!r} is machine code (AOTInductor): save the exported program itself, by {MADE_BY}")
        models = [inner for inner in members if inner.startswith("models/")]
        if models != ["models/model.json"]:
            self.refuse(f"expected one program, models/model.json, got {models[:5]}: made by {MADE_BY}")
        return members

    def read(self, inner: str, most: int = LARGEST_FILE) -> bytes:
        if inner not in self.members:
            self.refuse(f"{inner!r} is missing: expected a file made by {MADE_BY} (torch >= 2.10)")
        if self.members[inner].file_size > most:
            self.refuse(f"{inner!r} has {self.members[inner].file_size} bytes, expected at most {most}")
        return self.zip.read(self.members[inner])

    def json(self, inner: str) -> dict[str, Any]:
        found = json.loads(self.read(inner, LARGEST_GRAPH).decode("utf-8"))
        if not isinstance(found, dict):
            self.refuse(f"expected an object in {inner!r}")
        return found
