"""Face swaps in single frames: one EfficientNet-B7 of the solution that won the Deepfake Detection Challenge.

Four frames of a tracked face are judged one by one; the face's logit is their mean. The authors average probabilities
over 32 frames and seven such networks, with a rule for confident frames. A mean of one network's logits is simpler, and
less certain than theirs.

Method: Selim Seferbekov, "DFDC 1st place solution" (github.com/selimsef/dfdc_deepfake_challenge), based on Tan and Le,
"EfficientNet" (ICML 2019), starting from the weights of Xie et al., "Noisy Student" (CVPR 2020).
Network: models/architectures/efficientnet.py. Input: the face's box grown by a third of its height and width on every
side, cut at the frame's edges, its longer side scaled to 380 (area average to shrink, cubic to enlarge), centred on a
black square. Compared with OpenCV 5.0's own resize on seven textured crops: area is equal except for one level in 0.2 %
of a thin crop, cubic is at most one level off in 0.05 % (an antialiased bilinear is up to 33-51 levels off).
Weights: release 0.0.1 of the same repository, one of the seven networks; no checksum is recorded. Licence: MIT.

The published file was not available. Tested with random weights: the names, shapes and count of the tensors at full
size on the meta device; at reduced size, equality with transformers' EfficientNetModel on the same tensors.
Half precision (all but batch norms) was measured on a CPU, with random weights of width 1 and the statistics of noise:
logits moved by at most 0.002 at B0's depth, where they scatter by 0.14, and by 0.02 at B7's, where they scatter by
0.06. It was not measured on a GPU.

Differences from the original: frames are at most 540 lines high here, and came from 1080 in its training; boxes come
from our tracker.

Blind spots: it was made for the swaps of 2019 (DFDC, GAN and autoencoder faces). Newer swaps, reenactment by diffusion,
fully generated scenes and lip-sync pass more often. Heavy compression and small faces look alike to it, and single
frames show no change over time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..base import ClipGeometry, Detector, DetectorSpec, Judgement, TrackItem
from ..batches import BatchedDetector, spread_faces
from ..late import late
from ..signals.preprocess import IMAGENET_MEAN, IMAGENET_STD, ImagePreprocessing, to_images
from ..weights.checkpoints import load_exactly, read_torch
from ..weights.files import NO_WEIGHTS, Weights, WeightsFile

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor, nn

    from ..architectures.efficientnet import DfdcClassifier
else:
    torch = late("torch")
    F = late("torch.nn.functional")
    DfdcClassifier = late("..architectures.efficientnet:DfdcClassifier", __package__)

SIDE = 380
"""Pixels."""
FRAMES = 4
LEAST_FACE_PIXELS = 48.0
"""Shorter side of the part of the box inside the frame. A smaller face's crop would be enlarged nearly five times."""
NORMALISED = ImagePreprocessing(size=None, mean=IMAGENET_MEAN, std=IMAGENET_STD)

DETECTOR = DetectorSpec(
    name="dfdc_b7",
    family="facial",
    unit="face_track",
    needs=frozenset({"frames", "faces"}),
    summary="face swaps, frame by frame, with an EfficientNet-B7 of the winner of the Deepfake Detection Challenge",
    blind_to="swaps newer than 2020, reenactment by diffusion, generated scenes, lip-sync, traces over time",
    method="Seferbekov, DFDC 1st place solution, 2020, on Tan and Le, EfficientNet, ICML 2019",
    architecture="EfficientNet-B7 (tf, Noisy Student start), mean pool, linear, 63.8 M parameters",
    input="face box + 1/3 on every side, longer side 380, on black 380x380, ImageNet mean/std; 4 frames",
    output="one logit per frame, sigmoid = fake; averaged",
    licence="MIT",
    origin="published",
    weights=(
        WeightsFile(
            file_name="final_111_DeepFakeClassifier_tf_efficientnet_b7_ns_0_36",
            url="https://github.com/selimsef/dfdc_deepfake_challenge/releases/download/0.0.1/"
            "final_111_DeepFakeClassifier_tf_efficientnet_b7_ns_0_36",
            revision="0.0.1",
        ),
    ),
    clip=ClipGeometry(short_side=540),
    batch_size=2,
    precision="float16",
    device_tolerance=0.25,
)


