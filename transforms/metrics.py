"""Counters of the running job: Beam's own for a cluster's UI, and one mmapped page a process for live progress here.

`Pipeline.run()` blocks and shows its metrics only at the end, so the parent reads the pages while it runs. Every
process that counts has its own file in the folder named by `DEEPHOTLINK_COUNTERS`, and the reader adds them up.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
from pathlib import Path

from apache_beam.metrics import Metrics

NAMESPACE = "deephotlink"
FOLDER_VARIABLE = "DEEPHOTLINK_COUNTERS"
NAMES = (
    "files_listed",
    "media_read",
    "media_failed",
    "media_skipped",
    "media_committed",
    "frames_decoded",
    "frames_kept",
    "clips_decoded",
    "clips_failed",
    "faces_tracked",
    "items_scored",
    "items_abstained",
    "detector_errors",
    "bytes_read",
    "bytes_fetched",
    "media_probed",
    "film_milliseconds",
    "sound_milliseconds",
)
_SIZE = 8 * len(NAMES)
_lock = threading.Lock()
_pages: dict[tuple[int, str], mmap.mmap] = {}


def page_of(folder: str, pid: int) -> Path:
    """Where the process of that id counts."""
    return Path(folder) / f"{pid}.counters"


def _page() -> mmap.mmap | None:
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        return None
    key = (os.getpid(), folder)
    if key not in _pages:
        with open(page_of(folder, os.getpid()), "a+b") as file:
            file.truncate(_SIZE)
            _pages[key] = mmap.mmap(file.fileno(), _SIZE)
    return _pages[key]


def inc_counter(name: str, by: int = 1) -> None:
    """Adds to a counter of `NAMES`. Raises ValueError for any other name, so that no typo is counted into nothing."""
    offset = 8 * NAMES.index(name)
    Metrics.counter(NAMESPACE, name).inc(by)
    with _lock:
        page = _page()
        if page is not None:
            struct.pack_into("<q", page, offset, struct.unpack_from("<q", page, offset)[0] + by)


def own_counters() -> dict[str, int]:
    """By counter name, what this process has counted; zeros where it does not count for a reader."""
    with _lock:
        page = _page()
        values = struct.unpack(f"<{len(NAMES)}q", page[:_SIZE]) if page is not None else (0,) * len(NAMES)
    return dict(zip(NAMES, values, strict=True))


def read_counters(folder: str | os.PathLike[str]) -> dict[str, int]:
    """By counter name, the sum over all processes that counted into `folder`."""
    totals = [0] * len(NAMES)
    for path in Path(folder).glob("*.counters"):
        data = path.read_bytes()
        if len(data) == _SIZE:
            totals = [a + b for a, b in zip(totals, struct.unpack(f"<{len(NAMES)}q", data), strict=True)]
    return dict(zip(NAMES, totals, strict=True))
