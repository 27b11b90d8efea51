"""Does the mouth move as the voice suggests? Audio-visual correspondence, face by face.

The mouth of a tracked face gives two signals (models/faces/mouth.py): how much it moves and how far it is open. One
linear map, trained on real talking footage (models/training/detectors/lip_sync.py), predicts both from 0.4 s of the
sound's mel bands. The mean of the two correlations at the true place, with one frame of tolerance, is compared with the
same figure at every circular shift of the sound by 0.5 s or more within the clip. `z` is how many standard deviations
the true place lies above those shifts. The logit falls as z rises: a logit > 0 means that the sound fits no better at
its true place than elsewhere.

Measured on sources that were not used for training (68 faces in 32 videos, four folds; models/embedded/lip_sync.md):
AUC of true against circularly shifted sound .95 [.90-.99], against somebody else's speech .88 [.82-.93]. The
correlation with plain loudness that it replaced had .89 and .81 on the same faces. The logit is > 0 on 9 % of the true,
85 % of the shifted and 73 % of the foreign sounds.

Blind spots: a good lip-sync forgery is synchronous by design and passes. Dubbing, narration, an off-screen speaker and
a listener who moves the mouth are flagged although nothing is forged. Lively background music may pass the speech
check. A beard, a hand or a profile hides the mouth. One clip of four seconds is weak evidence: judge several together.

Method: correlating mouth and voice goes back to Hershey and Movellan (NIPS 1999). The map is trained by a softmax over
places (InfoNCE, arXiv:1807.03748), as SyncNet is by pairs. The lag, the abstention limits and the midpoint were chosen
on real clips. Licence: Apache-2.0. Weights: our own, embedded.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ..base import ClipGeometry, Detector, DetectorSpec, Judgement, TrackItem
from ..batches import MIN_CONFIDENCE, judged_alone
from ..devices import same_bits_each_time
from ..embedded.files import embedded_weights
from ..faces.mouth import MouthSignals, eye_distances, mouth_patches, mouth_signals
from ..late import late
from ..signals.speech import Speech, analyse_speech
from ..weights.checkpoints import load_exactly, read_safetensors
from ..weights.files import NO_WEIGHTS, Weights

if TYPE_CHECKING:
    import torch

    from ..architectures.lip_voice import VoiceLines, circular_correlation, log_mel, mouth_lines, voice_at
else:
    torch = late("torch")
    VoiceLines = late("..architectures.lip_voice:VoiceLines", __package__)
    circular_correlation = late("..architectures.lip_voice:circular_correlation", __package__)
    log_mel = late("..architectures.lip_voice:log_mel", __package__)
    mouth_lines = late("..architectures.lip_voice:mouth_lines", __package__)
    voice_at = late("..architectures.lip_voice:voice_at", __package__)

LEAST_SECONDS = 1.9
"""Picture and sound together. Less leaves too few shifts to compare with."""
LONGEST_STEP_SECONDS = 0.13
"""Between frames. Syllables come at 4-5 Hz; frames farther apart do not show them."""
LEAST_EYE_PIXELS = 14.0
"""Distance between the eyes. Below it, the lips and their opening are one or two pixels high."""
LEAST_SURE_SHARE = 0.8
"""Share of the frames that must have a face with confidence MIN_CONFIDENCE or more."""
LEAST_LEVEL_DB = -60.0
LEAST_VARIATION = 1.2
"""Standard deviation of the natural log power: music and noise beds had 0.5-1.1, clear speech 1.3-2.8."""
LEAST_VOICED_SHARE = 0.1
LEAST_MOTION = 0.005
"""Standard deviation of the mouth's motion: 0.001 on a still face, 0.012 or more on real speakers."""
NEAR_SECONDS = 0.5
"""Smaller shifts share syllables with the true place, so they are no fair comparison."""
MIDPOINT = 0.7
"""The z at which true and shifted sound are equally likely (tests/bench/measure_lip_sync.py)."""
LARGEST_LOGIT = 4.0

