"""The messages between the parent and the decoder children: plain values that travel as JSON, never pickles.

The child parses hostile bytes and may have been taken over by them, so the parent trusts nothing that it says. Every
reply is checked against what was asked for (`handover.take_over` raises `ProtocolError`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np


class ProtocolError(Exception):
    """The child gave an answer that no honest child would give."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a file may ask of us. Exceeding one is `too_large` (or a kill), never an out-of-memory.

    Pixels, streams and samples are checked as the file declares them, before we open a decoder. In ISO files (mp4, mov)
    they are checked before FFmpeg sees the file. The duration is checked after it was measured.
    """

    max_pixels: int = 36_000_000
    """Pixels of a frame (8K has 33 M)."""
    max_duration_seconds: float = 48 * 3600.0
    max_streams: int = 64
    """Streams of a container (attachments aside) or tracks of a movie, whatever they hold."""
    max_samples: int = 25_000_000
    """Entries in the sample tables and fragments of an ISO file. FFmpeg takes at least 24 bytes for each when it opens
    the file. 48 hours of video at 100 Hz with AAC sound have this many."""
    probe_deadline_seconds: float = 20.0
    """Wall clock from the request to the probe's answer."""
    item_deadline_seconds: float = 60.0
    """Wall clock for each clip or window."""
    memory_bytes: int = 4 << 30
    """Address space of a child (RLIMIT_AS)."""
    cpu_seconds: int = 1800
    """RLIMIT_CPU of a worker. If it has decoded items by then, another worker replaces it and starts the current item
    again. `item_deadline_seconds` is the limit for a single item."""
    item_bytes: int = 1 << 30
    """Shared memory of one clip."""


@dataclass(frozen=True, slots=True)
class ProbeRequest:
    path: str
    suffix: str
    """`.mp4`, … according to its first bytes, for readers that go by the name (C2PA)."""
    credentials: bool
    """Whether Content Credentials are wanted."""


@dataclass(frozen=True, slots=True)
class ClipRequest:
    clip_index: int
    start_seconds: float
    end_seconds: float
    times_seconds: tuple[float, ...]
    """Ascending moments on the media clock (0 = start of the container). The frame on display at each is wanted."""


@dataclass(frozen=True, slots=True)
class WindowRequest:
    window_index: int
    start_sample: int
    samples: int
    """At 16 kHz."""
    detector: str


ClockKind = Literal["file", "ordered", "indexed", "placed"]
"""How time stamps become the media clock. `file`: they are right once the container's start is subtracted. In the other
kinds the time stamps jump, and what to add to them depends on the packet: on its number in the stream (`ordered`: a
file that is read from its beginning), on its decoding time (`indexed`: a large file with an index of every sample) or
on its byte position (`placed`: a large MPEG stream, see clock/sampled_clock.py)."""


@dataclass(frozen=True, slots=True)
class SoundSource:
    """A sound stream that is listened to."""

    stream: int
    """Index in the container."""
    in_use: int = 0
    """If there are more than two channels, how many have sound in them. The sum of all is divided by this number, so
    that a voice on one of eight is not reduced to an eighth. 0: FFmpeg mixes the channels down."""
    audible: bool = True
    """False: nothing was heard in the moments that were tried. It is still added to the mix, but makes the others no
    softer."""


@dataclass(frozen=True, slots=True)
class DecodeRequest:
    path: str
    decoder: str | None
    """`decord`, `pyav`; None if no clip is wanted."""
    width: int
    height: int
    """Width and height in pixels of the frames handed over, rotation applied."""
    rotation: int
    """Degrees clockwise, from the probe."""
    clips: tuple[ClipRequest, ...] = ()
    clip_sound: bool = False
    """Whether each clip comes with its own slice of sound, [start_seconds, end_seconds) at 16 kHz mono."""
    windows: tuple[WindowRequest, ...] = ()
    video_stream: int | None = None
    """Index in the container; None: FFmpeg's own choice."""
    sound: tuple[SoundSource, ...] = ()
    """Mixed: their sum, divided by how many are audible. Empty: FFmpeg's own choice."""
    clock: ClockKind = "file"


@dataclass(frozen=True, slots=True)
class DecodedClip:
    clip_index: int
    frames: np.ndarray
    """uint8 [T, H, W, 3], RGB."""
    pts_seconds: np.ndarray
    """float64 [T], the true presentation time of each frame, on the media clock."""
    frames_decoded: int
    """Frames that had to be decoded to get these."""
    sound: np.ndarray | None = None
    """float32 [S]."""
    damage: str | None = None
    """What went wrong, if anything: missing frames, damaged packets, sound that cannot be read."""
    decoder: str = "pyav"
    """The decoder used. It is PyAV too if decord was asked and gave up."""


@dataclass(frozen=True, slots=True)
class DecodedWindow:
    window_index: int
    samples: np.ndarray
    """float32 [S]; shorter than asked for at the end of the sound, empty past it."""
    detector: str


@dataclass(frozen=True, slots=True)
class ItemFailed:
    """One clip or window could not be decoded; the rest goes on. With neither index, it stands for the sound as a
    whole, or for everything that was not answered."""

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
