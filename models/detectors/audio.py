"""Speech from a machine by what its vocoder leaves in the sound: lines at even distances, and a network of our own.

Lines (models/architectures/speech_lines.py): layers that turn frames into samples repeat their errors at a rate of
their own, which draws lines at its multiples into the long-term spectrum. Sought at the rates of usual vocoders;
nothing is learned, so a synthesiser need not be known (Afchar et al. 2025 learn such lines of music).

Network (models/architectures/speech_traces.py): copy-synthesis. Recorded speech is taken apart and put together again
by vocoders, so that words, voice and microphone are those of the recording and only the synthesis differs (the idea of
WaveFake, Frank and Schönherr 2021; written from the papers): Griffin-Lim, WORLD, linear prediction, and small neural
vocoders of three kinds trained here. Both pass the same rooms, codecs and levels. models/training/detectors/audio.py is
its training. Alone it fails on neural synthesis that it never learned, so the lines weigh more.

A window is four seconds from 0 s on, shorter sound is repeated to that length; its level does not matter.
models/embedded/audio.md says on what it was measured and how well.

Blind spots: vocoders whose steps are none of those sought; synthesis played at another speed, after a telephone, loud
music or noise; a voice converted or cut from true recordings. Hum and machines that sound at even distances draw lines
too. Strong denoising and speech codecs of a few kbit/s are synthesis of a kind, and may be flagged although nobody
forged anything.
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
from ..weights.checkpoints import load_exactly, read_safetensors
from ..weights.files import NO_WEIGHTS, Weights

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ..architectures.speech_traces import LinesAndTraces
else:
    torch = late("torch")
    LinesAndTraces = late("..architectures.speech_traces:LinesAndTraces", __package__)

WINDOW_SAMPLES = 4 * SOUND_RATE
LEAST_SAMPLES = SOUND_RATE
"""A second: a word or two. Training heard two seconds and more."""
LEAST_LEVEL_DB = -60.0
LEAST_VARIATION, LEAST_VOICED_SHARE = 1.2, 0.25
"""Of `Speech`: noise and most music lie below the first, what is whispered or hissed below the second."""
LINES_WEIGHT, TRACES_WEIGHT = 1.8, 0.45
"""Of the lines and of the network's answer. Their ratio did best on the synthesisers that were told worst, the scale is
that of a logistic regression on the side learned from (models/embedded/audio.md)."""
SHIFT = 4.6
"""Taken off both: about a tenth of the held recordings lay above."""

DETECTOR = DetectorSpec(
    name="audio",
    version="2",
    family="audio",
    unit="audio_window",
    needs=frozenset({"sound"}),
    summary="traces of a vocoder in speech: lines at the rates of its layers, and a network",
    blind_to="vocoders of unusual steps, another speed, heavy noise; may flag hum and strong denoising",
    method="lines of upsampling (after Afchar, 2025); copy-synthesis (after WaveFake, 2021); models/embedded/audio.md",
    architecture="comb over the long-term spectrum; residual CNN over spectrum and phase (317,889 parameters)",
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
        network = LinesAndTraces(LINES_WEIGHT, TRACES_WEIGHT)
        tensors = read_safetensors(self.weights.read(), self.spec.name)
        load_exactly(network.traces, {key: value.float() for key, value in tensors.items()}, self.spec.name)
        return network

    def prepare(self, item: AudioItem) -> Tensor | Judgement:
        """(1, 64000), or `no_audio`, `decode_failed`, `silent`, `too_short`, `no_speech`."""
        samples = item.samples[:WINDOW_SAMPLES]
        if (nothing := unheard(samples)) is not None:
            return nothing
        if len(samples) < LEAST_SAMPLES:
            return Judgement(abstained="too_short", detail=f"{len(samples)} samples, {LEAST_SAMPLES} are needed")
        speech = analyse_speech(samples)
        if speech is None or speech.level_db < LEAST_LEVEL_DB:
            return Judgement(abstained="silent", detail="too quiet to judge")
        if speech.variation < LEAST_VARIATION or speech.voiced_share < LEAST_VOICED_SHARE:
            told = f"loudness varies by {speech.variation:.2f}, {speech.voiced_share:.0%} of it is voiced"
            return Judgement(abstained="no_speech", detail=told)
        whole = np.resize(samples.astype(np.float32, copy=False), WINDOW_SAMPLES)
        return torch.from_numpy(whole)[None].to(self.device)

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
