"""A forged face, by its mesoscopic noise: Meso4 and MesoInception4, each trained on two kinds of forgery.

Paper: Afchar et al., "MesoNet: a Compact Facial Video Forgery Detection Network", WIFS 2018. `_df` was trained on
deepfakes gathered from the web in 2018, `_f2f` on Face2Face (FaceForensics). Weights: github.com/DariusAf/MesoNet,
Apache-2.0, Keras files read by models/weights/keras_h5.py. All golden sigmoids match the authors' code within 1e-6
(tests/models/detectors/test_mesonet.py). Their sigmoid is near 1 for real faces, so the logit here is minus its input.

Four confident frames of a track are judged. Each is cut out as the authors align their faces: centred near the nose,
2.86 times the larger of two distances wide (between the eyes, or from the eyes to the mouth), turned so that the mouth
is below the eyes, mirrored past the frame's edge, and scaled to 256 pixels as Pillow does. The authors use 68 landmarks
and we use five, so crops differ by some pixels.

Blind spots: on face swaps made with a popular live tool the AUC is .51 (Meso4 DF), .63 (Meso4 F2F) and .51
(MesoInception). That is hardly better than chance on current forgeries. At its own threshold Meso4 DF flags 48 % of the
real sources. Compression, scaling and blur move the logit more than a forgery does. Fully generated faces are out of
scope.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..base import Detector, DetectorSpec, Judgement, TrackItem
from ..batches import BatchedDetector, spread_faces
from ..late import late
from ..signals.preprocess import resize, to_images
from ..weights.checkpoints import load_exactly
from ..weights.files import NO_WEIGHTS, Weights, WeightsFile
from ..weights.keras_h5 import read_keras_h5, torch_tensors

if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    from torch import Tensor, nn

    from ..architectures.mesonet import Meso4, MesoInception4, MesoNet
else:
    torch = late("torch")
    F = late("torch.nn.functional")
    Meso4 = late("..architectures.mesonet:Meso4", __package__)
    MesoInception4 = late("..architectures.mesonet:MesoInception4", __package__)

REVISION = "2144d56a30e48cdcac1976ff13a1c5cdc86376c6"
SOURCE = f"https://raw.githubusercontent.com/DariusAf/MesoNet/{REVISION}/weights"
FRAMES = 4
WIDER = 1.3 * 2.2
"""Side of the crop, in units of the larger of two distances: between the eyes, and from the eyes to the mouth."""
LEAST_SIDE = 40
"""Pixels of the crop (eyes 14 apart, as lip_sync requires). Below it, scaling invents six of every seven pixels."""
LARGEST_SIDE = 2048
"""Pixels. Larger crops are sampled at this size before they are scaled down, to bound the memory for one face."""


def _spec(
    name: str, trained_on: str, network: str, parameters: str, file: str, sha256: str, size_bytes: int
) -> DetectorSpec:
    return DetectorSpec(
        name=name,
        family="facial",
        unit="face_track",
        needs=frozenset({"frames", "faces"}),
        summary=f"traces of forging in the noise of a face, by {network}, trained on {trained_on}",
        blind_to="modern forgeries (AUC .51-.63), fully generated faces; heavy compression and scaling look forged",
        method="Afchar et al., MesoNet: a Compact Facial Video Forgery Detection Network, WIFS 2018 (arXiv 1809.00888)",
        architecture=f"{network} ({parameters} parameters)",
        input=f"{FRAMES} confident frames of a track, aligned face crop 256x256, reflected past the edges, RGB / 255",
        output="sigmoid, 1 = real; logit = minus the sigmoid's input, averaged over the frames",
        licence="Apache-2.0",
        origin="published",
        weights=(
            WeightsFile(
                file_name=file, url=f"{SOURCE}/{file}", revision=REVISION, sha256=sha256, size_bytes=size_bytes
            ),
        ),
        extra="hdf5",
        batch_size=8,
    )


_DF, _F2F = "deepfakes of 2018", "Face2Face reenactments"
DETECTORS = (
    _spec(
        "meso4_df",
        _DF,
        "Meso4",
        "27,977",
        "Meso4_DF.h5",
        "036ed30d04ffd9c7506f825b97c86aa64915f5818931da96817b169aad790af5",
        156_128,
    ),
    _spec(
        "meso4_f2f",
        _F2F,
        "Meso4",
        "27,977",
        "Meso4_F2F.h5",
        "bcfda015d217b9f8d6557693edbdf9f4e79cfd22672541968dd0e2954462b5d7",
        156_128,
    ),
    _spec(
        "mesoinception4_df",
        _DF,
        "MesoInception4",
        "28,615",
        "MesoInception_DF.h5",
        "234586d40058e76ef8b6f27ca4b63c06e31c2a5a69c0d8ba6f30b1468ab7bafa",
        197_504,
    ),
    _spec(
        "mesoinception4_f2f",
        _F2F,
        "MesoInception4",
        "28,615",
        "MesoInception_F2F.h5",
        "d4533ac8a3197dc35c47405d23d99e888c1d0135e267e03540c7451feaccff3f",
        197_504,
    ),
)


class MesoNetDetector(BatchedDetector):
    rows = FRAMES
    channels_last_on_cpu = True
    """A track takes 30 (Meso4) to 90 ms (MesoInception4) of one core. Channels first, in batches of eight, took 80 to
    240 ms."""

    def build_network(self) -> nn.Module:
        network: MesoNet = MesoInception4() if self.spec.name.startswith("mesoinception4") else Meso4()
        layers = read_keras_h5(self.weights.read(), self.spec.name)
        load_exactly(network, torch_tensors(layers, network.keras_modules, self.spec.name), self.spec.name)
        return network

    def prepare(self, item: TrackItem) -> Tensor | Judgement:
        """(k, 3, 256, 256) RGB in [0, 1], or abstains with `face_hidden`, `low_resolution`."""
        rows = spread_faces(item, item.landmarks, lambda points: face_squares(points)[2], LEAST_SIDE, self.rows)
        if isinstance(rows, Judgement):
            return rows
        # Sampled on the CPU. Another device rounds the float32 grid differently: that turned one grey level in fifty
        # and moved logits by up to 0.05.
        images = to_images(item.clip.frames[item.frame_positions[rows]], "cpu")
        crops = [aligned_face(image, points) for image, points in zip(images, item.landmarks[rows], strict=True)]
        return (torch.cat(crops) / 255).to(self.device)

    def forward(self, batch: Tensor) -> Tensor:
        return -self.network(batch)[:, 0]


def face_squares(landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[N, 5, 2] landmarks → centres [N, 2], unit vectors from the eyes to the mouth [N, 2], sides [N], in pixels.

    The authors' centre is the mean of the nose's bridge and tip, each given by several points. The bridge reaches from
    between the eyes to the tip, so its own mean lies half-way.
    """
    points = landmarks.astype(np.float64)
    eyes, nose, mouth = points[:, :2].mean(axis=1), points[:, 2], points[:, 3:].mean(axis=1)
    bridge = (eyes + nose) / 2
    down = mouth - eyes
    length = np.linalg.norm(down, axis=1)
    apart = np.linalg.norm(points[:, 1] - points[:, 0], axis=1)
    upright = np.array([0.0, 1.0])
    down = np.where(length[:, None] > 0, down / np.maximum(length, 1e-9)[:, None], upright)
    return (bridge + nose) / 2, down, WIDER * np.maximum(apart, length)


