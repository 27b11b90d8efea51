"""The records that travel between the steps. All are small except `Clip` and `AudioWindow`, which cross no shuffle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from .media.protocol import ClockKind, SoundSource
from .pictures.picture import Picture

MediaType = Literal["video", "audio", "gif"]
Decoder = Literal["decord", "pyav"]


@dataclass(frozen=True, slots=True)
class MediaFile:
    """One thing to be scored: a file, or a member of a tar or zip shard."""

    media_id: str
    """sha256 (hex) of canonical URI, version and member (or of the content)."""
    uri: str
    """An absolute path, or a URI without query, user or password. Of members: `tar://NAME::SHARD`, `zip://NAME::SHARD`."""
    size_bytes: int
    version: str
    """The store's ETag or generation, for example; `size-mtime_ns` for a local file."""
    unit: int = 0
    """The unit of work that commits it."""
    shard: str | None = None
    """Canonical URI of the shard that holds a member."""
    member: str | None = None
    """Name inside the shard."""
    member_offset: int | None = None
    """Bytes from the shard's start to the member's first data byte."""
    member_compressed_bytes: int | None = None
    """Bytes that a deflated member takes in the shard; None if it is stored."""
    path_bytes: bytes | None = None
    """The local path, if `uri` is not exactly that path or it is not valid UTF-8."""
    earlier_attempts: int = 0
    """Number of runs before the one that plans it that could not settle it (`unsettled.py`)."""
    fetch_uri: str | None = field(default=None, repr=False)
    """Where to read it, if that address holds a secret. Travels with the work and is in no outcome, table or log."""


@dataclass(frozen=True, slots=True)
class VideoStream:
    codec: str
    width: int
    """Pixels as displayed, rotation applied."""
    height: int
    frame_rate: float
    """Hz, average; 0 if unknown."""
    rotation: int
    """Degrees clockwise to turn the decoded picture for display: 0, 90, 180, 270."""
    start_seconds: float
    """First presentation time on the file's clock (0 = start of the container)."""
    duration_seconds: float
    frame_count: int
    """0 if the container does not say."""
    pixel_format: str
    index: int | None = None
    """Index of the stream in the container; None: FFmpeg's own choice."""
    unreadable: str | None = None
    """Why no picture of the stream can be opened. Its size is then 0 x 0."""


@dataclass(frozen=True, slots=True)
class AudioStream:
    codec: str
    sample_rate: int
    channels: int
    start_seconds: float
    duration_seconds: float
    sources: tuple[SoundSource, ...] = ()
    """The streams that are heard together; empty: FFmpeg's own choice."""


@dataclass(frozen=True, slots=True)
class MediaProbe:
    """What the container says, before any frame is decoded."""

    file: MediaFile
    path: str
    """Where the workers read it: the file itself or a spool file. Never written to tables."""
    media_type: MediaType
    container: str
    duration_seconds: float
    """0 if unknown."""
    video: VideoStream | None
    audio: AudioStream | None
    key_frame_seconds: tuple[float, ...]
    """Ascending, on the file's clock; empty if there is no index."""
    decoder: Decoder | None
    """The right decoder for this file; None without video."""
    decoder_reason: str
    facts: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """For metadata detectors: see transforms/media/probe_file.py."""
    credentials: Mapping[str, Any] | None = field(default=None, repr=False)
    path_is_ours: bool = False
    """Whether `path` is a spool file, to be removed when the file is finished."""
    clock: ClockKind = "file"
    """How time stamps are turned into the file's clock."""
    joints: tuple[float, ...] = ()
    """Seconds at which the time stamps of the picture jump, ascending."""
    notes: tuple[str, ...] = ()
    """What is not looked at or listened to, and jumps of the clock: a sentence each."""
    sandbox: str | None = None
    """What confines the children that parse it, if they do: `landlock+seccomp`, `landlock`, `seccomp` or `off`."""


@dataclass(frozen=True, slots=True)
class ClipSpec:
    """A stretch of film, half-open, and the wanted moments in it."""

    clip_index: int
    start_seconds: float
    end_seconds: float
    times_seconds: tuple[float, ...]
    """[T] moments. The wanted frame is the one on display at that moment."""


