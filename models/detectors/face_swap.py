"""Does the inner face belong to the head around it? Statistics of a face against its own surround and over time.

`facial` looks at pictures with a network; this detector measures (models/faces/statistics.py). It measures whether
texture travels with the skin, how the inner face moves with its head, and what scaling and decoders leave in diagonals.
From each number it subtracts what the shot leads one to expect (size, light, sharpness, codec and motion, measured
around the face). The rest is projected onto the one direction in which forgeries differ from their own originals
(models/architectures/face_swap.py, models/training/detectors/face_swap.py). Up to 16 consecutive frames are judged.

models/embedded/face_swap.md shows what it finds on other people's forgeries, and where it is near chance. Weights: our
own, embedded. Licence: Apache-2.0.

Blind spots: heads rendered whole (reenactment, talking portraits), because they hold no foreign region; stills and
faces that stand still; fewer than six consecutive frames; faces under 14 pixels from the eyes to the mouth.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ..base import ClipGeometry, Detector, DetectorSpec, Judgement, TrackItem
from ..batches import MIN_CONFIDENCE, judged_alone
from ..devices import same_bits_each_time
from ..embedded.files import embedded_weights
from ..faces.geometry import face_axes
from ..faces.regions import face_piece
from ..faces.statistics import EVIDENCE, LEAST_FRAMES, MOST_FRAMES, NAMES, face_statistics
from ..frames import apart, frames_at
from ..late import late
from ..weights.checkpoints import load_exactly, read_safetensors
from ..weights.files import NO_WEIGHTS, Weights

if TYPE_CHECKING:
    import torch

    from ..architectures.face_swap import SwapMap
else:
    torch = late("torch")
    SwapMap = late("..architectures.face_swap:SwapMap", __package__)

LEAST_SIZE = 14.0
"""FaceAxes.size in pixels. The parts of smaller faces are only a few pixels each, and training saw none."""
LONGEST_STEP_SECONDS = 0.13
"""Between frames. Over longer steps a face has turned, and its texture cannot be followed."""
MOST_MOTION = 0.35
"""Motion of the face's surround, in face sizes a frame. Beyond it the optical flow is lost."""
MOST_LISTED = 4
"""Statistics named in the evidence."""

DETECTOR = DetectorSpec(
    name="face_swap",
    family="facial",
    unit="face_track",
    needs=frozenset({"frames", "faces"}),
    summary="steadiness, pixel grid and motion of the inner face against the head around it, corrected for the shot",
    blind_to="fully rendered heads (reenactment); stills; under six frames in a row; under 14 px from eyes to mouth",
    method="residual statistics, Fisher's discriminant over pairs of our own forgeries; models/embedded/face_swap.md",
    architecture=f"{len(NAMES)} statistics, one linear map, one direction",
    input=f"up to {MOST_FRAMES} consecutive frames of a track, the face and its surroundings, levels 0 to 255",
    output="logit of a foreign inner face: 0 lies between our own forgeries and their originals",
    origin="embedded",
    weights=embedded_weights("face_swap"),
    clip=ClipGeometry(short_side=540),
    batch_size=4,
    device_tolerance=2e-2,
)


class FaceSwapDetector(Detector):
    """Judges each item alone. Pixels are measured on the device. The few hundred numbers that come of it are judged on
    the CPU."""

    def load(self, device: str) -> None:
        self.device = torch.device(device)
        same_bits_each_time(self.device)
        network = SwapMap()
        load_exactly(network, read_safetensors(self.weights.read(), self.spec.name), self.spec.name)
        self.network = network.float().eval().requires_grad_(False)

    def score(self, items: Sequence[TrackItem]) -> list[Judgement]:
        return [judged_alone(partial(judge, self.network, device=self.device), item) for item in items]


def make(spec: DetectorSpec = DETECTOR, weights: Weights = NO_WEIGHTS) -> Detector:
    return FaceSwapDetector(spec, weights)


def sure_run(item: TrackItem) -> np.ndarray:
    """int64 [k], ascending: rows of the longest run of consecutive frames that show the face well."""
    sure = np.flatnonzero((item.confidences >= MIN_CONFIDENCE) & np.isfinite(item.landmarks).all(axis=(1, 2)))
    runs = np.split(sure, np.flatnonzero(np.diff(item.frame_positions[sure]) != 1) + 1)
    return max(runs, key=len)


