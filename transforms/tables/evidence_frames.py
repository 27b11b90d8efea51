"""The table `evidence_frames`: small pictures of suspicious files, see transforms/pictures/."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from ..pictures.picture import Picture
from .fields import LOGIT_POLARITY, MEDIA_ID, RUN_ID, URI, field

BOX = ("box_x0", "box_y0", "box_x1", "box_y1")
_SIDES = ("left side", "upper side", "right side", "lower side")

EVIDENCE_FRAMES = pa.schema(
    [
        RUN_ID,
        MEDIA_ID,
        URI,
        field("clip_index", pa.int32(), "the clip that was judged, as in evidence"),
        field("pts_seconds", pa.float64(), "when the frame is shown, on the clock of the file", "seconds"),
        field("kind", pa.string(), "frame (the whole picture) or face (the face, cut out of that frame)"),
        field("track_id", pa.int32(), "the face track judged, as in evidence; null if the whole clip was judged"),
        *(
            field(name, pa.float32(), f"{side} of the face's box, as a share 0 to 1 of a frame; null without a face")
            for name, side in zip(BOX, _SIDES, strict=True)
        ),
        field("detector", pa.string(), "the detector that judged what is shown"),
        field("logit", pa.float64(), "what it said of the clip or face, as in evidence", "logit", LOGIT_POLARITY),
        field("width", pa.int32(), "width of the JPEG", "pixels"),
        field("height", pa.int32(), "height of the JPEG", "pixels"),
        field("jpeg", pa.binary(), "the picture as a JPEG of at most 24 KB, without metadata"),
    ]
)


def picture_rows(pictures: Iterable[Picture]) -> list[dict[str, Any]]:
    """Rows of one file, in order of time, without the columns that name the file."""
    ordered = sorted(pictures, key=lambda p: (p.pts_seconds, p.kind != "frame", p.track_id or 0, p.detector))
    names = [name for name in EVIDENCE_FRAMES.names[3:] if name not in BOX]
    return [
        {**{name: getattr(one, name) for name in names}, **dict(zip(BOX, one.box or (None,) * 4, strict=True))}
        for one in ordered
    ]
