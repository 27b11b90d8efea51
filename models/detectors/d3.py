"""D3: how unevenly the embeddings of consecutive frames move. Generated video moves too evenly. Nothing is trained.

An image encoder embeds each frame. The L2 distances between consecutive embeddings are the first differences. The
changes from one distance to the next are the second differences. The statistic is the standard deviation of the second
differences (k - 2 values, with k - 3 in the denominator). It is high for real footage and low for generated video.

Method: Zheng et al., "D3: Training-Free AI-Generated Video Detection Using Second-Order Features", ICCV 2025, arXiv
2508.00701. It has no weights of its own (code MIT). `--weights d3=DIR` selects any encoder of the kinds in
models/architectures/vision_encoder.py; DIR holds `config.json` and `model.safetensors`. An encoder other than the
recorded one also needs `--allow-unpinned d3`. The default is OpenAI's CLIP ViT-L/14 (MIT), because its safetensors file
has a recorded checksum. The authors prefer X-CLIP ViT-B/16, and their thresholds are valid only with it.

**The logit is not calibrated.** It is (THRESHOLD - statistic) / SCALE, clipped to +-4. The published thresholds differ
by generator, from 1.0 to 3.0; we use the lowest, which accuses the fewest files. The statistic depends on the encoder
(the length of its embeddings) and on the time between frames. `detail` holds it, so that you can calibrate it on your
own real clips.

Frames: up to 16 at 8 a second. The authors use that rate for clips of one or two seconds, and 2 a second for longer
ones. Denser clips, decoded for another detector, are thinned by a whole step. Clips sparser than 2 a second are not
judged. Fewer than 4 frames abstain with `too_short`. Embeddings that hardly move abstain with `no_motion`, because a
frozen picture would look generated. Neither rule has been measured with the published encoder, which was not available:
random weights stand in for it, with transformers' own models as the reference (tests/models/detectors/test_d3.py).

Precision: float32, on a GPU too, because the statistic is made of differences of nearly equal numbers.

Blind spots: a cut, a flash or a shaking camera makes any video look real. A still camera, slow motion, animation and
repeated frames look generated. A swapped face in real footage moves as the footage does.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from ..base import ClipGeometry, ClipItem, Detector, DetectorSpec, Judgement
from ..batches import BatchedDetector
from ..late import late
from ..signals.preprocess import ImagePreprocessing, to_images
from ..weights.clip_l14 import clip_l14_file
from ..weights.files import NO_WEIGHTS, Weights, WeightsError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ..architectures.vision_encoder import VisionEncoder, read_config
else:
    torch = late("torch")
    VisionEncoder = late("..architectures.vision_encoder:VisionEncoder", __package__)
    read_config = late("..architectures.vision_encoder:read_config", __package__)

RATE = 8.0
"""Hz, rate of the compared frames."""
LEAST_RATE = 1.9
"""Hz. The authors go down to 2."""
MOST_FRAMES = 16
LEAST_FRAMES = 4
"""They give two second differences, the fewest that have a standard deviation."""
LEAST_SIDE = 112
"""Pixels. A 224-pixel encoder would have to scale smaller pictures up more than twofold."""
LEAST_MOTION = 0.01
"""Mean first difference as a share of the embeddings' length. A frozen picture has 0, apart from noise."""
THRESHOLD = 1.0
SCALE = 0.5
LARGEST_LOGIT = 4.0

DETECTOR = DetectorSpec(
    name="d3",
    family="synthetic",
    unit="clip",
    needs=frozenset({"frames"}),
    summary="D3: deviation of the second differences of frame embeddings, training-free on any encoder; uncalibrated",
    blind_to="cuts and shaking cameras (look real), still cameras and animation (look generated), swapped faces; its "
    "threshold differs by generator (1.0-3.0), encoder and frame rate",
    method="Zheng et al., D3: Training-Free AI-Generated Video Detection, ICCV 2025 (arXiv 2508.00701)",
    architecture="training-free on an encoder: CLIP ViT-L/14, or another of CLIP, X-CLIP, SigLIP, DINOv2, ViT",
    input="up to 16 frames at 8 Hz; shorter side to the encoder's size (bicubic), centre crop, its normalisation",
    output="statistic: low = generated; logit (1.0 - statistic) / 0.5, not calibrated",
    licence="MIT",
    origin="published",
    weights=(clip_l14_file("config", "config.json"), clip_l14_file("encoder")),
    extra="hf",
    clip=ClipGeometry(frames=MOST_FRAMES, frame_rate=RATE),
    batch_size=1,
    device_tolerance=5e-2,
)


