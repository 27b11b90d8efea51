"""Community Forensics: a ViT-S/16 trained on pictures of thousands of generators, frame by frame, in two input sizes.

A frame's shorter side is scaled to 440 (256) pixels by Pillow's bilinear filter. The centre 384 x 384 (224 x 224) is
cut out and normalised as for ImageNet. The network's one logit has p(fake) as its sigmoid, so it is used unchanged.
Four frames spread over the clip are judged, and the logit is their mean. `commfor_384` asks for frames decoded at a
short side of 440, so the decoder's filter has already resized larger videos; smaller ones are scaled up, as the authors
would. `commfor_224` takes the usual 360 and scales down once more.

Method: Park and Owens, "Community Forensics: Using Thousands of Generators to Train Fake Image Detectors", CVPR 2025,
arXiv 2411.04125. Weights: the hub repositories `OwensLab/commfor-model-384` and `-224` (MIT). No checksum is recorded
for the second: it runs only if the user has named and accepted it.

The published files were not available: random weights of the published names and shapes stand in for them, with
transformers' ViTForImageClassification on the same numbers as the reference (tests/models/detectors/test_commfor.py).
Golden outputs are still missing.

Blind spots: it was trained on still images, so it does not know video codecs and their blocks. A swapped face in a real
frame is not a generated picture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..base import ClipGeometry, ClipItem, Detector, DetectorSpec, Judgement
from ..batches import BatchedDetector, spread_frames
from ..late import late
from ..signals.preprocess import IMAGENET_MEAN, IMAGENET_STD, ImagePreprocessing, to_images
from ..weights.checkpoints import load_exactly, read_safetensors
from ..weights.files import NO_WEIGHTS, Weights, WeightsFile

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..architectures.vit import VisionTransformer, VitShape
else:
    VisionTransformer = late("..architectures.vit:VisionTransformer", __package__)
    VitShape = late("..architectures.vit:VitShape", __package__)

LEAST_SIDE = 112
"""Pixels. Even the 256-pixel size would have to scale smaller pictures up more than twofold."""
RESIZED = {384: 440, 224: 256}
"""Pixels of the shorter side before the crop, by the side of the crop."""


def _spec(side: int, file: WeightsFile, short_side: int, batch_size: int) -> DetectorSpec:
    return DetectorSpec(
        name=f"commfor_{side}",
        family="synthetic",
        unit="clip",
        needs=frozenset({"frames"}),
        summary=f"Community Forensics: a ViT-S/16 at {side} pixels, averaged over four frames",
        blind_to="swapped faces in real frames; strong video compression, because it was trained on stills",
        method="Park and Owens, Community Forensics, CVPR 2025 (arXiv 2411.04125)",
        architecture="ViT-S/16 (width 384, 12 blocks, 6 heads), one logit",
        input=f"4 frames; shorter side to {RESIZED[side]} (bilinear), crop {side} x {side}, ImageNet normalisation",
        output="one logit per frame, sigmoid = fake; averaged",
        licence="MIT",
        origin="published",
        weights=(file,),
        clip=ClipGeometry(short_side=short_side),
        batch_size=batch_size,
        device_tolerance=1e-2,
    )


def _file(side: int, revision: str, sha256: str = "", size_bytes: int = 0) -> WeightsFile:
    return WeightsFile(
        file_name="model.safetensors",
        url=f"https://huggingface.co/OwensLab/commfor-model-{side}/resolve/{revision}/model.safetensors",
        revision=revision,
        sha256=sha256,
        size_bytes=size_bytes,
    )


DETECTORS = (
    _spec(
        384,
        _file(
            384,
            "6076002bf0d9dd37537f965ee2f06f826c333b61",
            "b89f36275f3bf5e2b040eee36597a8f19db051bff9a473a9cf7b2466284fb387",
            87_262_324,
        ),
        short_side=440,
        batch_size=4,
    ),
    _spec(224, _file(224, "26afc31e6b40c312c3fd42c05a758be62446215b"), short_side=360, batch_size=8),
)


def preprocessing(side: int) -> ImagePreprocessing:
    """The authors' preprocessing for the network with inputs of `side` pixels (384 or 224)."""
    return ImagePreprocessing(
        size=RESIZED[side], crop=(side, side), halves="even", mean=IMAGENET_MEAN, std=IMAGENET_STD
    )


class CommForDetector(BatchedDetector):
    rows = 4

    def __init__(self, spec: DetectorSpec, weights: Weights = NO_WEIGHTS, shape: VitShape | None = None) -> None:
        super().__init__(spec, weights)
        side = int(spec.name.rpartition("_")[2])
        self.shape = shape or VitShape(image=side)
        """Shape of the network: the published one, unless a test asks for a small one."""
        self.preprocessing = preprocessing(side)

    def build_network(self) -> nn.Module:
        network, name = VisionTransformer(self.shape), f"the weights of {self.spec.name}"
        tensors = read_safetensors(self.weights.read(), name)
        load_exactly(network, {key.removeprefix("vit."): value for key, value in tensors.items()}, name)
        return network

    def prepare(self, item: ClipItem) -> Tensor | Judgement:
        """(k, 3, side, side), 1 <= k <= 4. Abstains with `too_short` (no frame), `low_resolution`."""
        frames = spread_frames(item, self.rows, LEAST_SIDE)
        return frames if isinstance(frames, Judgement) else self.preprocessing(to_images(frames, self.device))


def make(spec: DetectorSpec = DETECTORS[0], weights: Weights = NO_WEIGHTS) -> Detector:
    return CommForDetector(spec, weights)
