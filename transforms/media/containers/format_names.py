"""Names of formats, for messages: a file's own suffix need not match its first bytes."""

from __future__ import annotations

_REMUX = ": put it into a container, for example with `ffmpeg -i FILE -c copy FILE.mkv`"
_NAMES = {
    ".h264": f"raw H.264 video without a container{_REMUX}",
    ".hevc": f"raw HEVC video without a container{_REMUX}",
    ".m4v": f"raw MPEG-4 video without a container{_REMUX}",
    ".m2v": f"raw MPEG-1 or MPEG-2 video without a container{_REMUX}",
    ".obu": f"raw AV1 video without a container{_REMUX}",
    ".dts": "raw DTS sound",
    ".dtshd": "raw DTS-HD sound",
    ".webp": "animated WebP",
    ".jpg": "the film appended to the picture of a motion photo",
    ".w64": "Sony Wave64",
    ".wv": "WavPack",
    ".ape": "Monkey's Audio",
    ".mpc": "Musepack",
    ".dff": "DSD sound (DSDIFF)",
    ".dsf": "DSD sound (DSF)",
    ".tta": "True Audio",
    ".au": "Sun audio",
    ".y4m": "uncompressed YUV4MPEG2 video",
    ".dat": "a Video CD image",
}


def name_of(suffix: str) -> str:
    """The name of the format that sniff.py knows by this suffix."""
    return _NAMES.get(suffix, f"this format ({suffix.removeprefix('.')})")
