"""Generated video, by what decoders leave in single frames and by how features move. Our own network.

Method: real video against the same video rebuilt by small generators of our own (autoencoders with several ways of
upsampling, shifted latents, filters, lattices of random kernels, interpolated frames). Content, sharpness and coding
are the same on both sides: models/training/detectors/synthetic.py. The motion branch reads first and second differences
in time of learned features, after Zheng et al., "D3", ICCV 2025, arXiv 2508.00701. models/embedded/synthetic.md gives
the data and the accuracy. **Read it before you trust a logit: no current large generator was available to test
against.** Weights: our own, embedded. Licence: Apache-2.0.

Patches are cut at the decoded resolution and never scaled, because scaling destroys the traces. Up to four patches of
96 pixels are spread over the parts of the picture that are not flat. Each spans six consecutive frames from the middle
of the clip.

Blind spots: generators whose traces are unlike those of our own; large pictures, because decoding scales them down;
heavy compression; a small forged part of the picture. Upscaled, denoised, filtered, drawn or rendered video may be
flagged although nobody meant to deceive.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from ..base import ClipGeometry, ClipItem, Detector, DetectorSpec, Judgement
from ..batches import BatchedDetector, spread
from ..embedded.files import embedded_weights
from ..frames import frames_at
from ..late import late
from ..weights.checkpoints import load_exactly, read_safetensors
from ..weights.files import NO_WEIGHTS, Weights

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ..architectures.synthetic import synthetic_network
else:
    torch = late("torch")
    synthetic_network = late("..architectures.synthetic:synthetic_network", __package__)

PIXELS, FRAMES = 96, 6
MOST_PATCHES = 4
FLAT = 3.0
"""Grey levels. A patch with a smaller standard deviation shows nothing (black bars, sky)."""

DETECTOR = DetectorSpec(
    name="synthetic",
    family="synthetic",
    unit="clip",
    needs=frozenset({"frames"}),
    summary="traces of a generator's decoder in frames, and uneven motion of features; learned from our own generators",
    blind_to="generators unlike our small ones, pictures scaled far down, heavy compression, small forged areas; may "
    "flag upscaled, filtered or drawn footage",
    method="our own generators; second differences after Zheng et al., D3, ICCV 2025; models/embedded/synthetic.md",
    architecture="11 blocks of EfficientNet-Lite0, a high-pass branch, heads for frames and motion (710,618)",
    input=f"{MOST_PATCHES} patches of {PIXELS} x {PIXELS}, never scaled, {FRAMES} frames in a row",
    output="logit of frames plus logit of motion, averaged over the patches",
    origin="embedded",
    weights=embedded_weights("synthetic"),
    clip=ClipGeometry(frames=16, short_side=360),
    batch_size=4,
    device_tolerance=2e-2,
)


class SyntheticDetector(BatchedDetector):
    rows = MOST_PATCHES
    cpu_items = 1

    def build_network(self) -> nn.Module:
        network = synthetic_network()
        load_exactly(network, read_safetensors(self.weights.read(), self.spec.name), self.spec.name)
        return network

    def prepare(self, item: ClipItem) -> Tensor | Judgement:
        """(k, 6, 3, 96, 96) grey levels, 1 <= k <= 4, or abstains with `too_short`, `low_resolution`, `flat`."""
        if len(item.frames) < FRAMES:
            detail = f"{len(item.frames)} frames, at least {FRAMES} are needed"
            return Judgement(abstained="too_short", detail=detail)
        if (side := min(item.frames.shape[1:3])) < PIXELS:
            detail = f"a side of {side} pixels, at least {PIXELS} are needed"
            return Judgement(abstained="low_resolution", detail=detail)
        first = (len(item.frames) - FRAMES) // 2
        places = patch_places(item.frames[first + FRAMES // 2])
        if not places:
            return Judgement(abstained="flat", detail="no part of the picture has enough detail to judge")
        frames = frames_at(item.frames, np.arange(first, first + FRAMES), self.device)
        patches = [frames[:, top : top + PIXELS, left : left + PIXELS] for top, left in places]
        return torch.stack(patches).permute(0, 1, 4, 2, 3).float()

    def forward(self, batch: Tensor) -> Tensor:
        """(R, 6, 3, 96, 96) → (R, 3): logits of the frames and of the motion, mean frame difference (grey levels)."""
        moved = batch.float().diff(dim=1).abs().mean((1, 2, 3, 4))
        answer: Tensor = self.network(batch)
        return torch.cat([answer.float(), moved[:, None]], dim=1)

    def conclude(self, item: ClipItem, logits: Tensor) -> Judgement:
        """(k, 3) → the mean over the patches, with both logits in `detail`."""
        from ..architectures.synthetic import STILL

        frame, motion, moved = (float(value) for value in logits.mean(0))
        logit = frame + motion
        leaning = "looks generated" if logit > 0 else "looks filmed"
        still = "" if bool((logits[:, 2] > STILL).any()) else "; nothing moves, so this is from its frames alone"
        summary = f"the picture from {item.start_seconds:.1f} s {leaning}{still}"
        detail = {
            "summary": summary,
            "frames": round(frame, 3),
            "motion": round(motion, 3),
            "moved": round(moved, 2),
            "patches": len(logits),
        }
        return Judgement(logit=logit, detail=json.dumps(detail))


def patch_places(frame: np.ndarray) -> list[tuple[int, int]]:
    """(top, left) of at most MOST_PATCHES patches that are not flat, from a centred grid without overlap.

    frame: uint8 [H, W, 3], no side below PIXELS.
    """
    down, across = (size // PIXELS for size in frame.shape[:2])
    top, left = ((size - count * PIXELS) // 2 for size, count in zip(frame.shape[:2], (down, across), strict=True))
    places = [(top + row * PIXELS, left + column * PIXELS) for row in range(down) for column in range(across)]
    shown = [(y, x) for y, x in places if frame[y : y + PIXELS, x : x + PIXELS, 1].std() > FLAT]
    return [shown[at] for at in spread(len(shown), MOST_PATCHES)]


def make(spec: DetectorSpec = DETECTOR, weights: Weights = NO_WEIGHTS) -> Detector:
    return SyntheticDetector(spec, weights)
