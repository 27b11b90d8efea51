"""Notes about a file, whatever the detectors find: what was not looked at or listened to, and whether its clock jumps.

The probe writes these sentences. Fusing and rescoring recognise them by how they begin and keep them among the reasons.
"""

from __future__ import annotations

NOT_LOOKED, NOT_HEARD, CLOCK = "not looked at: ", "not listened to: ", "its clock jumps "
DAMAGED = "damaged at "
"""Prefix of every reason that reports damage."""
MOST_NOTES = 4
"""Most notes kept among the reasons of one file, so that room is left for what detectors say."""


def is_note(reason: str) -> bool:
    return reason.startswith((NOT_LOOKED, NOT_HEARD, CLOCK))
