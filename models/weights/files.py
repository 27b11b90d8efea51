"""Weights files: what is recorded about them, where they are, and how to read them without trusting them.

A checkpoint is untrusted: its bytes are read once and compared with the checksum; checkpoints.py parses them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


class WeightsError(ValueError):
    """The file is not the expected one, or does not hold what it should. The message says what was expected, what came,
    and what to do."""


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """The record of one published file."""

    file_name: str
    url: str
    """Where its authors publish it (any URL that fsspec opens)."""
    role: str = "weights"
    """The detector's name for it: `weights`, `head`, `backbone`."""
    revision: str = ""
    """Commit or release of the source."""
    sha256: str = ""
    """Hex; empty if none is recorded. Users who fetch such a file must say that they trust the source."""
    size_bytes: int = 0
    """0: not recorded."""


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file on this machine, and its checksum when it was chosen for a run."""

    path: str
    """On this machine."""
    sha256: str
    """Hex."""
    address: str = ""
    """Where a worker on another machine finds the same bytes (any URL that fsspec opens); empty: nowhere."""
    size_bytes: int = 0
    """0: unknown."""

    def read(self) -> bytes:
        """The whole file, checked: the parsed bytes are the hashed bytes.

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
    """The files of one detector, on this machine."""

    files: Mapping[str, LocalFile] = field(default_factory=dict)
    """The files by role."""

    @property
    def sha256(self) -> str:
        """Hex: of the one file, or of all their checksums together; empty for no files."""
        return combined_sha256({role: file.sha256 for role, file in self.files.items()})

    def read(self, role: str = "weights") -> bytes:
        return self.files[role].read()


NO_WEIGHTS = Weights()


def combined_sha256(by_role: Mapping[str, str]) -> str:
    """The checksum of a single file itself; for several, that of the lines `role sha256`, sorted by role.

    Empty if there is no file, or if a checksum is missing.
    """
    if len(by_role) < 2 or not all(by_role.values()):
        return next(iter(by_role.values()), "") if len(by_role) < 2 else ""
    lines = "".join(f"{role} {sha256}\n" for role, sha256 in sorted(by_role.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def recorded_sha256(files: Sequence[WeightsFile]) -> str:
    """`Weights.sha256` as the records have it; empty if a checksum is missing."""
    return combined_sha256({file.role: file.sha256 for file in files})
