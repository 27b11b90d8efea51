"""What a detector is: what it takes, what it answers, and how many rows go to the device at a time.

No Beam and no storage in this room: items are arrays, answers are small values.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from .weights.files import NO_WEIGHTS, Weights, WeightsFile

Family = Literal["facial", "lip_sync", "synthetic", "audio", "metadata"]
Unit = Literal["media", "clip", "face_track", "audio_window"]
Need = Literal["credentials", "frames", "faces", "sound"]
Origin = Literal["embedded", "published", "yours", "third party"]
Precision = Literal["float32", "float16", "bfloat16"]

FAMILIES: tuple[Family, ...] = ("facial", "lip_sync", "synthetic", "audio", "metadata")
SOUND_RATE = 16_000
"""Hz: every sound that reaches a detector is mono float32 at this rate."""


@dataclass(frozen=True, slots=True)
class ClipGeometry:
    """How much of a stretch of film a detector wants to see at once."""

    frames: int = 16
    """Frames in a clip."""
    frame_rate: float = 30.0
    """Hz, at most: denser media are thinned by a whole step, sparser ones are taken as they are."""
    least_frame_rate: float = 0.0
    """Hz: what the detector cannot do without, where the media has it; other detectors then get denser clips too."""
    short_side: int = 360
    """Pixels: frames are scaled down to this while decoding, never up. The largest that a chosen detector asks for
    counts, unless the user names one."""


@dataclass(frozen=True, slots=True)
class AudioGeometry:
    """A detector's own windows of sound: the first starts at 0 s."""

    window_samples: int
    """Samples at 16 kHz. Sound shorter than this comes as one shorter window; tiling or padding is the detector's."""
    hop_samples: int
    """Samples from the start of a window to that of the next."""
    max_windows: int = 32
    """Windows of one media at most; a longer one gets them spread evenly, the first still at 0 s."""


@dataclass(frozen=True, slots=True)
class DetectorSpec:
    """The record of a detector: what it sees, where it comes from, what it must not be trusted with."""

    name: str
    family: Family
    unit: Unit
    needs: frozenset[Need]
    """`credentials`: Content Credentials are read. `frames`: clips are decoded. `faces`: tracks too. `sound`: sound is
    decoded. What no chosen detector needs is never decoded."""
    summary: str
    """One line for `deephotlink detectors`."""
    blind_to: str
    """What it cannot see, in a line."""
    method: str = ""
    """Paper or specification."""
    architecture: str = "training-free"
    """The network, in the words of its paper."""
    input: str = ""
    """What goes in: size, crop, normalisation, length."""
    output: str = ""
    """What comes out: class order, and how it becomes a logit that is positive for manipulated."""
    licence: str = "Apache-2.0"
    """Of the weights, or of the code where there are none; SPDX where it has a name there."""
    commercial_use: bool = True
    """False where the licence forbids it: such a detector runs only for who has accepted that by name."""
    origin: Origin = "embedded"
    weights: tuple[WeightsFile, ...] = ()
    """The files it needs, as published; empty for a training-free detector."""
    weights_sha256: str = ""
    """Hex, see `Weights.sha256`: of what is on record, and in a run of what was loaded. Empty where there is none."""
    version: str = "1"
    """Part of the fingerprint: raise it when the same input may give another logit."""
    clip: ClipGeometry | None = None
    audio: AudioGeometry | None = None
    batch_size: int = 1
    """Items in one call of `score`."""
    precision: Precision = "float32"
    """Of the network on a GPU; on a CPU it is always float32."""
    device_tolerance: float = 1e-3
    """Logits on a GPU (at `precision`) and on a CPU differ by less than this."""
    extra: str = ""
    """The extra of this package that its network needs (`hf`, `hdf5`, see extras.py); empty for none."""
    one_face_explains: bool = False
    """Whether the least suspicious face of a clip answers for all in it: whoever speaks explains the sound, and those
    who listen are not to be accused of it. Else every face counts for itself."""


@dataclass(frozen=True, slots=True)
class MediaItem:
    """One media file as its container describes it (unit `media`)."""

    facts: Mapping[str, Any]
    """`ContainerFacts` as JSON: see transforms/media/probe_file.py."""
    credentials: Mapping[str, Any] | None
    """Content Credentials as JSON, see transforms/media/containers/credentials.py; None where they were not read."""


@dataclass(frozen=True, slots=True)
class ClipItem:
    """One stretch of film (unit `clip`)."""

    frames: np.ndarray
    """uint8 [T, H, W, 3], RGB."""
    pts_seconds: np.ndarray
    """float64 [T], on the media's own clock, 0 = start of the file."""
    sound: np.ndarray | None
    """float32 [S] in [-1, 1], 16 kHz mono, from `start_seconds` to the clip's end; None where there is no sound."""
    start_seconds: float
    """When the sound starts, same clock."""


@dataclass(frozen=True, slots=True)
class TrackItem:
    """One face followed through a clip (unit `face_track`)."""

    clip: ClipItem
    frame_positions: np.ndarray
    """int64 [N], positions in `clip.frames`, ascending."""
    boxes: np.ndarray
    """float32 [N, 4], x1 y1 x2 y2 in pixels of `clip.frames`."""
    landmarks: np.ndarray
    """float32 [N, 5, 2], x y in pixels: left eye, right eye, nose, left and right corner of the mouth (image sides)."""
    confidences: np.ndarray
    """float32 [N] in [0, 1]."""


@dataclass(frozen=True, slots=True)
class AudioItem:
    """One window of sound (unit `audio_window`)."""

    samples: np.ndarray
    """float32 [S] in [-1, 1], 16 kHz mono, S <= window_samples."""
    start_seconds: float


Item = MediaItem | ClipItem | TrackItem | AudioItem


@dataclass(frozen=True, slots=True)
class Judgement:
    """A detector's answer on one item: a logit, or the reason why there is none. Never both, never neither."""

    logit: float | None = None
    """> 0 = manipulated."""
    abstained: str | None = None
    """`no_face`, `no_speech`, `too_short`, `low_resolution`, …"""
    detail: str | None = None
    """What was seen, as JSON or a short sentence."""

    def __post_init__(self) -> None:
        if (self.logit is None) == (self.abstained is None):
            raise ValueError(f"a judgement is a logit or an abstention: got {self.logit = }, {self.abstained = }")
        if self.logit is not None and not np.isfinite(self.logit):
            raise ValueError(f"a logit must be finite: got {self.logit = }; abstain with a reason instead")


class Detector(ABC):
    """Judges items of one unit. `score` answers each item in its place; raising is for our own faults only."""

    def __init__(self, spec: DetectorSpec, weights: Weights = NO_WEIGHTS) -> None:
        self.spec = spec
        self.weights = weights

    def load(self, device: str) -> None:  # noqa: B027  (training-free detectors have nothing to load)
        """Puts the weights on `device` (`cpu`, `cuda:0`). Called once before `score`.

        Raises:
            WeightsError: the files are not what the detector expects.
        """

    @abstractmethod
    def score(self, items: Sequence[Any]) -> list[Judgement]:
        """Takes items of `spec.unit`, answers as many judgements in the same order."""
