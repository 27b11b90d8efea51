"""Fixtures for all tests, and skips for tests whose requirements are missing."""

from __future__ import annotations

import csv
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"
"""Real material beside the repository; the suite passes without it."""


def pytest_configure(config: pytest.Config) -> None:
    # One thread a process: the machines that run this have few cores, and the decoder children want them too.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # What somebody has pulled on this machine is ready, and would run in every audit of a test that names no detectors.
    os.environ["DEEPHOTLINK_WEIGHTS"] = os.path.join(tempfile.gettempdir(), "deephotlink-tests-pull-no-weights")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "needs_cuda" in item.keywords and not os.environ.get("FAIL_WITHOUT_CUDA") and not _has_cuda():
            item.add_marker(pytest.mark.skip(reason="no CUDA device (set FAIL_WITHOUT_CUDA to fail instead)"))
        if "real" in item.keywords and not (SHARED / "MANIFEST.csv").is_file():
            item.add_marker(
                pytest.mark.skip(reason="no real material: there is no shared/MANIFEST.csv beside the repository")
            )


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture(scope="session")
def sample_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample archive, made once for all tests. Read-only: a test that changes it works on a copy
    (`shutil.copytree`)."""
    from deephotlink.pipelines.samples.archive import make_sample

    folder = tmp_path_factory.mktemp("sample") / "archive"
    make_sample(folder)
    return folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real media, only for tests marked `real`."""
    return SHARED


@pytest.fixture(scope="session")
def manifest() -> list[dict[str, str]]:
    """The rows of its MANIFEST.csv: `path` (below `shared`) and what is known about each file."""
    with (SHARED / "MANIFEST.csv").open(newline="", encoding="utf-8") as rows:
        return list(csv.DictReader(rows))


@pytest.fixture(autouse=True)
def _one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """An audit inside a process of tests stays in it, unless it asks for workers: what is patched shall be felt."""
    from deephotlink.pipelines import machine

    monkeypatch.setattr(machine, "usable_cores", lambda: 1)


@pytest.fixture
def no_naps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries without their pauses."""
    from deephotlink.transforms.storage import retries

    monkeypatch.setattr(retries.time, "sleep", lambda seconds: None)


@pytest.fixture(autouse=True)
def _no_signal_lasts() -> Iterator[None]:
    """A signal ends the waits of all present threads. In a test process some of them live on into other tests."""
    yield
    if asking := sys.modules.get("deephotlink.transforms.storage.requests"):
        asking._ended.clear()
