"""A forged face, by the traces that forging leaves around and inside it. Our own network, trained on real faces only.

Method: self-blending and its relatives (Shiohara and Yamasaki, "Detecting Deepfakes with Self-Blended Images", CVPR
2022; Li et al., "Face X-ray", CVPR 2020), written from the papers. models/training/forgeries/faces.py makes the
forgeries, models/training/detectors/facial.py trains, models/embedded/facial.md gives the data and the accuracy. The
network is an EfficientNet-Lite0 at 224 pixels that started from ImageNet weights. Weights: our own, embedded. Licence:
Apache-2.0.

Up to eight confident frames of a track are judged. Each is cut to a square around the face, 3.1 times the distance from
eyes to mouth wide, mirrored past the frame's edge and scaled as Pillow does, bit for bit as in training. The track's
logit is the mean over its frames plus a linear term for what `models/faces/trembling.py` measures along the track:
whether the inner face moves with the head from frame to frame.

Blind spots: fully generated faces (no seam, no second source); forgeries that re-render the frame around the face;
faces whose eyes and mouth are fewer than 14 pixels apart; video compressed until neither edges nor noise are left.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from ..base import ClipGeometry, Detector, DetectorSpec, Judgement, TrackItem
from ..batches import MIN_CONFIDENCE, BatchedDetector, spread_faces
from ..embedded.files import embedded_weights
from ..faces.crops import scaled_squares
from ..faces.geometry import cut_square, face_square
from ..faces.trembling import Trembling, trembling
from ..frames import apart, frames_at
from ..late import late
from ..signals.preprocess import resize
from ..weights.checkpoints import load_exactly, read_safetensors
from ..weights.files import NO_WEIGHTS, Weights

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ..architectures.facial import facial_network, normalised
else:
    torch = late("torch")
    nn = late("torch.nn")
    facial_network = late("..architectures.facial:facial_network", __package__)
    normalised = late("..architectures.facial:normalised", __package__)

PIXELS = 224
FRAMES = 8
LEAST_SIDE = 44
"""Pixels of the square: 14 pixels from the eyes to the mouth, the smallest face seen in training."""

DETECTOR = DetectorSpec(
    name="facial",
    family="facial",
    unit="face_track",
    needs=frozenset({"frames", "faces"}),
    summary="traces of a forged face: seams, a second source, rebuilt skin, trembling; learned from forged real faces",
    blind_to="fully generated faces; frames re-rendered around a face; faces under 44 pixels; heavy compression",
    method="self-blended images and variants (CVPR 2022, arXiv 2204.08376), from the papers; models/embedded/facial.md",
    architecture="EfficientNet-Lite0, batch norms folded (3,352,564 parameters)",
    input=f"{FRAMES} confident frames of a track, square around the face {PIXELS}x{PIXELS}, RGB, (level - 127) / 128",
    output="logit of being forged: mean over the frames, plus a term for the inner face's motion within the head",
    origin="embedded",
    weights=embedded_weights("facial"),
    clip=ClipGeometry(short_side=540),
    batch_size=16,
    precision="float16",
    device_tolerance=0.1,
)


class FacialDetector(BatchedDetector):
    rows = FRAMES
    channels_last_on_cpu = True

    def build_network(self) -> nn.Module:
        network = facial_network()
        load_exactly(network, read_safetensors(self.weights.read(), self.spec.name), self.spec.name)
        return network

    def prepare(self, item: TrackItem) -> Tensor | Judgement:
        chosen = spread_faces(item, item.landmarks, _sides, LEAST_SIDE, FRAMES)
        if isinstance(chosen, Judgement):
            return chosen
        try:
            return normalised(self._faces(item, chosen))
        except ValueError as error:  # the landmarks lie outside the frame
            return Judgement(abstained="face_hidden", detail=str(error))

    def _faces(self, item: TrackItem, rows: np.ndarray) -> Tensor:
        """(k, 3, 224, 224), whole grey levels: the same on a CPU and on a GPU."""
        positions, squares = item.frame_positions[rows], [face_square(points) for points in item.landmarks[rows]]
        if apart(self.device):
            frames = frames_at(item.clip.frames, positions, self.device)
            return scaled_squares(frames, np.arange(len(frames)), np.array(squares), PIXELS, "mirror")
        cut = (cut_square(item.clip.frames[at], *square) for at, square in zip(positions, squares, strict=True))
        planes = (torch.from_numpy(np.ascontiguousarray(face)).permute(2, 0, 1)[None] for face in cut)
        return torch.cat([resize(face, PIXELS, PIXELS) for face in planes])

    def conclude(self, item: TrackItem, logits: Tensor) -> Judgement:
        frames = [round(float(logit), 3) for logit in logits]
        detail: dict[str, Any] = {
            "summary": f"{sum(f > 0 for f in frames)} of {len(frames)} frames of the face look forged",
            "frame_logits": frames,
        }
        logit = float(logits.mean())
        motion = _trembling_of(item)
        if motion is not None:
            trembling_logit = self._trembling_logit(motion)
            detail["summary"] += "; its inner part " + ("trembles" if trembling_logit > 0 else "moves with the head")
            detail["trembling"] = {
                "against_head": round(motion.against, 3),
                "ratio": round(motion.ratio, 3),
                "logit": round(trembling_logit, 3),
            }
            logit += trembling_logit
        return Judgement(logit=logit, detail=json.dumps(detail))

    def _trembling_logit(self, motion: Trembling) -> float:
        # In double precision on the CPU, so that neither the device nor the precision changes these two numbers.
        line = self.network.trembling
        assert isinstance(line, nn.Linear)
        weights, (bias,) = line.weight.detach().double().cpu()[0], line.bias.detach().double().cpu()
        return float(weights[0] * motion.against + weights[1] * motion.ratio + bias)


def _trembling_of(item: TrackItem) -> Trembling | None:
    """Trembling in the longest run of consecutive frames that show the face well."""
    sure = np.flatnonzero((item.confidences >= MIN_CONFIDENCE) & np.isfinite(item.landmarks).all(axis=(1, 2)))
    runs = np.split(sure, np.flatnonzero(np.diff(item.frame_positions[sure]) != 1) + 1)
    rows = max(runs, key=len)
    places = item.frame_positions[rows]
    return trembling([item.clip.frames[at] for at in places], item.landmarks[rows], item.clip.pts_seconds[places])


def _sides(landmarks: np.ndarray) -> np.ndarray:
    """[N, 5, 2] landmarks → float64 [N], sides of the face squares in pixels."""
    return np.array([face_square(points)[2] for points in landmarks], dtype=np.float64)


def make(spec: DetectorSpec = DETECTOR, weights: Weights = NO_WEIGHTS) -> Detector:
    return FacialDetector(spec, weights)
