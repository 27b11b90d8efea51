"""Finds a second recording appended to the first, as `cat` joins files: the container does not show it.

Players and FFmpeg stop at the end of the first recording. Without a note, the second would be skipped silently.
"""

from __future__ import annotations

import mmap
import re
from typing import Any

from .clock.packets import PacketScan
from .containers.fed_file import is_fed
from .containers.iso_boxes import IsoBoxes
from .notes import NOT_LOOKED

LEAST_BYTES = 4_096
MAGIC = {
    "flv": rb"FLV\x01",
    "asf": re.escape(bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")),
    "ogg": rb"OggS\x00\x02",
    "wav": rb"RIFF....WAVE",
    "aiff": rb"FORM....AIF[FC]",
    "caf": rb"caff\x00\x01",
    "apng": rb"\x89PNG\r\n\x1a\n",
}
"""First bytes of a recording, as a regular expression, by the name of its container."""


def unread_note(path: str, size: int, scan: PacketScan, iso: IsoBoxes | None, container: Any) -> list[str]:
    """One sentence about a second recording; none if there is none. Fed files are not searched for MAGIC."""
    at = None
    if iso is not None:
        at = iso.second_movie
        if at is not None and scan.last_position > at:
            at = None  # fragments of the second recording were read as part of the first
    elif (magic := MAGIC.get(container.format.name)) and (scan.complete or scan.broken) and scan.last_position:
        at = _find(path, magic, scan.last_position)
    if at is None or size - at < LEAST_BYTES:
        return []
    where = f"({(size - at) >> 10} KiB from byte {at})"
    return [f"{NOT_LOOKED}a second recording after the first in the same file {where}"]


def _find(path: str, magic: bytes, start: int) -> int | None:
    if is_fed():
        return None
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        found = re.compile(magic, re.DOTALL).search(data, max(0, start - 16))
        return found.start() if found is not None else None
