"""What is said of a file whatever the detectors make of it: what was not looked at, and whether its times are its own.

The probe writes these sentences; fusing and rescoring keep them among the reasons, by how they begin.
"""

from __future__ import annotations

NOT_LOOKED, NOT_HEARD, CLOCK = "not looked at: ", "not listened to: ", "its clock jumps "
MOST_NOTES = 4
"""Of one media, so that room is left for what detectors say."""


def is_note(reason: str) -> bool:
    return reason.startswith((NOT_LOOKED, NOT_HEARD, CLOCK))
