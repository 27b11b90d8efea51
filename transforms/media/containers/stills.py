"""Recognises pictures by their first bytes. Still pictures are not our business; moving ones may be.

It only compares fixed offsets and follows chunk lengths within the bytes at hand.
"""

from __future__ import annotations

from typing import Literal

_STILL = (
    b"\xff\xd8\xff",  # JPEG
    b"II*\0",  # TIFF, and most cameras' raw formats
    b"MM\0*",
    b"II+\0",  # BigTIFF
    b"IIU\0",  # Panasonic raw
    b"IIRO",  # Olympus raw
    b"FUJIFILMCCD-RAW",
    b"8BPS",  # Photoshop
    b"\x00\x00\x00\x0cJXL ",
    b"\xff\x0a",  # JPEG XL without a container
    b"\xff\x4f\xff\x51",  # JPEG 2000 without a container
    b"\x76\x2f\x31\x01",  # OpenEXR
    b"DDS ",
    b"qoif",
)
_MOTION_PHOTO = (b"MotionPhoto", b"MicroVideo")
"""Found in the XMP of a JPEG behind which a phone has stored a video."""

Picture = Literal["still", "apng", "webp", "motion photo"]


def picture(head: bytes) -> Picture | None:
    """The kind of picture that begins with `head`; None if it is not a known one."""
    if head.startswith(b"\xff\xd8\xff") and any(mark in head for mark in _MOTION_PHOTO):
        return "motion photo"
    if head.startswith(_STILL):
        return "still"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "apng" if _is_animated_png(head) else "still"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "webp" if head[12:16] == b"VP8X" and len(head) > 20 and head[20] & 2 else "still"
    if head.startswith(b"BM") and head[6:10] == bytes(4):
        return "still"
    if head.startswith(b"\0\0\1\0") and 0 < int.from_bytes(head[4:6], "little") < 64 and head[9:10] == b"\0":
        return "still"  # Windows icon
    return None


def _is_animated_png(head: bytes) -> bool:
    """Whether a PNG is animated: the chunk that announces frames comes before the first picture."""
    at = 8
    while at + 8 <= len(head):
        kind = head[at + 4 : at + 8]
        if kind in (b"acTL", b"IDAT"):
            return kind == b"acTL"
        at += 12 + int.from_bytes(head[at : at + 4], "big")
    return False
