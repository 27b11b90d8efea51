"""What a picture is, how many are kept, and which files count as suspicious."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["frame", "face"]
Box = tuple[float, float, float, float]
"""x0, y0, x1, y1."""
KINDS: tuple[Kind, ...] = ("frame", "face")

SUSPICIOUS_BELOW = 0.45
"""Authenticity. The closing tables name the files below it, and pictures are kept of no others: nearer to 0.5 a file is
not worth a look before others, and then nobody needs to see who is in it."""
JPEG_BYTES = 24 * 1024
"""Of one picture, at most. A frame 320 pixels wide takes 8 to 16 KB, a face 2 to 6."""
FILE_PICTURES = 8
"""Of one file, at most: as many as a person takes in at a glance, four moments with their faces."""
FILE_BYTES = 128 * 1024
"""Of one file's pictures together, at most."""
UNIT_BYTES = 1 << 20
"""Of the pictures of one unit of work, at most. `publish` holds 64 units in memory, so this is 64 MiB there. A unit of
16 files, all of them suspicious, still keeps 64 KB of each."""
DETECTOR_MOMENTS = 2
"""Moments of one file for which one detector may propose pictures: its most suspicious ones."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One JPEG that shows what a detector judged."""

    media_id: str
    kind: Kind
    """`frame`: the whole picture. `face`: the face, cut out of the same frame."""
    detector: str
    logit: float
    """Of the item that it shows, as in the evidence."""
    clip_index: int | None
    track_id: int | None
    """None if the detector judged the whole clip."""
    pts_seconds: float
    """When the frame is shown, on the clock of the file."""
    box: Box | None
    """Of a `frame`: x0, y0, x1, y1 of the face, in shares 0 to 1 of its width and height. None without a face."""
    width: int
    """Pixels of the JPEG."""
    height: int
    jpeg: bytes


def is_suspicious(verdict: str, authenticity: float | None) -> bool:
    """The rule for keeping pictures of a file: it is called manipulated, or undecided but nearer to that.

    >>> is_suspicious("manipulated", 0.6), is_suspicious("inconclusive", 0.44), is_suspicious("inconclusive", 0.45)
    (True, True, False)
    >>> is_suspicious("authentic", 0.3), is_suspicious("not_assessed", None)
    (False, False)
    """
    if verdict == "manipulated":
        return True
    return verdict == "inconclusive" and authenticity is not None and authenticity < SUSPICIOUS_BELOW


def suspicious_sql(scores: str) -> str:
    """The same rule in SQL, about the columns of the table or alias `scores`."""
    return (
        f"({scores}.verdict = 'manipulated' or"
        f" ({scores}.verdict = 'inconclusive' and coalesce({scores}.authenticity < {SUSPICIOUS_BELOW}, false)))"
    )
