"""What the parent and the decoder children say to one another: plain values that travel as JSON, never pickles.

The child parses hostile bytes and may have been taken over by them, so the parent believes nothing that it says: every
reply is checked against what was asked for (`from_json` raises `ProtocolError`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np


class ProtocolError(Exception):
    """The child answered something that no honest child would."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a file may ask of us. Exceeding one is `too_large` (or a kill), never an out-of-memory.

    The first four are held against what the file declares, before a decoder is opened; `max_samples`, and all of them
    for ISO media (mp4, mov), before FFmpeg sees the file.
    """

    max_pixels: int = 36_000_000
    """Pixels a frame (8K is 33 M)."""
    max_duration_seconds: float = 48 * 3600.0
    max_streams: int = 64
    """Streams of a container, tracks of a movie: all of them, whatever is in them."""
    max_samples: int = 25_000_000
    """Entries in the sample tables and fragments of ISO media: FFmpeg takes 24 bytes and more for each when it opens
    the file. 48 hours of video at 100 Hz and their AAC sound have this many."""
    probe_deadline_seconds: float = 20.0
    """Wall clock from the request to the probe's answer."""
    item_deadline_seconds: float = 60.0
    """Wall clock for each clip or window."""
    memory_bytes: int = 4 << 30
    """Address space of a child (RLIMIT_AS)."""
    cpu_seconds: int = 1800
    """RLIMIT_CPU of a worker. One that has decoded items by then is replaced, and the item that it was at begun again;
    what a single item may take is `item_deadline_seconds`."""
    item_bytes: int = 1 << 30
    """Shared memory of one clip."""


@dataclass(frozen=True, slots=True)
class ProbeRequest:
    path: str
    suffix: str
    """`.mp4`, … as its first bytes say, for readers that go by the name (C2PA)."""
    credentials: bool
    """Whether Content Credentials are wanted."""


@dataclass(frozen=True, slots=True)
class ClipRequest:
    clip_index: int
    start_seconds: float
    end_seconds: float
    times_seconds: tuple[float, ...]
    """Ascending moments on the media's clock (0 = start of the container); wanted: the frame on display then."""


@dataclass(frozen=True, slots=True)
class WindowRequest:
    window_index: int
    start_sample: int
    samples: int
    """At 16 kHz."""
    detector: str


ClockKind = Literal["file", "ordered", "indexed", "placed"]
"""How time stamps become the media's clock. `file`: they are right, less where the container starts. The others are of
files whose time stamps jump; what is to be added to them goes by the packets' number in the stream (`ordered`: a file
that is read from its beginning), by their decoding time (`indexed`: a large file with an index of every sample) or by
where they lie (`placed`: a large MPEG stream, see far_clock.py)."""


@dataclass(frozen=True, slots=True)
class SoundSource:
    """A stream of sound that is listened to."""

    stream: int
    """Index in the container."""
    in_use: int = 0
    """Of more than two channels, how many have sound in them: the sum of all is divided by it, so that a voice on one
    of eight is not an eighth. 0: FFmpeg mixes them down."""
    audible: bool = True
    """False: nothing was heard in it where it was tried. It is added to the others, and makes them no softer."""


@dataclass(frozen=True, slots=True)
class DecodeRequest:
    path: str
    decoder: str | None
    """`decord`, `pyav`; None where no clip is wanted."""
    width: int
    height: int
    """Of the frames handed over, rotation applied."""
    rotation: int
    """Degrees clockwise, from the probe."""
    clips: tuple[ClipRequest, ...] = ()
    clip_sound: bool = False
    """Each clip with its own slice of sound, [start_seconds, end_seconds) at 16 kHz mono."""
    windows: tuple[WindowRequest, ...] = ()
    video_stream: int | None = None
    """Index in the container; None: FFmpeg's own choice, as `sound` where it is empty."""
    sound: tuple[SoundSource, ...] = ()
    """Heard together: their sum, divided by how many are audible."""
    clock: ClockKind = "file"


@dataclass(frozen=True, slots=True)
class DecodedClip:
    clip_index: int
    frames: np.ndarray
    """uint8 [T, H, W, 3], RGB."""
    pts_seconds: np.ndarray
    """float64 [T], the true presentation time of each frame, on the media's clock."""
    frames_decoded: int
    """Frames that the decoder had to decode for these."""
    sound: np.ndarray | None = None
    """float32 [S]."""
    damage: str | None = None
    """What was wrong on the way, where fewer frames came than were asked for."""
    decoder: str = "pyav"
    """The one that decoded it: PyAV also where decord was asked and gave up."""


@dataclass(frozen=True, slots=True)
class DecodedWindow:
    window_index: int
    samples: np.ndarray
    """float32 [S]; shorter than asked for at the end of the sound, empty past it."""
    detector: str


@dataclass(frozen=True, slots=True)
class ItemFailed:
    """One clip or window (or, with neither, the sound as a whole) could not be had; the rest goes on."""

    error_class: str
    message: str
    clip_index: int | None = None
    window_index: int | None = None


DecodedItem = DecodedClip | DecodedWindow | ItemFailed


def to_json(request: ProbeRequest | DecodeRequest) -> dict[str, Any]:
    return asdict(request)


def decode_request_from_json(fields: Mapping[str, Any]) -> DecodeRequest:
    return DecodeRequest(
        **{
            **fields,
            "clips": tuple(ClipRequest(**{**c, "times_seconds": tuple(c["times_seconds"])}) for c in fields["clips"]),
            "windows": tuple(WindowRequest(**w) for w in fields["windows"]),
            "sound": tuple(SoundSource(**s) for s in fields["sound"]),
        }
    )
