"""Synthetic speech, by what a vocoder leaves in the sound: evenly spaced spectral lines, a network and a forest of
our own.

Lines (models/architectures/speech_lines.py): layers that turn frames into samples repeat their errors at a fixed rate.
That draws lines into the long-term spectrum, at multiples of the rate. We look for the rates of common vocoders.
Nothing is learned, so the synthesiser need not be known (Afchar et al. 2025 learn such lines for music).

Network (models/architectures/speech_traces.py): copy-synthesis. Vocoders take recorded speech apart and rebuild it, so
that words, voice and microphone stay those of the recording and only the synthesis differs. This is the idea of
WaveFake (Frank and Schönherr 2021), written from the papers. The vocoders are Griffin-Lim, WORLD, linear prediction,
and small neural ones of three kinds, trained here. Both sides pass through the same rooms, codecs and levels.
models/training/detectors/audio.py trains it. Alone, it fails on neural synthesis that was not in its training, so the
lines get the larger weight.

Forest (models/signals/speech_statistics.py): 90 numbers of how freely a voice moves, which speech made from a smooth
spectrogram does less, and extremely randomised trees over them (Geurts et al. 2006). It learned from synthetic speech
by other people's tools, which the other two never saw. Weights: our own, embedded. Licence: Apache-2.0.

Windows are four seconds long and start at 0 s. Shorter sound is repeated to that length. The level does not matter.
models/embedded/audio.md gives the data and the accuracy.

Blind spots: vocoders whose steps are not among those we look for; synthesis played at another speed, over a telephone,
or under loud music or noise; voices converted or cut together from real recordings. Hum and machines whose tones are
evenly spaced draw lines too. Strong denoising and speech codecs of a few kbit/s are a kind of synthesis and may be
flagged although nothing is forged.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from ..base import SOUND_RATE, AudioGeometry, AudioItem, Detector, DetectorSpec, Judgement
from ..batches import BatchedDetector
from ..embedded.files import embedded_weights
from ..late import late
from ..signals.speech import analyse_speech, unheard
from ..signals.speech_statistics import speech_statistics
from ..weights.checkpoints import load_exactly, read_safetensors
from ..weights.files import NO_WEIGHTS, Weights, WeightsError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ..architectures.speech_traces import SpeechJudge
else:
    torch = late("torch")
    SpeechJudge = late("..architectures.speech_traces:SpeechJudge", __package__)

WINDOW_SAMPLES = 4 * SOUND_RATE
LEAST_SAMPLES = SOUND_RATE
"""One second: a word or two. Training used two seconds or more."""
LEAST_LEVEL_DB = -60.0
LEAST_VARIATION, LEAST_VOICED_SHARE = 1.2, 0.25
"""Of `Speech`. Noise and most music lie below the first, whispers and hisses below the second."""
SHIFT = 4.4
"""Subtracted from the sum. A tenth of the recordings of pages that were left out lay above it."""

DETECTOR = DetectorSpec(
    name="audio",
    version="3",
    family="audio",
    unit="audio_window",
    needs=frozenset({"sound"}),
    summary="traces of synthesis in speech: lines at a vocoder's rates, a network, and how freely the voice moves",
    blind_to="vocoders of unusual steps, another speed, heavy noise; may flag hum and strong denoising",
    method="lines of upsampling (after Afchar, 2025); copy-synthesis (after WaveFake, 2021); extremely randomised "
    "trees (Geurts, 2006); models/embedded/audio.md",
    architecture="comb over the long-term spectrum; residual CNN over spectrum and phase (317,889 parameters); 200 "
    "trees over 90 statistics",
    input=f"{WINDOW_SAMPLES:,} samples at 16 kHz mono from 0 s on, shorter sound repeated, level taken out",
    output="logit of being synthetic",
    origin="embedded",
    weights=embedded_weights("audio"),
    audio=AudioGeometry(window_samples=WINDOW_SAMPLES, hop_samples=WINDOW_SAMPLES),
    batch_size=16,
    device_tolerance=2e-2,
)


class AudioDetector(BatchedDetector):
    channels_last_on_cpu = True

    def build_network(self) -> nn.Module:
        network = SpeechJudge()
        tensors = read_safetensors(self.weights.read(), self.spec.name)
        load_exactly(network.learned, {key: value.float() for key, value in tensors.items()}, self.spec.name)
        if not network.learned.forest.leads_nowhere_else():
            raise WeightsError(
                f"expected trees whose nodes lead to nodes, in {self.spec.name}: train the weights again"
            )
        return network

    def prepare(self, item: AudioItem) -> Tensor | Judgement:
        """(1, 64090), or abstains with `no_audio`, `decode_failed`, `silent`, `too_short`, `no_speech`."""
        samples = item.samples[:WINDOW_SAMPLES]
        if (nothing := unheard(samples)) is not None:
            return nothing
        if len(samples) < LEAST_SAMPLES:
            return Judgement(
                abstained="too_short", detail=f"{len(samples)} samples, at least {LEAST_SAMPLES} are needed"
            )
        speech = analyse_speech(samples)
        if speech is None or speech.level_db < LEAST_LEVEL_DB:
            return Judgement(abstained="silent", detail="too quiet to judge")
        if speech.variation < LEAST_VARIATION or speech.voiced_share < LEAST_VOICED_SHARE:
            told = f"loudness varies by {speech.variation:.2f}, {speech.voiced_share:.0%} of it is voiced"
            return Judgement(abstained="no_speech", detail=told)
        whole = np.resize(samples.astype(np.float32, copy=False), WINDOW_SAMPLES)
        # The statistics are those of what was heard: repeating it would add seams.
        row = np.concatenate([whole, speech_statistics(samples)])
        return torch.from_numpy(row)[None].to(self.device)

    def forward(self, batch: Tensor) -> Tensor:
        answer: Tensor = self.network(batch)
        return answer - SHIFT

    def conclude(self, item: AudioItem, logits: Tensor) -> Judgement:
        logit = float(logits[0])
        leaning = "is more like synthetic speech" if logit > 0 else "is more like recorded speech"
        seconds = min(len(item.samples), WINDOW_SAMPLES) / SOUND_RATE
        told = f"the sound of {seconds:.1f} s from {item.start_seconds:.1f} s {leaning}"
        return Judgement(logit=logit, detail=json.dumps({"summary": told}))


def make(spec: DetectorSpec = DETECTOR, weights: Weights = NO_WEIGHTS) -> Detector:
    return AudioDetector(spec, weights)
