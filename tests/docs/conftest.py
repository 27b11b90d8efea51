"""The one audit of the sample archive that all tests of the documents look at."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .running import Desk


@pytest.fixture(scope="session")
def desk(sample_archive: Path) -> Iterator[Desk]:
    # Not pytest's own folder: titles of tables name the archive, and a long name would wrap them.
    with tempfile.TemporaryDirectory() as folder:
        desk = Desk(Path(folder).resolve())
        desk.audit(sample_archive)
        yield desk