@dataclass(frozen=True, slots=True)
class WindowSpec:
    """A window of sound at 16 kHz, half-open."""

    window_index: int
    """Unique in a plan, across detectors."""
    start_sample: int
    samples: int
    detector: str
    """The one detector that the window is for."""


@dataclass(frozen=True, slots=True)
class DecodePlan:
    """What is to be decoded of one file; may be nothing."""

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
    """float64 [T], on the file's clock."""
    sound: np.ndarray | None
    """float32 [S] in [-1, 1], 16 kHz mono, from spec.start_seconds to spec.end_seconds; None without sound."""
    tracks: tuple[FaceTrack, ...] | None = None
    """None until faces have been looked for."""

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
    """One detector's answer about one item."""

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
    """In pixels of a frame of `frame_width` by `frame_height`, which is shown at `box_seconds`."""
    detail: str | None = None
    box_seconds: float | None = None
    """On the file's clock. Belongs to `box`, as do the two fields below."""
    frame_width: int | None = None
    frame_height: int | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    stage: str
    error_class: str
    message: str


@dataclass(frozen=True, slots=True)
class ClipFaces:
    """How many faces were found in one clip. The tables report it, whatever the detectors made of the faces."""

    media_id: str
    clip_index: int
    frames_sampled: int
    """Frames of the clip."""
    frames_with_face: int
    """Frames with a face detected or tracked at confidence >= 0.9."""
    tracks: int
    error: str | None = None
    """What the search for faces raised; it then found none."""


@dataclass(frozen=True, slots=True)
class ClipFailure:
    clip_index: int
    start_seconds: float
    end_seconds: float
    error_class: str
    message: str


@dataclass(frozen=True, slots=True)
class MediaOutcome:
    """How the reading of one file ended. Every planned file has exactly one."""

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
    """What was wrong with clips that gave frames all the same; only the first few."""
    notes: tuple[str, ...] = ()
    """As in MediaProbe."""
    width: int | None = None
    """Pixels of the video as stored, rotation applied; None without video."""
    height: int | None = None
    frame_rate: float | None = None
    """Hz, average; None if unknown."""
    sharpness: float | None = None
    """Median over pictures of `measures.sharpness_of`; None if no frame was decoded."""
    loudness_db: float | None = None
    """dBFS of all sound that was decoded; None if no detector needed any."""
    sandbox: str | None = None
    """As in MediaProbe; None if nothing of the file was parsed."""


@dataclass(frozen=True, slots=True)
class Leaning:
    """One detector's answer about a whole file."""

    detector: str
    log_odds: float
    """> 0 = manipulated. By the calibration's rule, as in `reasons`; without a rule, the mean of the highest quarter of
    its raw logits."""
    logits: int
    """Number of items that it judged."""
    calibrated: bool
    """Whether the calibration has a rule for it, with these weights."""
    has_say: bool
    """Whether it changes `authenticity`; otherwise it is evidence only."""


@dataclass(frozen=True, slots=True)
class AuthenticityScore:
    """The answer about one file. The run's record says which calibration made it, on what data."""

    authenticity: float | None
    """In [0, 1], 1 = authentic, calibrated; None if no detector that counts gave a logit."""
    verdict: Literal["authentic", "inconclusive", "manipulated", "not_assessed"]
    family_authenticity: Mapping[str, float | None]
    """By family name, same scale."""
    reasons: tuple[str, ...]
    """Sentences for a person, the strongest first."""
    clips_assessed: int
    faces: int
    """Face tracks in all clips."""
    calibration_id: str
    detectors: tuple[Leaning, ...] = ()
    """Answers of the detectors that gave a logit, by name."""


@dataclass(frozen=True, slots=True)
class MediaResult:
    """Everything that is committed about one file: one row of its unit."""

    outcome: MediaOutcome
    score: AuthenticityScore | None
    """None unless the outcome is `read`."""
    evidence: tuple[Evidence, ...] = ()
    frames_with_face: int = 0
    frames_sampled_for_faces: int = 0
    pictures: tuple[Picture, ...] = ()