class DfdcDetector(BatchedDetector):
    rows = FRAMES

    def build_network(self) -> nn.Module:
        name = DETECTOR.weights[0].file_name
        tensors = read_torch(self.weights.read(), name)
        network = DfdcClassifier()
        # The file also holds a head for ImageNet's 1,000 classes, which the authors' forward pass never uses.
        load_exactly(network, {k: v for k, v in tensors.items() if not k.startswith("encoder.classifier.")}, name)
        return network

    def prepare(self, item: TrackItem) -> Tensor | Judgement:
        """(k, 3, 380, 380), 1 <= k <= 4. Abstains with `face_hidden`, `low_resolution`."""
        height, width = item.clip.frames.shape[1:3]

        def shorter_sides(boxes: np.ndarray) -> np.ndarray:
            inside = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
            return np.minimum(inside[:, 2] - inside[:, 0], inside[:, 3] - inside[:, 1])

        rows = spread_faces(item, item.boxes, shorter_sides, LEAST_FACE_PIXELS, self.rows)
        if isinstance(rows, Judgement):
            return rows
        crops = [face_crop(item.clip.frames[item.frame_positions[at]], item.boxes[at]) for at in rows]
        return NORMALISED(torch.stack([face_on_black(crop, self.device) for crop in crops]))


def make(spec: DetectorSpec = DETECTOR, weights: Weights = NO_WEIGHTS) -> Detector:
    return DfdcDetector(spec, weights)


def face_crop(frame: np.ndarray, box: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3], x1 y1 x2 y2 → uint8 [h, w, 3]: whole pixels, a third more on every side, cut at the edges."""
    limit = 4 * max(frame.shape)
    x1, y1, x2, y2 = (int(np.clip(v, -limit, limit)) for v in box)
    more_down, more_across = (y2 - y1) // 3, (x2 - x1) // 3
    crop = frame[max(y1 - more_down, 0) : y2 + more_down, max(x1 - more_across, 0) : x2 + more_across]
    if not crop.size:
        raise ValueError(f"expected a box inside {frame.shape[1]}x{frame.shape[0]}: got {box.tolist()}")
    return crop


def face_on_black(crop: np.ndarray, device: torch.device) -> Tensor:
    """uint8 [h, w, 3] → float32 (3, 380, 380), whole grey levels, longer side scaled to 380, centred on black."""
    image = to_images(crop[None], device)[0].float()
    height, width = image.shape[1:]
    scale = SIDE / max(height, width)
    # Truncated to whole pixels as the authors do; a sliver keeps one.
    size = (max(1, int(height * scale)), SIDE) if width > height else (SIDE, max(1, int(width * scale)))
    if scale > 1:
        image = F.interpolate(image[None], size=size, mode="bicubic", align_corners=False)[0]
    elif scale < 1:
        image = area_weights(height, size[0], device) @ image @ area_weights(width, size[1], device).T
    square = torch.zeros((3, SIDE, SIDE), device=device)
    top, left = (SIDE - size[0]) // 2, (SIDE - size[1]) // 2
    square[:, top : top + size[0], left : left + size[1]] = image.round().clamp(0, 255)
    return square


def area_weights(before: int, after: int, device: torch.device) -> Tensor:
    """(after, before): how much of each old pixel lies in each new one; rows sum to 1, after <= before."""
    edges = torch.arange(after + 1, device=device, dtype=torch.float64) * (before / after)
    pixels = torch.arange(before, device=device, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], pixels + 1) - torch.maximum(edges[:-1, None], pixels)
    return (overlap.clamp(min=0) * (after / before)).float()