def judge(network: SwapMap, item: TrackItem, device: torch.device | str = "cpu") -> Judgement:
    """One face in one clip → a logit, or an abstention (see `statistics_of`). `network` is on the CPU."""
    found = statistics_of(item, device)
    if isinstance(found, Judgement):
        return found
    with torch.inference_mode():
        values = torch.tensor([[found[name] for name in NAMES]], dtype=torch.float32)
        logit = float(network(values)[0])
        shares = (network.residuals(values)[0] * network.direction * network.answer.weight[0, 0]).double().numpy()
    return Judgement(logit=logit, detail=_detail(logit, shares))


def statistics_of(item: TrackItem, device: torch.device | str = "cpu") -> Mapping[str, float] | Judgement:
    """The statistics of the first frames of the longest confident run, measured on the device, or an abstention.

    Abstains with `no_face`, `face_hidden`, `too_short`, `low_frame_rate`, `low_resolution`, `no_motion`,
    `too_much_motion`.
    """
    if not len(item.confidences):
        return Judgement(abstained="no_face")
    rows = sure_run(item)[:MOST_FRAMES]
    if not len(rows):
        return Judgement(abstained="face_hidden", detail=f"no frame with a face of confidence {MIN_CONFIDENCE} or more")
    if len(rows) < LEAST_FRAMES:
        return Judgement(
            abstained="too_short",
            detail=f"{len(rows)} consecutive confident frames, at least {LEAST_FRAMES} are needed",
        )
    landmarks, places = item.landmarks[rows], item.frame_positions[rows]
    seconds = item.clip.pts_seconds[places]
    step = float(np.median(np.diff(seconds)))
    if not 0 < step <= LONGEST_STEP_SECONDS:
        detail = f"{step:.2f} s between frames, at most {LONGEST_STEP_SECONDS} are followed"
        return Judgement(abstained="low_frame_rate", detail=detail)
    axes = [face_axes(points) for points in landmarks]
    size = float(np.median([a.size for a in axes]))
    if size < LEAST_SIZE:
        detail = f"{size:.0f} pixels from the eyes to the mouth, at least {LEAST_SIZE:.0f} are needed"
        return Judgement(abstained="low_resolution", detail=detail)
    height, width = item.clip.frames.shape[1:3]
    x, y = np.median([a.centre for a in axes], axis=0)
    if not (0 <= x < width and 0 <= y < height):
        return Judgement(abstained="face_hidden", detail="the face lies outside the frame")
    frames = item.clip.frames
    # On a CPU only the piece around the face is copied.
    shown = frames_at(frames, places, device) if apart(torch.device(device)) else [frames[at] for at in places]
    piece = face_piece(shown, landmarks, seconds)
    if len(piece.images) < LEAST_FRAMES:
        detail = f"{len(piece.images)} frames that differ, at least {LEAST_FRAMES} are needed"
        return Judgement(abstained="no_motion", detail=detail)
    found = face_statistics(piece)
    if np.exp(found["moves_ring"]) > MOST_MOTION:
        detail = f"{np.exp(found['moves_ring']):.2f} face sizes a frame, at most {MOST_MOTION} can be followed"
        return Judgement(abstained="too_much_motion", detail=detail)
    if not np.isfinite([found[name] for name in ("moves_inner", "moves_ring", "fineY0_ring")]).all():
        return Judgement(abstained="face_hidden", detail="too little of the face or its surround is in the frame")
    return found


def _detail(logit: float, shares: np.ndarray) -> str:
    """JSON. `shares`: [92], what each statistic contributes to the logit."""
    largest = np.argsort(-np.abs(shares))[:MOST_LISTED]
    statistics = [{"name": EVIDENCE[at], "share": round(float(shares[at]), 3)} for at in largest]
    leans = "unlike" if logit > 0 else "like"
    names = ", ".join(EVIDENCE[at] for at in largest)
    return json.dumps({"summary": f"the inner face is {leans} its own head; most by {names}", "statistics": statistics})
