"""How much of everything: the one place where the short form (`make test`) differs from the long one (`make chaos`)."""

from __future__ import annotations

import os

LONG = os.environ.get("CHAOS", "short") == "long"


def sized(short: int, long: int) -> int:
    return long if LONG else short
