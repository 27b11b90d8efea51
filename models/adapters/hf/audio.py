"""Audio classifiers of transformers that take the waveform itself: wav2vec2 and its relatives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...base import SOUND_RATE, AudioItem, DetectorSpec, Judgement
from ...signals.speech import unheard
from ...weights.files import Weights, WeightsError
from ..items import normalised
from ..labels import Classes
from .images import HfDetector
from .network import Architecture
from .sidecar import Sidecar

EXTRACTOR = "Wav2Vec2FeatureExtractor"


class AudioDetector(HfDetector):
    """One row is a window of sound. A shorter window goes through the network at its own length, as a single sound does
    in transformers. There is no padding and no mask, so the score is that of the reference."""

    def __init__(
        self,
        spec: DetectorSpec,
        weights: Weights,
        architecture: Architecture,
        classes: Classes,
        sidecar: Sidecar,
        normalised: bool,
    ) -> None:
        super().__init__(spec, weights, architecture, classes, sidecar)
        self.normalised = normalised
        self.least_samples = least_samples(architecture.config)

    def blank_row(self) -> Tensor:
        assert self.spec.audio is not None  # set by `describe`
        return torch.zeros((1, self.spec.audio.window_samples), device=self.device)

    def prepare(self, item: AudioItem) -> Tensor | Judgement:
        if (nothing := unheard(item.samples)) is not None:
            return nothing
        if len(item.samples) < self.least_samples:
            return Judgement(abstained="too_short")
        samples = torch.from_numpy(item.samples).to(self.device, torch.float32)
        return (normalised(samples) if self.normalised else samples)[None]


def read_extractor(config: Mapping[str, Any]) -> bool:
    """Whether the feature extractor normalises.

    Raises:
        WeightsError: it does something else, or works at another sample rate.
    """
    kind = config.get("feature_extractor_type", EXTRACTOR)
    if kind != EXTRACTOR or config.get("feature_size", 1) != 1:
        raise WeightsError(
            f"expected a {EXTRACTOR} (the waveform itself) beside an audio model: got {str(kind)[:60]!r}"
        )
    rate, normalises = config.get("sampling_rate"), config.get("do_normalize", True)
    if rate != SOUND_RATE:
        raise WeightsError(f"expected a model of sound at {SOUND_RATE} Hz: its sampling_rate is {str(rate)[:20]}")
    if not isinstance(normalises, bool):
        raise WeightsError(f'expected true or false for "do_normalize": got {str(normalises)[:60]!r}')
    return normalises


def least_samples(config: Any) -> int:
    """The smallest number of samples from which the convolutions make one frame."""
    samples = 1
    layers = zip(getattr(config, "conv_kernel", ()), getattr(config, "conv_stride", ()), strict=False)
    for kernel, stride in reversed(list(layers)):
        samples = (samples - 1) * stride + kernel
    return samples