class D3Detector(BatchedDetector):
    rows = MOST_FRAMES

    def build_network(self) -> nn.Module:
        config = read_config(self.weights.read("config"), "the config of d3")
        if MOST_FRAMES % config.frames:
            raise WeightsError(
                f"expected an encoder of single frames or of a divisor of {MOST_FRAMES} of them: got {config.frames}"
            )
        self.together = config.frames
        """Frames that the encoder mixes. Only whole groups are judged, and no group spans two items."""
        mean, std = config.normalisation
        side = config.image_size
        self.preprocessing = ImagePreprocessing(size=side, resample="bicubic", crop=(side, side), mean=mean, std=std)
        return VisionEncoder(config, self.weights.read("encoder"), "the encoder of d3")

    def prepare(self, item: ClipItem) -> Tensor | Judgement:
        """(k, 3, S, S), 4 <= k <= 16, consecutive. Abstains with `too_short`, `low_frame_rate`, `low_resolution`."""
        step = frame_step(item.pts_seconds)
        count = min(len(item.frames[::step]), MOST_FRAMES) // self.together * self.together
        if count < LEAST_FRAMES:
            return Judgement(abstained="too_short")
        if step_seconds(item.pts_seconds, step) > 1 / LEAST_RATE:
            return Judgement(abstained="low_frame_rate")
        if min(item.frames.shape[1:3]) < LEAST_SIDE:
            return Judgement(abstained="low_resolution")
        return self.preprocessing(to_images(item.frames[::step][:count], self.device))

    def forward(self, batch: Tensor) -> Tensor:
        """(R, 3, S, S) → (R, D) embeddings; `conclude` judges the differences between rows."""
        embeddings: Tensor = self.network(batch)
        return embeddings

    def conclude(self, item: ClipItem, embeddings: Tensor) -> Judgement:
        """(k, D) → the clip's logit, with the statistic in `detail`. Abstains with `no_motion`."""
        first = first_differences(embeddings)
        statistic = float(second_order_deviation(embeddings))
        length = float(embeddings.norm(dim=1).mean())
        moving = float(first.mean()) > LEAST_MOTION * length
        logit = float(np.clip((THRESHOLD - statistic) / SCALE, -LARGEST_LOGIT, LARGEST_LOGIT))
        if not moving:
            summary = "The picture hardly changes: there is nothing to judge."
        elif logit > 0:
            summary = "The picture changes as evenly as in generated video (uncalibrated)."
        else:
            summary = "The picture changes as unevenly as in real footage (uncalibrated)."
        detail = json.dumps(
            {
                "summary": summary,
                "statistic": round(statistic, 4),
                "mean_distance": round(float(first.mean()), 4),
                "mean_length": round(length, 3),
                "frames": len(embeddings),
                "step_seconds": round(step_seconds(item.pts_seconds, frame_step(item.pts_seconds)), 4),
            }
        )
        return Judgement(logit=logit, detail=detail) if moving else Judgement(abstained="no_motion", detail=detail)


def first_differences(embeddings: Tensor) -> Tensor:
    """(k, D) → (k - 1,) L2 distances from each embedding to the next."""
    return (embeddings[1:] - embeddings[:-1]).norm(dim=1)


def second_order_deviation(embeddings: Tensor) -> Tensor:
    """(k, D), k >= 4 → the method's statistic, a scalar >= 0."""
    return torch.diff(first_differences(embeddings)).std(correction=1)


def frame_step(pts_seconds: np.ndarray) -> int:
    """Step, in frames, that comes nearest to 8 frames a second."""
    between = step_seconds(pts_seconds, 1)
    return max(1, round(1 / (RATE * between))) if between > 0 else 1


def step_seconds(pts_seconds: np.ndarray, step: int) -> float:
    """Median time from one chosen frame to the next; 0 if there are no usable time stamps."""
    between = np.diff(pts_seconds)
    between = between[np.isfinite(between) & (between > 0)]
    return float(np.median(between)) * step if len(between) else 0.0


def make(spec: DetectorSpec = DETECTOR, weights: Weights = NO_WEIGHTS) -> Detector:
    return D3Detector(spec, weights)
