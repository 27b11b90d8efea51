"""The pipeline in reading order: from listed files to one result per file.

    media - probe -+- metadata detectors -------------------------------+
                   +- clips - decode -+- clip detectors ----------------+- group by media - fuse
                                      +- faces - face track detectors --+
                                      +- windows of sound - detectors --+

Beam fuses everything up to the evidence into one stage, so frames never cross a shuffle.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import apache_beam as beam

from ..models import registry
from ..models.base import ClipGeometry, Detector, DetectorSpec
from ..models.calibration.calibration import Calibration, load_calibration
from ..models.weights.files import NO_WEIGHTS, Weights
from ..transforms.clips import PlanClips
from ..transforms.decode import CLIPS, WINDOWS, DecodeClips
from ..transforms.detect import Detect
from ..transforms.faces import TrackFaces
from ..transforms.fuse import FuseMedia
from ..transforms.listing import planned_of
from ..transforms.media.children.pool import WorkerPool
from ..transforms.media.children.shared_pool import shared_pool
from ..transforms.pictures.candidates import KeepBest
from ..transforms.probe import ENDED, ProbeMedia
from ..transforms.records import MediaProbe
from ..transforms.sound_windows import plan_windows
from ..transforms.tables.staged_weights import localise
from . import machine
from .options import Reading
from .weights.detector_choice import choose

SPREAD_RATE = 15.0
"""Hz, at most, for short clips if no detector needs them denser. A 720p clip of 16 frames at this rate costs 3 % more
than at 30 Hz and shows 1.3 s instead of 0.6; at 8 Hz it would cost 20 % more (CPU, one core, decoding to detectors)."""


def clip_geometry(probe: MediaProbe, detectors: Sequence[DetectorSpec]) -> ClipGeometry | None:
    """The shape of the clips to decode from one file, or None if it has no video or no detector needs frames.

    Clips are as long, dense and large as the most demanding detector that can use them wants. One decode serves all
    detectors: one that wants shorter clips uses part of a longer one. On a silent film, detectors that need sound get
    the plain short clip. They cannot judge it, but the tables then say which faces are in it.
    """
    if probe.video is None:
        return None
    silent = probe.audio is None
    wanted = [
        ClipGeometry() if silent and "sound" in d.needs else d.clip or ClipGeometry()
        for d in detectors
        if "frames" in d.needs
    ]
    if not wanted:
        return None
    longest = max(wanted, key=lambda g: g.frames / g.frame_rate)
    seconds = longest.frames / longest.frame_rate
    dense = [g.frame_rate for g in wanted if g.least_frame_rate > 0]
    frame_rate = max(longest.frame_rate, *dense, 0.0)
    frames = math.ceil(seconds * frame_rate - 1e-6)
    if frames <= ClipGeometry().frames and not dense:
        # The same number of frames over twice the time shows more of the film. It is as dense as lip_sync's clips.
        frame_rate = min(frame_rate, SPREAD_RATE)
    return ClipGeometry(
        frames=frames,
        frame_rate=frame_rate,
        least_frame_rate=max(g.least_frame_rate for g in wanted),
        short_side=max(g.short_side for g in wanted),
    )


@dataclass
class AssessMedia(beam.PTransform):
    """Scores media with the chosen detectors. Takes MediaFile or (MediaFile, MediaOutcome | None), yields MediaResult.

    A MediaOutcome that comes with a file is what is already known about it. No file may come twice.
    """

    detectors: Sequence[str | DetectorSpec] | None = None
    """Names or specs; None: every detector that is ready."""
    reading: Reading = field(default_factory=Reading)
    calibration: Calibration = field(default_factory=load_calibration)
    build: Callable[[DetectorSpec, Weights], Detector] = registry.make
    """Makes a detector. Called on the worker."""
    spool: str | None = None
    """Local folder for staged files; None: the system's temporary folder."""
    weights: Mapping[str, Weights] | None = None
    """Where the chosen detectors' files are, by the detector's name; None: detectors that are given by name get their
    files from the package or the weights cache."""

    def expand(self, pcoll):
        specs, weights = chosen_detectors(self.detectors, self.weights)
        reading = self.reading
        make_pool = partial(pool_of, reading)
        spool = self.spool or tempfile.gettempdir()
        needs = frozenset[str]().union(*(d.needs for d in specs))

        probed = (
            pcoll
            | "Pair" >> beam.Map(planned_of)
            | "ProbeMedia"
            >> ProbeMedia(
                make_pool,
                spool,
                "credentials" in needs,
                reading.max_bytes,
                reading.limits.max_duration_seconds,
                reading.max_spool_bytes,
                ahead=(reading.decoders or 1) + 2,
            )
        )
        decoded = (
            probed.probes
            | "PlanClips"
            >> PlanClips(
                reading.sampling,
                partial(clip_geometry, detectors=specs),
                "sound" in needs,
                partial(plan_windows, detectors=specs),
            )
            | "DecodeClips" >> DecodeClips(make_pool)
        )
        said = [probed[ENDED], decoded.outcomes]
        by_unit = {"media": probed.probes, "clip": decoded[CLIPS], "audio_window": decoded[WINDOWS]}
        if "faces" in needs:
            tracked = decoded[CLIPS] | "TrackFaces" >> TrackFaces(reading.device)
            said.append(tracked.faces)
            by_unit |= {"clip": tracked.clips, "face_track": tracked.clips}
        for spec in specs:
            build = partial(build_detector, self.build, spec, weights.get(spec.name, NO_WEIGHTS))
            detect = Detect(spec, build, reading.device, reading.pictures)
            said.append(by_unit[spec.unit] | f"Detect {spec.name}" >> detect)
        together = tuple(said) | "Together" >> beam.Flatten()
        if reading.pictures:
            together = together | "KeepBestPictures" >> beam.ParDo(KeepBest())
        return together | "FuseMedia" >> FuseMedia(specs, self.calibration)

    def display_data(self):
        return shown_settings(self.detectors, self.reading, self.calibration)


