"""UniversalFakeDetect: one linear layer on the image features of a frozen CLIP ViT-L/14, frame by frame.

The features are CLIP's 768 values after its projection, not normalised to unit length. The input is the centre 224 x
224 of the unscaled picture: the authors crop and never resize, because resizing destroys what a generator leaves in the
pixels. Here decoding scales frames down to a short side of 360 or less, so large videos are resized before the crop all
the same. Pictures smaller than 224 are placed on black. Expect less than the published accuracy in both cases. Four
frames spread over the clip are judged. The logit is their mean; its sigmoid is p(fake) as published.

Method: Ojha, Li and Lee, "Towards Universal Fake Image Detectors that Generalize Across Generative Models", CVPR 2023,
arXiv 2302.10174. Weights: the head from the authors' repository (MIT), the backbone from OpenAI (MIT). The head was
trained on ProGAN images and LSUN photographs.

Tested against the published head file. The published backbone was not available: random weights of the published shapes
stand in for it, with transformers' own CLIP as the reference (tests/models/detectors/test_ufd.py). Golden outputs of
the complete detector are still missing.

Half precision: on a CPU at the full published size (random backbone, published head, two images of noise) float16 moved
logits of -5.2 and -5.8 by at most 0.012, bfloat16 by 0.13. That is why float16 is declared.

Blind spots: it was made for fully generated images, above all by GANs. Swapped faces in real frames, video codecs and
heavy compression were not in its training data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..base import ClipGeometry, ClipItem, Detector, DetectorSpec, Judgement
from ..batches import BatchedDetector, spread_frames
from ..late import late
from ..signals.preprocess import CLIP_MEAN, CLIP_STD, ImagePreprocessing, to_images
from ..weights.checkpoints import load_exactly, read_safetensors_part, read_torch
from ..weights.clip_l14 import CLIP_L14, TENSORS, clip_l14_file
from ..weights.files import NO_WEIGHTS, Weights, WeightsFile

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..architectures.clip_vision import UfdNetwork, tower_tensors
else:
    UfdNetwork = late("..architectures.clip_vision:UfdNetwork", __package__)
    tower_tensors = late("..architectures.clip_vision:tower_tensors", __package__)

COMMIT = "76a0e3e60a8a06458707a625d269ba815a2e5919"
PREPROCESSING = ImagePreprocessing(size=None, crop=(224, 224), halves="even", mean=CLIP_MEAN, std=CLIP_STD)
LEAST_SIDE = 112
"""Pixels. More than half of the crop would be black for a smaller picture."""

DETECTOR = DetectorSpec(
    name="ufd",
    family="synthetic",
    unit="clip",
    needs=frozenset({"frames"}),
    summary="UniversalFakeDetect: a linear layer on CLIP's image features, averaged over four frames",
    blind_to="swapped faces in real frames; diffusion models and video generators unlike ProGAN; scaled-down frames",
    method="Ojha et al., Towards Universal Fake Image Detectors, CVPR 2023 (arXiv 2302.10174)",
    architecture="CLIP ViT-L/14 (image features, 768) and a linear layer",
    input="4 frames; centre crop 224 x 224 without resizing, padded with black if smaller; CLIP normalisation",
    output="one logit per frame, sigmoid = fake; averaged",
    licence="MIT",
    origin="published",
    weights=(
        WeightsFile(
            file_name="fc_weights.pth",
            url="https://raw.githubusercontent.com/WisconsinAIVision/UniversalFakeDetect/"
            f"{COMMIT}/pretrained_weights/fc_weights.pth",
            role="head",
            revision=COMMIT,
            sha256="477100745713bcc957beb2b40859536859b6483fd6301b3b9293151b194c7847",
            size_bytes=4_083,
        ),
        clip_l14_file("backbone"),
    ),
    extra="hf",
    clip=ClipGeometry(),
    batch_size=4,
    precision="float16",
    device_tolerance=5e-2,
)


class UfdDetector(BatchedDetector):
    rows = 4
    sizes = CLIP_L14
    """Sizes of the vision tower; tests use a small one."""

    def build_network(self) -> nn.Module:
        # The file's bytes are freed before the network is built: both at once would take gigabytes more.
        tensors = read_safetensors_part(self.weights.read("backbone"), "the backbone of ufd", TENSORS)
        network = UfdNetwork(self.sizes)
        load_exactly(network.clip.tower, tower_tensors(tensors), "the backbone of ufd")
        load_exactly(network.fc, read_torch(self.weights.read("head"), "the head of ufd"), "the head of ufd")
        return network

    def prepare(self, item: ClipItem) -> Tensor | Judgement:
        """(k, 3, 224, 224), 1 <= k <= 4. Abstains with `too_short` (no frame), `low_resolution`."""
        frames = spread_frames(item, self.rows, LEAST_SIDE)
        return frames if isinstance(frames, Judgement) else PREPROCESSING(to_images(frames, self.device))


def make(spec: DetectorSpec = DETECTOR, weights: Weights = NO_WEIGHTS) -> Detector:
    return UfdDetector(spec, weights)
