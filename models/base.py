"""What a detector is: its inputs, its answers, and how many items go to the device at a time.

No Beam and no storage here: items are arrays, and answers are small values.
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
"""Hz. Every sound that reaches a detector is mono float32 at this rate."""


@dataclass(frozen=True, slots=True)
class ClipGeometry:
    """How much video a detector needs at once."""

    frames: int = 16
    """Frames in a clip."""
    frame_rate: float = 30.0
    """Hz, at most. Denser videos are thinned by a whole step; sparser ones are taken unchanged."""
    least_frame_rate: float = 0.0
    """Hz. The rate that the detector cannot do without, if the file has it. Other detectors then get denser clips
    too."""
    short_side: int = 360
    """Pixels. Decoding scales frames down to this side, never up. The largest value of the chosen detectors counts,
    unless the user names one."""


@dataclass(frozen=True, slots=True)
class AudioGeometry:
    """A detector's own windows of sound; the first starts at 0 s."""

    window_samples: int
    """Samples at 16 kHz. Shorter sound comes as one shorter window, which the detector tiles or pads itself."""
    hop_samples: int
    """Samples from the start of one window to the start of the next."""
    max_windows: int = 32
    """Most windows of one file. A longer file gets them evenly spread, the first still at 0 s."""


@dataclass(frozen=True, slots=True)
class DetectorSpec:
    """The record of a detector: its inputs, its origin, and its limits."""

    name: str
    family: Family
    unit: Unit
    needs: frozenset[Need]
    """`credentials`: Content Credentials are read. `frames`: clips are decoded. `faces`: faces are tracked too.
    `sound`: sound is decoded. Nothing is decoded that no chosen detector needs."""
    summary: str
    """One line for `deephotlink detectors`."""
    blind_to: str
    """What it cannot see, in one line."""
    method: str = ""
    """Paper or specification."""
    architecture: str = "training-free"
    """The network, as its paper names it."""
    input: str = ""
    """The network's input: size, crop, normalisation, length."""
    output: str = ""
    """The network's output: class order, and how it becomes a logit that is positive for manipulated."""
    licence: str = "Apache-2.0"
    """Licence of the weights, or of the code if there are none; the SPDX name if it has one."""
    commercial_use: bool = True
    """False if the licence forbids it: the detector then runs only if the user has accepted that by name."""
    origin: Origin = "embedded"
    weights: tuple[WeightsFile, ...] = ()
    """The files it needs, as published; empty for a training-free detector."""
    weights_sha256: str = ""
    """Hex, see `Weights.sha256`. The recorded checksum; in a run, the checksum of the loaded weights. Empty if there is
    none."""
    version: str = "1"
    """Part of the fingerprint. Raise it when the same input may give another logit."""
    clip: ClipGeometry | None = None
    audio: AudioGeometry | None = None
    batch_size: int = 1
    """Items in one call of `score`."""
    precision: Precision = "float32"
    """The network's precision on a GPU. On a CPU it is always float32."""
    device_tolerance: float = 1e-3
    """Upper bound on the difference between logits on a GPU (at `precision`) and on a CPU."""
    extra: str = ""
    """The extra of this package that its network needs (`hf`, `hdf5`, see extras.py); empty for none."""
    one_face_explains: bool = False
    """Whether the least suspicious face of a clip answers for all of them: the speaker explains the sound, and
    listeners must not be accused of it. If False, every face counts for itself."""


@dataclass(frozen=True, slots=True)
class MediaItem:
    """One file as its container describes it (unit `media`)."""

    facts: Mapping[str, Any]
    """`ContainerFacts` as JSON; see transforms/media/probe_file.py."""
    credentials: Mapping[str, Any] | None
    """Content Credentials as JSON, see transforms/media/containers/credentials.py; None if they were not read."""


@dataclass(frozen=True, slots=True)
class ClipItem:
    """One clip (unit `clip`)."""

    frames: np.ndarray
    """uint8 [T, H, W, 3], RGB."""
    pts_seconds: np.ndarray
    """float64 [T], on the file's own clock; 0 = start of the file."""
    sound: np.ndarray | None
    """float32 [S] in [-1, 1], 16 kHz mono, from `start_seconds` to the clip's end; None if there is no sound."""
    start_seconds: float
    """When the sound starts, on the same clock."""


@dataclass(frozen=True, slots=True)
class TrackItem:
    """One face followed through a clip (unit `face_track`)."""

    clip: ClipItem
    frame_positions: np.ndarray
    """int64 [N], positions in `clip.frames`, ascending."""
    boxes: np.ndarray
    """float32 [N, 4], x1 y1 x2 y2 in pixels of `clip.frames`."""
    landmarks: np.ndarray
    """float32 [N, 5, 2], x y in pixels: left eye, right eye, nose, left and right corner of the mouth; sides as in the
    image."""
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
    """A detector's answer on one item: either a logit, or the reason why there is none."""

    logit: float | None = None
    """> 0 = manipulated."""
    abstained: str | None = None
    """`no_face`, `no_speech`, `too_short`, `low_resolution`, …"""
    detail: str | None = None
    """What was seen: a JSON object, or a short sentence, which the tables keep as `{"note": sentence}`."""

    def __post_init__(self) -> None:
        if (self.logit is None) == (self.abstained is None):
            raise ValueError(f"a judgement is a logit or an abstention: got {self.logit = }, {self.abstained = }")
        if self.logit is not None and not np.isfinite(self.logit):
            raise ValueError(f"a logit must be finite: got {self.logit = }; abstain with a reason instead")


class Detector(ABC):
    """Judges items of one unit. `score` gives one answer for each item; it raises only for faults of our own."""

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
        """Takes items of `spec.unit`, returns one judgement for each, in the same order."""
