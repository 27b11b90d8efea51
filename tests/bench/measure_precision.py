"""What half precision does to logits, on the CPU: `python -m tests.bench.measure_precision`.

A vision transformer of CLIP ViT-B/32's shape (224 pixels, 768 wide, 12 layers) with random weights looks at made
pictures; a linear head of standard normal weights on the normalised embedding makes 64 logits of each, whose size is
about 1. Weights and activations are then cast as `BatchedDetector` does on a GPU. Trained weights have larger outliers
than random ones: a detector that declares half precision states its own `device_tolerance`, measured on its weights.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from deephotlink.models.batches import dtype_of
from deephotlink.models.signals.preprocess import CLIP_MEAN, CLIP_STD, ImagePreprocessing, to_images

HEADS = 64


@dataclass(frozen=True, slots=True)
class Error:
    """The error of logits at a precision, compared with those at float32."""

    precision: str
    largest: float
    mean: float
    spread: float
    """Standard deviation of the float32 logits over pictures, the mean over heads: what there is to be told apart."""


class Network(nn.Module):
    def __init__(self, side: int, width: int, layers: int, patch: int):
        from transformers import CLIPVisionConfig, CLIPVisionModel

        super().__init__()
        self.vision = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=width,
                intermediate_size=4 * width,
                num_hidden_layers=layers,
                num_attention_heads=width // 64,
                image_size=side,
                patch_size=patch,
            )
        )
        self.head = nn.Linear(width, HEADS)
        nn.init.normal_(self.head.weight)

    def forward(self, images: Tensor) -> Tensor:
        embedding = self.vision(images).pooler_output
        return self.head(nn.functional.normalize(embedding, dim=-1))


@torch.inference_mode()
def errors(side: int = 224, width: int = 768, layers: int = 12, patch: int = 32, pictures: int = 16) -> list[Error]:
    """For float16 and bfloat16, over `pictures` made pictures and 64 heads."""
    torch.manual_seed(0)
    network = Network(side, width, layers, patch).eval()
    rows = ImagePreprocessing(side, "bicubic", (side, side), mean=CLIP_MEAN, std=CLIP_STD)(_pictures(pictures, side))
    exact = network(rows)
    found = []
    for precision in ("float16", "bfloat16"):
        dtype = dtype_of(precision)
        difference = (copy.deepcopy(network).to(dtype)(rows.to(dtype)).float() - exact).abs()
        found.append(
            Error(precision, float(difference.max()), float(difference.mean()), float(exact.std(dim=0).mean()))
        )
    return found


def _pictures(count: int, side: int) -> Tensor:
    """Noise of every coarseness, bright and dark."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(count):
        cells = 2 ** (1 + number % 7)
        small = rng.integers(0, 256, (1, cells, cells, 3)) * rng.uniform(0.2, 1.0)
        made.append(ImagePreprocessing((side, side), "bicubic", scale=1.0)(to_images(small.astype(np.uint8), "cpu")))
    return torch.cat(made).byte()


def main() -> None:
    print("| precision | largest difference of a logit | mean | standard deviation of the logits |\n|---|---|---|---|")
    for error in errors():
        print(f"| {error.precision} | {error.largest:.4f} | {error.mean:.4f} | {error.spread:.3f} |")


if __name__ == "__main__":
    main()
