"""The records that travel between the steps. All small but `Clip` and `AudioWindow`, which never cross a shuffle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from .media.protocol import ClockKind, SoundSource

MediaType = Literal["video", "audio", "gif"]
Decoder = Literal["decord", "pyav"]


@dataclass(frozen=True, slots=True)
class MediaFile:
    """One thing to be scored: a file, or a member of a tar or zip shard."""

    media_id: str
    """sha256 hex of canonical URI, version and member (or of the content)."""
    uri: str
    """Canonical: a plain absolute path locally, else without query, user or password; a member is
    `tar://NAME::SHARD` or `zip://NAME::SHARD`."""
    size_bytes: int
    version: str
    """The store's: ETag or generation; `size-mtime_ns` locally."""
    unit: int = 0
    """The unit of work that commits it."""
    shard: str | None = None
    """Canonical URI of the shard of a member."""
    member: str | None = None
    """Name inside the shard."""
    member_offset: int | None = None
    """Bytes from the shard's start to the member's first data byte."""
    member_compressed_bytes: int | None = None
    """Bytes that the member takes in the shard, where it is deflated; None where it is stored."""
    path_bytes: bytes | None = None
    """The local path where it is no valid UTF-8."""
    earlier_attempts: int = 0
    """Runs that could not settle it before the one that plans it (`unsettled.py`)."""
    fetch_uri: str | None = field(default=None, repr=False)
    """Where to read it, when that has a secret in it. Travels with the work, and is in no outcome, table or log."""


@dataclass(frozen=True, slots=True)
class VideoStream:
    codec: str
    width: int
    """Pixels as displayed, rotation applied."""
    height: int
    frame_rate: float
    """Hz, average; 0 where unknown."""
    rotation: int
    """Degrees clockwise that the decoded picture has to be turned to be displayed: 0, 90, 180, 270."""
    start_seconds: float
    """First presentation time on the media's clock (0 = start of the container)."""
    duration_seconds: float
    frame_count: int
    """0 where the container does not say."""
    pixel_format: str
    index: int | None = None
    """Of the stream in the container; None: FFmpeg's own choice."""
    unreadable: str | None = None
    """Why no picture of it can be opened; its size is 0 x 0 then."""


@dataclass(frozen=True, slots=True)
class AudioStream:
    codec: str
    sample_rate: int
    channels: int
    start_seconds: float
    duration_seconds: float
    sources: tuple[SoundSource, ...] = ()
    """What is heard together; empty: FFmpeg's own choice."""


@dataclass(frozen=True, slots=True)
class MediaProbe:
    """What the container says, before a frame is decoded."""

    file: MediaFile
    path: str
    """Where the workers read it: the file itself or a spool name. Never written to tables."""
    media_type: MediaType
    container: str
    duration_seconds: float
    """0 where unknown."""
    video: VideoStream | None
    audio: AudioStream | None
    key_frame_seconds: tuple[float, ...]
    """Ascending, on the media's clock; empty where there is no index."""
    decoder: Decoder | None
    """Which decoder is right on this file; None without video."""
    decoder_reason: str
    facts: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """For metadata detectors: see transforms/media/probe_file.py."""
    credentials: Mapping[str, Any] | None = field(default=None, repr=False)
    path_is_ours: bool = False
    """Whether `path` is a spool file, to be removed when the media has ended."""
    clock: ClockKind = "file"
    """How time stamps become the media's clock."""
    joints: tuple[float, ...] = ()
    """Seconds at which the time stamps of the picture jump, ascending."""
    notes: tuple[str, ...] = ()
    """What is not looked at or listened to, and jumps of the clock: a sentence each."""
    sandbox: str | None = None
    """Around the children that parse it, where it is read: `landlock+seccomp`, `landlock`, `seccomp` or `off`."""


@dataclass(frozen=True, slots=True)
class ClipSpec:
    """A stretch of film, half-open, and the moments in it that are wanted."""

    clip_index: int
    start_seconds: float
    end_seconds: float
    times_seconds: tuple[float, ...]
    """[T] moments; the frame wanted is the one on display then."""


@dataclass(frozen=True, slots=True)
class WindowSpec:
    """A window of sound at 16 kHz, half-open."""

    window_index: int
    """Unique in a plan, whatever the detector."""
    start_sample: int
    samples: int
    detector: str
    """Windows are a detector's own."""


@dataclass(frozen=True, slots=True)
class DecodePlan:
    """What is to be decoded of one media; may be nothing."""

    probe: MediaProbe
    clips: tuple[ClipSpec, ...]
    width: int
    """Pixels of the decoded frames, rotation applied."""
    height: int
    clip_sound: bool
    windows: tuple[WindowSpec, ...]


@dataclass(frozen=True, slots=True)
class FaceTrack:
    track_id: int
    frame_positions: np.ndarray
    """int64 [N], positions in the clip's frames, ascending."""
    boxes: np.ndarray
    """float32 [N, 4], x1 y1 x2 y2 in pixels."""
    landmarks: np.ndarray
    """float32 [N, 5, 2], x y in pixels."""
    confidences: np.ndarray
    """float32 [N] in [0, 1]."""

    def __post_init__(self) -> None:
        n = len(self.frame_positions)
        if self.boxes.shape != (n, 4) or self.landmarks.shape != (n, 5, 2) or self.confidences.shape != (n,):
            raise ValueError(
                f"a track of {n} frames needs [N, 4], [N, 5, 2] and [N]: "
                f"got {self.boxes.shape = }, {self.landmarks.shape = }, {self.confidences.shape = }"
            )