DETECTOR = DetectorSpec(
    name="lip_sync",
    family="lip_sync",
    unit="face_track",
    needs=frozenset({"frames", "faces", "sound"}),
    summary="whether the mouth moves with the voice: their correlation in place and with the sound shifted",
    blind_to="lip-sync forgeries that are synchronous by design; flags dubbing, narrators and listeners",
    method="contrastive (SyncNet, ACCV workshops 2016; InfoNCE, arXiv 1807.03748); models/embedded/lip_sync.md",
    architecture="one linear map from 0.4 s of log-mel to the motion and opening of a mouth (442 parameters)",
    input="mouth of a tracked face at 15 Hz for 4 s, and the clip's own sound at 16 kHz",
    output="falls as z rises: how many standard deviations the true place lies above the shifts",
    weights=embedded_weights("lip_sync"),
    version="2",
    clip=ClipGeometry(frames=60, frame_rate=15.0),
    batch_size=1,
    one_face_explains=True,
)


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well mouth and voice fit, at the true place and elsewhere."""

    correlation: float
    """At the true place, in [-1, 1]."""
    z: float
    """How many standard deviations the true place lies above the correlations at shifts of 0.5 s or more."""
    best_lag_seconds: float
    """The circular shift that fits best; > 0 means that the sound comes later than the mouth."""


class LipSyncDetector(Detector):
    """Runs each item through the network alone, so that no item can affect another."""

    def load(self, device: str) -> None:
        self.device = torch.device(device)
        same_bits_each_time(self.device)
        network = VoiceLines()
        load_exactly(network, read_safetensors(self.weights.read(), self.spec.name), self.spec.name)
        self.network = network.to(self.device).eval().requires_grad_(False)

    def score(self, items: Sequence[TrackItem]) -> list[Judgement]:
        with torch.inference_mode():
            return [judged_alone(partial(judge, self.network, device=self.device), item) for item in items]


def make(spec: DetectorSpec = DETECTOR, weights: Weights = NO_WEIGHTS) -> Detector:
    return LipSyncDetector(spec, weights)


@dataclass(frozen=True, slots=True)
class Talk:
    """One face and its sound, cut to the time that has both and good enough to be judged."""

    times: np.ndarray
    """float64 [N], seconds from the start of the sound, ascending."""
    patches: np.ndarray
    """float32 [N, 48, 64], see models/faces/mouth.py."""
    mouth: MouthSignals
    sound: np.ndarray
    """float32 [S], 16 kHz mono."""
    speech: Speech


def judge(network: VoiceLines, item: TrackItem, device: torch.device | str = "cpu") -> Judgement:
    """One face in one clip → a logit, or an abstention (see `talk_of`). `network` is on the device."""
    talk = talk_of(item, device)
    if isinstance(talk, Judgement):
        return talk
    found = agreement(network, talk)
    if found is None:
        return Judgement(abstained="no_motion")
    logit = float(np.clip(MIDPOINT - found.z, -LARGEST_LOGIT, LARGEST_LOGIT))
    return Judgement(logit=logit, detail=_detail(found))


def talk_of(item: TrackItem, device: torch.device | str = "cpu") -> Talk | Judgement:
    """One face in one clip → what can be compared, or an abstention. The mouth is cut out on the device.

    Abstains with `no_audio`, `no_speech`, `too_short`, `low_frame_rate`, `low_resolution`, `face_hidden`, `no_motion`.
    """
    clip = item.clip
    speech = analyse_speech(clip.sound) if clip.sound is not None else None
    if clip.sound is None or speech is None:
        return Judgement(abstained="no_audio")
    times = clip.pts_seconds[item.frame_positions] - clip.start_seconds
    # Only the time that has both picture and sound can be compared.
    covered = np.isfinite(times) & (times >= -0.1) & (times <= speech.times_seconds[-1] + 0.1)
    times, positions, landmarks = times[covered], item.frame_positions[covered], item.landmarks[covered]
    if len(times) < 2 or times[-1] - times[0] < LEAST_SECONDS:
        return Judgement(abstained="too_short")
    if (times[-1] - times[0]) / (len(times) - 1) > LONGEST_STEP_SECONDS:
        return Judgement(abstained="low_frame_rate")
    if not speech_like(speech):
        return Judgement(abstained="no_speech")
    sure = np.isfinite(landmarks).all(axis=(1, 2)) & (item.confidences[covered] >= MIN_CONFIDENCE)
    if sure.mean() < LEAST_SURE_SHARE:
        return Judgement(abstained="face_hidden")
    if float(np.median(eye_distances(landmarks[sure]))) < LEAST_EYE_PIXELS:
        return Judgement(abstained="low_resolution")
    # Frames without a confident face get landmarks interpolated from their neighbours.
    rows = np.arange(len(times))
    flat = landmarks.reshape(len(rows), 10)
    filled = np.stack([np.interp(rows, rows[sure], column[sure]) for column in flat.T], axis=1).reshape(-1, 5, 2)
    patches = mouth_patches(clip.frames, positions, filled, device)
    mouth = mouth_signals(patches)
    if float(mouth.motion.std()) < LEAST_MOTION:
        return Judgement(abstained="no_motion")
    return Talk(times, patches, mouth, clip.sound, speech)


def speech_like(speech: Speech) -> bool:
    """Whether the sound is loud enough, varies in loudness and has a pitch."""
    return (
        speech.level_db >= LEAST_LEVEL_DB
        and speech.variation >= LEAST_VARIATION
        and speech.voiced_share >= LEAST_VOICED_SHARE
    )


def agreement(network: VoiceLines, talk: Talk) -> Agreement | None:
    """The fit of one face and its sound; None if the mouth or the voice does not vary."""
    return place(network, talk.times, mouth_lines(talk.mouth), log_mel(talk.sound))


def place(network: VoiceLines, times: np.ndarray, lines: np.ndarray, mel: np.ndarray) -> Agreement | None:
    """How well they fit: frame times [N] on the sound's clock, ascending, the mouth's signals [N, 2], mel bands [M,
    20]."""
    grid = np.linspace(times[0], times[-1], len(times))
    mouth = np.stack([np.interp(grid, times, line) for line in lines.T], axis=1)
    voice = network(torch.from_numpy(mel)[None].to(network.line.weight.device))[0].float().cpu()
    correlations = circular_correlation(mouth, voice_at(voice, torch.from_numpy(grid)).numpy())
    return None if correlations is None else agreement_of(correlations, float(grid[1] - grid[0]))


def agreement_of(correlations: np.ndarray, step: float) -> Agreement:
    """[N] correlations by circular shift, `step` seconds apart → Agreement."""
    count = len(correlations)
    tolerant = np.max([np.roll(correlations, s) for s in (-1, 0, 1)], axis=0)
    shifts = np.arange(count)
    lags = np.where(shifts <= count // 2, shifts, shifts - count) * step
    far = tolerant[np.abs(lags) >= NEAR_SECONDS]
    # The 0.05 keeps a clip from looking certain when every shift fits equally badly.
    z = (tolerant[0] - far.mean()) / (far.std() + 0.05)
    return Agreement(float(tolerant[0]), float(z), float(lags[int(np.argmax(correlations))]))


def _detail(found: Agreement) -> str:
    if found.z >= MIDPOINT + 1:
        summary = "The mouth moves with the voice."
    elif found.z >= MIDPOINT:
        summary = "The mouth moves somewhat with the voice."
    else:
        summary = "The mouth does not move with the voice (a dubbed track or another speaker looks the same)."
    return json.dumps(
        {
            "summary": summary,
            "correlation": round(found.correlation, 3),
            "best_lag_seconds": round(found.best_lag_seconds, 2),
            "z": round(found.z, 2),
        }
    )