def aligned_face(image: Tensor, landmarks: np.ndarray) -> Tensor:
    """uint8 (3, H, W) and landmarks [5, 2] in its pixels → float32 (1, 3, 256, 256), whole grey levels in [0, 255].

    The face is sampled at the image's own scale and turned. It is then scaled as Pillow does, which antialiases large
    faces.
    """
    from ..architectures.mesonet import INPUT_PIXELS

    centres, downs, sides = face_squares(landmarks[None])
    (x, y), (down_x, down_y) = centres[0], downs[0]
    height, width = image.shape[-2:]
    side = round(min(max(sides[0], 1), LARGEST_SIDE))
    # From the crop's own [-1, 1] to the image's; "across" is `down` rotated by a right angle.
    half = sides[0] if side == LARGEST_SIDE else side
    theta = torch.tensor(
        [
            [half * down_y / width, half * down_x / width, 2 * x / width - 1],
            [-half * down_x / height, half * down_y / height, 2 * y / height - 1],
        ],
        dtype=torch.float32,
        device=image.device,
    )
    grid = F.affine_grid(theta[None], [1, 3, side, side], align_corners=False)
    crop = F.grid_sample(image[None].float(), grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return resize(crop.round().clamp(0, 255), INPUT_PIXELS, INPUT_PIXELS)


def make(spec: DetectorSpec = DETECTORS[0], weights: Weights = NO_WEIGHTS) -> Detector:
    return MesoNetDetector(spec, weights)
