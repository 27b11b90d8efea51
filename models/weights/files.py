"""Weights files: what is on record of them, where they lie on this machine, and reading them without trusting them.

A checkpoint is a stranger's file: its bytes are read once and held against the checksum; checkpoints.py parses them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


class WeightsError(ValueError):
    """The file is not the one expected, or not what it should hold: says what was expected, what came, what to do."""


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """What is on record of one published file."""

    file_name: str
    url: str
    """Where its authors publish it (any URL that fsspec opens)."""
    role: str = "weights"
    """What the detector asks for it by: `weights`, `head`, `backbone`."""
    revision: str = ""
    """Commit or release of the source."""
    sha256: str = ""
    """Hex; empty where none is on record: whoever fetches such a file has to say that they trust the source."""
    size_bytes: int = 0
    """0: not on record."""


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file at hand, and what it held when it was chosen for a run."""

    path: str
    """On this machine."""
    sha256: str
    """Hex."""
    address: str = ""
    """Where a worker on another machine finds the same bytes (any URL that fsspec opens); empty: nowhere."""
    size_bytes: int = 0
    """0: not known."""

    def read(self) -> bytes:
        """The whole file, checked: what is parsed is what was hashed.

        Raises:
            WeightsError: its bytes are no longer those that were chosen.
            OSError: it cannot be read.
        """
        data = Path(self.path).read_bytes()
        found = hashlib.sha256(data).hexdigest()
        if found != self.sha256:
            raise WeightsError(f"expected sha256 {self.sha256} in {self.path}, got {found}: the file was changed")
        return data


@dataclass(frozen=True, slots=True)
class Weights:
    """The files of one detector, at hand."""

    files: Mapping[str, LocalFile] = field(default_factory=dict)
    """By role."""

    @property
    def sha256(self) -> str:
        """Hex: of the one file, or of all their checksums together; empty for no files."""
        return combined_sha256({role: file.sha256 for role, file in self.files.items()})

    def read(self, role: str = "weights") -> bytes:
        return self.files[role].read()


NO_WEIGHTS = Weights()


def combined_sha256(by_role: Mapping[str, str]) -> str:
    """The file's own checksum where there is one file; else that of the lines `role sha256` in the order of roles."""
    if len(by_role) < 2 or not all(by_role.values()):
        return next(iter(by_role.values()), "") if len(by_role) < 2 else ""
    lines = "".join(f"{role} {sha256}\n" for role, sha256 in sorted(by_role.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def recorded_sha256(files: Sequence[WeightsFile]) -> str:
    """`Weights.sha256` as it should be by the record; empty where a checksum is missing."""
    return combined_sha256({file.role: file.sha256 for file in files})
