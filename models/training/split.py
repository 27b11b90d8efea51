"""Decides by a source's name alone whether networks may train on it or it is held out to judge them.

All material of one source, person or voice carries the name of one group. A group stays on one side, now and in every
later session, whatever else is in the folder.
"""

from __future__ import annotations

import hashlib
from typing import Literal

Part = Literal["fit", "held"]
HELD_SHARE = 0.4
"""Share of the groups that is held out. Real clips are few, but a reliable judgement is worth more than a little more
training."""


def part(group: str) -> Part:
    """`held` for about two groups in five (validation, calibration, studies), `fit` for the others (training)."""
    first = int.from_bytes(hashlib.sha256(group.encode("utf-8", "surrogateescape")).digest()[:4], "big")
    return "held" if first < HELD_SHARE * 2**32 else "fit"
