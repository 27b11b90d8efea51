"""Synthetic or real speech? AASIST and its smaller variant AASIST-L, on the waveform.

Paper: Jung et al., "AASIST: Audio Anti-Spoofing using Integrated Spectro-Temporal Graph Attention Networks", ICASSP
2022, arXiv 2110.01200. Trained on ASVspoof 2019 LA (speech from the synthesis and conversion systems of 2019, clean
studio recordings). Weights: github.com/clovaai/aasist, MIT, loaded as published. For each network, twelve golden inputs
give the same outputs as the authors' code, within 4e-5 (tests/models/detectors/test_aasist.py).

Windows are 64,600 samples long and start at 0 s. Shorter sound is repeated to that length, as the authors do. There is
no normalisation: a louder copy gets another logit. One window takes 0.8 s of one core and 0.25 GB.

Blind spots: on modern synthesis the AUC is .56 [.48-.64], .59 for AASIST-L. At its own threshold it flags 72 % of real
recordings: rooms, microphones, music and codecs outside its training data look forged to it. It does not check whether
there is speech at all. Digital silence would pass, and a constant offset would be flagged as forged (logit +22), so
windows without any sound abstain with `silent`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..base import SOUND_RATE, AudioGeometry, AudioItem, Detector, DetectorSpec, Judgement
from ..batches import BatchedDetector, two_class_logit
from ..late import late
from ..signals.speech import unheard
from ..weights.checkpoints import load_exactly, read_torch
from ..weights.files import NO_WEIGHTS, Weights, WeightsFile

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

else:
    torch = late("torch")

SPOOF, BONA_FIDE = 0, 1
REVISION = "a04c9863f63d44471dde8a6abcb3b082b07cd1d1"
SOURCE = f"https://raw.githubusercontent.com/clovaai/aasist/{REVISION}/models/weights"
WINDOW_SAMPLES = 64_600
"""Length that the published weights were trained on: a little over four seconds."""
LEAST_SAMPLES = SOUND_RATE // 10
"""A tenth of a second. Shorter sound, repeated more than forty times, is a buzz and not speech."""


def _spec(name: str, summary: str, architecture: str, weights: WeightsFile) -> DetectorSpec:
    return DetectorSpec(
        name=name,
        family="audio",
        unit="audio_window",
        needs=frozenset({"sound"}),
        summary=summary,
        blind_to="synthesis newer than 2019 (AUC .56-.59 there); flags many real recordings (72 % at 0)",
        method="Jung et al., AASIST: Audio Anti-Spoofing, ICASSP 2022 (arXiv 2110.01200)",
        architecture=architecture,
        input="64,600 samples at 16 kHz mono in [-1, 1] from 0 s on, shorter sound repeated, no normalisation",
        output="logits [spoof, bona fide]; logit = spoof - bona fide",
        licence="MIT",
        origin="published",
        weights=(weights,),
        audio=AudioGeometry(window_samples=WINDOW_SAMPLES, hop_samples=WINDOW_SAMPLES),
        batch_size=16,
        # Rounding alone stays below 1e-4. But pooling sorts nodes by their scores, and two nearly equal ones may swap
        # places. With every operand rounded to 10 bits the logits of three recordings moved by 0.006.
        device_tolerance=2e-2,
    )


DETECTORS = (
    _spec(
        "aasist",
        "synthetic speech, by graph attention over the waveform's bands and times, trained on ASVspoof 2019",
        "AASIST (297,866 parameters)",
        WeightsFile(
            file_name="AASIST.pth",
            url=f"{SOURCE}/AASIST.pth",
            revision=REVISION,
            sha256="51d2d9cf0738172f61e2a384ec50a54a55363240f67c971ed55a92435bc1a1c0",
            size_bytes=1_281_532,
        ),
    ),
    _spec(
        "aasist_l",
        "synthetic speech, by the lighter AASIST-L, trained on ASVspoof 2019",
        "AASIST-L (85,306 parameters)",
        WeightsFile(
            file_name="AASIST-L.pth",
            url=f"{SOURCE}/AASIST-L.pth",
            revision=REVISION,
            sha256="814331d088032bb4c3fa61cc014789eadeed464209dd094ab3a2dd6ffbdce27a",
            size_bytes=426_428,
        ),
    ),
)


class AasistDetector(BatchedDetector):
    channels_last_on_cpu = True
    """A window takes 0.8 s of one core; channels first it took 1.3 s."""

    def build_network(self) -> nn.Module:
        from ..architectures.aasist import AASIST, AASIST_L, Aasist

        network = Aasist(AASIST_L if self.spec.name == "aasist_l" else AASIST)
        load_exactly(network, read_torch(self.weights.read(), self.spec.name), self.spec.name)
        return network

    def prepare(self, item: AudioItem) -> Tensor | Judgement:
        """(1, 64600), or abstains with `no_audio`, `too_short`, `silent`, `decode_failed`."""
        samples = item.samples[:WINDOW_SAMPLES]
        if 0 < len(samples) < LEAST_SAMPLES:
            return Judgement(
                abstained="too_short", detail=f"{len(samples)} samples, at least {LEAST_SAMPLES} are needed"
            )
        if (nothing := unheard(samples)) is not None:
            return nothing
        return torch.from_numpy(tiled(samples))[None].to(self.device)

    def forward(self, batch: Tensor) -> Tensor:
        return two_class_logit(self.network(batch), fake=SPOOF, real=BONA_FIDE)


def tiled(samples: np.ndarray) -> np.ndarray:
    """[S], S >= 1 → float32 [64600]: the first samples, repeated if there are fewer."""
    times = -(-WINDOW_SAMPLES // len(samples))
    return np.tile(samples.astype(np.float32, copy=False), times)[:WINDOW_SAMPLES]


def make(spec: DetectorSpec = DETECTORS[0], weights: Weights = NO_WEIGHTS) -> Detector:
    return AasistDetector(spec, weights)
