"""Which sources a network may learn from, and which are kept to judge it by: decided by the source's name alone.

Everything of one source, person or voice carries one group, and a group stands on one side, today and in every later
sitting, whatever else is in the folder.
"""

from __future__ import annotations

import hashlib
from typing import Literal

Part = Literal["fit", "held"]
HELD_SHARE = 0.4
"""Of the groups. Real clips are few, and what cannot be judged is worth less than what was trained a little longer."""


def part(group: str) -> Part:
    """`held` for about two groups of five: validation, calibration and studies; `fit` for the others: training."""
    first = int.from_bytes(hashlib.sha256(group.encode("utf-8", "surrogateescape")).digest()[:4], "big")
    return "held" if first < HELD_SHARE * 2**32 else "fit"