def chosen_detectors(
    given: Sequence[str | DetectorSpec] | None, weights: Mapping[str, Weights] | None
) -> tuple[tuple[DetectorSpec, ...], Mapping[str, Weights]]:
    """The specs of detectors that are given by name or spec, and where their files are (`AssessMedia.weights`)."""
    specs = tuple(d for d in given or () if isinstance(d, DetectorSpec))
    names = None if given is None else [d for d in given if isinstance(d, str)]
    if weights is not None:
        return (*(registry.specs(names) if names != [] else ()), *specs), weights
    if names == []:
        return specs, {}
    chosen = choose(names)
    return (*chosen.specs, *specs), chosen.weights


def build_detector(make: Callable[[DetectorSpec, Weights], Detector], spec: DetectorSpec, weights: Weights) -> Detector:
    """A detector that is not loaded yet, with its files on this machine."""
    return make(spec, localise(weights))


def shown_settings(
    detectors: Sequence[str | DetectorSpec] | None, reading: Reading, calibration: Calibration
) -> dict[str, str | float]:
    """The settings of the step, for the pages of a runner."""
    names = ["all that are ready"] if detectors is None else [d if isinstance(d, str) else d.name for d in detectors]
    sampling = reading.sampling
    return {
        "detectors": ", ".join(names),
        "calibration": calibration.calibration_id,
        "every_seconds": sampling.every_seconds,
        "clips": "no limit" if sampling.clips is None else sampling.clips,
        "device": reading.device,
        "sandbox": reading.sandbox,
        "pictures": str(reading.pictures),
    }


def pool_of(reading: Reading) -> WorkerPool:
    """This process's decoder children, started once and kept from wave to wave."""
    return shared_pool(decoders_of(reading), reading.ahead_bytes, reading.limits, reading.sandbox)


def decoders_of(reading: Reading) -> int:
    """How many children decode at a time on this machine."""
    return reading.decoders or max(1, min(8, machine.usable_cores() - 1))