@dataclass(frozen=True, slots=True)
class Clip:
    file: MediaFile
    spec: ClipSpec
    frames: np.ndarray
    """uint8 [T, H, W, 3], RGB, display orientation."""
    pts_seconds: np.ndarray
    """float64 [T], on the media's clock."""
    sound: np.ndarray | None
    """float32 [S] in [-1, 1], 16 kHz mono, from spec.start_seconds to spec.end_seconds; None without sound."""
    tracks: tuple[FaceTrack, ...] | None = None
    """None until faces were looked for."""

    def __post_init__(self) -> None:
        if self.frames.ndim != 4 or self.frames.shape[3] != 3 or self.frames.dtype != np.uint8:
            raise ValueError(f"expected uint8 [T, H, W, 3]: got {self.frames.shape = }, {self.frames.dtype = }")
        if self.pts_seconds.shape != self.frames.shape[:1]:
            raise ValueError(f"expected one pts a frame: got {self.pts_seconds.shape = }, {self.frames.shape = }")


@dataclass(frozen=True, slots=True)
class AudioWindow:
    file: MediaFile
    spec: WindowSpec
    samples: np.ndarray
    """float32 [S] in [-1, 1], 16 kHz mono; fewer than spec.samples at the end of the sound."""

    def __post_init__(self) -> None:
        if self.samples.ndim != 1:
            raise ValueError(f"expected [S]: got {self.samples.shape = }")


@dataclass(frozen=True, slots=True)
class Box:
    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """One detector's answer on one item."""

    media_id: str
    detector: str
    family: str
    weights_sha256: str
    clip_index: int | None = None
    track_id: int | None = None
    start_seconds: float | None = None
    end_seconds: float | None = None
    logit: float | None = None
    """> 0 = manipulated."""
    abstained: str | None = None
    box: Box | None = None
    """Pixels of a frame of `frame_width` by `frame_height`, which is shown at `box_seconds`."""
    detail: str | None = None
    box_seconds: float | None = None
    """On the media's clock; with the two below it goes with `box`."""
    frame_width: int | None = None
    frame_height: int | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    stage: str
    error_class: str
    message: str


@dataclass(frozen=True, slots=True)
class ClipFaces:
    """How many faces were found in one clip: the tables report it, whatever the detectors made of them."""

    media_id: str
    clip_index: int
    frames_sampled: int
    """Frames of the clip."""
    frames_with_face: int
    """Frames with a face detected or tracked at confidence >= 0.9."""
    tracks: int
    error: str | None = None
    """What was raised on the search for faces, which then found none."""


@dataclass(frozen=True, slots=True)
class ClipFailure:
    clip_index: int
    start_seconds: float
    end_seconds: float
    error_class: str
    message: str


@dataclass(frozen=True, slots=True)
class MediaOutcome:
    """How the reading of one media ended; every planned media has exactly one."""

    file: MediaFile
    status: Literal["read", "failed", "skipped"]
    skipped_reason: str | None = None
    failure: Failure | None = None
    media_type: MediaType | None = None
    container: str | None = None
    duration_seconds: float | None = None
    decoder: Decoder | None = None
    decoder_reason: str | None = None
    has_video: bool = False
    has_audio: bool = False
    clips_planned: int = 0
    clips_decoded: int = 0
    frames_kept: int = 0
    frames_decoded: int = 0
    windows_decoded: int = 0
    assessed_seconds: float = 0.0
    clip_failures: tuple[ClipFailure, ...] = ()
    sound_failure: Failure | None = None
    damage: tuple[str, ...] = ()
    """What was wrong with clips of which frames came all the same, the first few."""
    notes: tuple[str, ...] = ()
    """As in MediaProbe."""
    width: int | None = None
    """Pixels of the video as stored, rotation applied; None without video."""
    height: int | None = None
    frame_rate: float | None = None
    """Hz, average; None where unknown."""
    sharpness: float | None = None
    """Median over pictures of `measures.sharpness_of`; None where no frame was decoded."""
    loudness_db: float | None = None
    """dBFS of all sound that was decoded; None where no detector needed any."""
    sandbox: str | None = None
    """As in MediaProbe; None where nothing of it was parsed."""


@dataclass(frozen=True, slots=True)
class Leaning:
    """What one detector said of a whole media."""

    detector: str
    log_odds: float
    """> 0 = manipulated. By the calibration's rule, as in `reasons`; without one the mean of the highest quarter of its
    raw logits."""
    logits: int
    """Items that it judged."""
    calibrated: bool
    """Whether the calibration has a rule for it, with these weights."""
    has_say: bool
    """Whether it moves `authenticity`; else it is evidence only."""


@dataclass(frozen=True, slots=True)
class AuthenticityScore:
    """One media's answer. Which calibration made it, on what data, stands in the run's record."""

    authenticity: float | None
    """In [0, 1], 1 = authentic, calibrated; None where every detector abstained."""
    verdict: Literal["authentic", "inconclusive", "manipulated", "not_assessed"]
    family_authenticity: Mapping[str, float | None]
    """By family name, same scale."""
    reasons: tuple[str, ...]
    """Sentences for a person, the weightiest first."""
    clips_assessed: int
    faces: int
    """Face tracks in all clips."""
    calibration_id: str
    detectors: tuple[Leaning, ...] = ()
    """Of those that gave a logit, by name."""


@dataclass(frozen=True, slots=True)
class MediaResult:
    """Everything that is committed about one media: one row of its unit."""

    outcome: MediaOutcome
    score: AuthenticityScore | None
    """None unless the outcome is `read`."""
    evidence: tuple[Evidence, ...] = ()
    frames_with_face: int = 0
    frames_sampled_for_faces: int = 0
