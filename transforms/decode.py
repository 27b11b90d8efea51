"""From a plan to pictures and sound, in sandboxed children, ahead of the detectors.

Takes DecodePlan, yields MediaOutcome; clips and windows come out at the outputs `clips` and `windows`. Every plan ends
in exactly one outcome, whatever its file does to the child.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import apache_beam as beam
import numpy as np

from ..models.base import SOUND_RATE
from ..models.batches import spread
from . import coders  # noqa: F401  (registers the coders of clips and windows)
from .failures import MediaError
from .media.children.pool import DecodeStream, WorkerPool
from .media.measures import MOST_PICTURES, energy_of, loudness_db, sharpness_of
from .media.notes import NOT_LOOKED
from .media.protocol import ClipRequest, DecodedClip, DecodedItem, DecodedWindow, DecodeRequest, WindowRequest
from .metrics import inc_counter
from .records import AudioWindow, Clip, ClipFailure, ClipSpec, DecodePlan, Decoder, Failure, MediaOutcome
from .staging.spool_files import refuse_partial, remove
from .work_ahead import InOrder, Place

CLIPS, WINDOWS = "clips", "windows"
MAX_DAMAGE_NOTES = 5
"""The most notes for one file: a damaged film would give the same note for every clip."""

_INT32 = 2**31 - 1
"""The largest number in the tables' columns. A container may claim more."""


def decode_request(plan: DecodePlan) -> DecodeRequest:
    probe = plan.probe
    clips = plan.clips if probe.video is None or probe.video.unreadable is None else ()
    return DecodeRequest(
        path=probe.path,
        decoder=probe.decoder if clips else None,
        width=plan.width,
        height=plan.height,
        rotation=probe.video.rotation if probe.video else 0,
        clips=tuple(ClipRequest(c.clip_index, c.start_seconds, c.end_seconds, c.times_seconds) for c in clips),
        clip_sound=plan.clip_sound,
        windows=tuple(WindowRequest(w.window_index, w.start_sample, w.samples, w.detector) for w in plan.windows),
        video_stream=probe.video.index if probe.video else None,
        sound=probe.audio.sources if probe.audio else (),
        clock=probe.clock,
    )


@dataclass
class DecodeTally:
    """The results of one plan so far; `outcome` concludes it."""

    plan: DecodePlan
    decoded: set[int] = field(default_factory=set)
    """Indexes of the clips that were decoded."""
    windows_decoded: int = 0
    frames_kept: int = 0
    frames_decoded: int = 0
    assessed_seconds: float = 0.0
    decoders: set[str] = field(default_factory=set)
    clip_failures: list[ClipFailure] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)
    sound_failure: Failure | None = None
    worker_failure: MediaError | None = None
    source_failure: MediaError | None = None
    """Set if the remote file could not be read as it was listed: then nothing that was read of it counts."""
    sharpness: list[float] = field(default_factory=list)
    """Sharpness of one picture in each of a few clips."""
    sound_energy: float = 0.0
    samples_heard: int = 0
    heard_samples: list[tuple[int, int]] = field(default_factory=list)
    """Ranges of the windows that were decoded: first sample, and the one after the last."""

    def __post_init__(self) -> None:
        video = self.plan.probe.video
        if video is not None and video.unreadable is not None:
            why = f"the video stream cannot be opened: {video.unreadable}"
            for spec in self.plan.clips:
                self._clip_failed(spec.clip_index, "decode_failed", why)

    def add(self, item: DecodedItem) -> Clip | AudioWindow | None:
        """The record for what was decoded; None if the item reports a failure or is empty."""
        probe = self.plan.probe
        if isinstance(item, DecodedClip):
            spec = self._spec(item.clip_index)
            self.frames_decoded += item.frames_decoded
            if not len(item.frames):
                self._clip_failed(item.clip_index, "no_frames", item.damage or "no frame could be decoded")
                return None
            self.decoded.add(item.clip_index)
            self.decoders.add(item.decoder)
            self.frames_kept += len(item.frames)
            share = len(item.frames) / len(spec.times_seconds)
            self.assessed_seconds += share * (spec.end_seconds - spec.start_seconds)
            if item.damage is not None and len(self.damage) < MAX_DAMAGE_NOTES:
                self.damage.append(f"{spec.start_seconds:.1f} s: {item.damage}")
            if self.plan.clip_sound and item.sound is None and self.sound_failure is None:
                self.sound_failure = Failure(
                    "sound", "sound_failed", item.damage or "the sound of the clip could not be read"
                )
            self._look_at(item.clip_index, item.frames)
            self._hear(item.sound)
            return Clip(probe.file, spec, item.frames, item.pts_seconds, item.sound)
        if isinstance(item, DecodedWindow):
            if not len(item.samples):
                return None
            self.windows_decoded += 1
            self._hear(item.samples)
            window = self.plan.windows[item.window_index]
            self.heard_samples.append((window.start_sample, window.start_sample + len(item.samples)))
            return AudioWindow(probe.file, window, item.samples)
        if item.clip_index is not None:
            self._clip_failed(item.clip_index, item.error_class, item.message)
        elif item.window_index is not None or self.sound_failure is None:
            self.sound_failure = Failure("sound", item.error_class, item.message)
        return None

    def _look_at(self, clip_index: int, frames: np.ndarray) -> None:
        if clip_index in spread(len(self.plan.clips), MOST_PICTURES):
            found = sharpness_of(frames[len(frames) // 2])
            self.sharpness += [] if found is None else [found]

    def _hear(self, sound: np.ndarray | None) -> None:
        """Adds to the loudness. Sound that several detectors hear counts several times, which changes little."""
        if sound is not None:
            self.sound_energy += energy_of(sound)
            self.samples_heard += len(sound)

    def _spec(self, clip_index: int) -> ClipSpec:
        """The spec of a clip. Clips are numbered from 0 in their order (`plan_clips`)."""
        return self.plan.clips[clip_index]

    def _clip_failed(self, clip_index: int, error_class: str, message: str) -> None:
        spec = self._spec(clip_index)
        self.clip_failures.append(ClipFailure(clip_index, spec.start_seconds, spec.end_seconds, error_class, message))

    def outcome(self) -> MediaOutcome:
        """`failed` if something was to be decoded and nothing could be, or if the remote file could not be read as it
        was listed; else `read` with its coverage."""
        probe = self.plan.probe
        if self.worker_failure is not None:
            answered = self.decoded.union(f.clip_index for f in self.clip_failures)
            for spec in self.plan.clips:
                if spec.clip_index not in answered:
                    self._clip_failed(spec.clip_index, self.worker_failure.error_class, self.worker_failure.message)
        wanted = bool(self.plan.clips or self.plan.windows)
        failed = (wanted and not (self.decoded or self.windows_decoded)) or self.source_failure is not None
        return MediaOutcome(
            probe.file,
            "failed" if failed else "read",
            failure=self._why() if failed else None,
            media_type=probe.media_type,
            container=probe.container,
            duration_seconds=probe.duration_seconds or None,
            decoder=self._decoder(),
            decoder_reason=self._decoder_reason(),
            has_video=probe.video is not None,
            has_audio=probe.audio is not None,
            clips_planned=len(self.plan.clips),
            clips_decoded=len(self.decoded),
            frames_kept=self.frames_kept,
            frames_decoded=self.frames_decoded,
            windows_decoded=self.windows_decoded,
            assessed_seconds=self._seconds_heard() if probe.video is None else self.assessed_seconds,
            clip_failures=tuple(self.clip_failures),
            sound_failure=self._sound_failure(),
            damage=tuple(self.damage),
            notes=self._notes(),
            width=min(probe.video.width, _INT32) if probe.video else None,
            height=min(probe.video.height, _INT32) if probe.video else None,
            frame_rate=(probe.video.frame_rate or None) if probe.video else None,
            sharpness=median(self.sharpness) if self.sharpness else None,
            loudness_db=loudness_db(self.sound_energy, self.samples_heard),
            sandbox=probe.sandbox,
        )

    def _seconds_heard(self) -> float:
        """For a file without pictures: how many seconds of it any detector listened to."""
        total = end = 0
        for first, stop in sorted(self.heard_samples):
            total += max(0, stop - max(first, end))
            end = max(end, stop)
        # Resamplers flush a few samples more than there were.
        return min(total / SOUND_RATE, self.plan.probe.duration_seconds or math.inf)

    def _notes(self) -> tuple[str, ...]:
        video = self.plan.probe.video
        unseen = self.plan.clips and not self.decoded and self.windows_decoded
        if not unseen or video is None or video.unreadable is not None:
            return self.plan.probe.notes
        why = f": {self.clip_failures[0].message}" if self.clip_failures else ""
        return (f"{NOT_LOOKED}the video, because none of it could be decoded{why}", *self.plan.probe.notes)

    def _decoder(self) -> Decoder | None:
        """The decoder that was used (PyAV if it had to finish what decord began); None if no frame was decoded."""
        if not self.decoders:
            return None
        return "decord" if self.decoders == {"decord"} else "pyav"

    def _decoder_reason(self) -> str | None:
        used, chosen = self._decoder(), self.plan.probe.decoder
        if used is None:
            return None
        return self.plan.probe.decoder_reason if used == chosen else f"{chosen} gave up on a clip"

    def _sound_failure(self) -> Failure | None:
        """What was wrong with the sound as a whole. None if it is the message of a lost worker, which says the same of
        everything."""
        lost, sound = self.worker_failure, self.sound_failure
        if sound is not None and lost is not None and sound.message == lost.message:
            return None
        return sound

    def _why(self) -> Failure:
        if self.source_failure is not None:
            return Failure("read", self.source_failure.error_class, self.source_failure.message)
        if self.worker_failure is not None:
            return Failure("decode", self.worker_failure.error_class, self.worker_failure.message)
        if self.clip_failures:
            return Failure("decode", self.clip_failures[0].error_class, self.clip_failures[0].message)
        return self.sound_failure or Failure("decode", "no_samples", "none of the sound could be decoded")


_WINDOW, _TIMESTAMP = beam.DoFn.WindowParam, beam.DoFn.TimestampParam


@dataclass
class _Work:
    tally: DecodeTally
    stream: DecodeStream | None


class _Decode(beam.DoFn):
    def __init__(self, make_pool: Callable[[], WorkerPool], ahead: int):
        self.make_pool, self.ahead = make_pool, ahead

    def start_bundle(self):
        self.teardown()  # a failed bundle left its work behind
        self.in_order: InOrder[_Work, Any] = InOrder(self.ahead, self._give)

    def process(self, plan: DecodePlan, window: Any = _WINDOW, timestamp: Any = _TIMESTAMP):
        request = decode_request(plan)
        stream = self.make_pool().decode(request) if request.clips or request.windows else None
        yield from self.in_order.begin(_Work(DecodeTally(plan), stream), Place(window, timestamp))

    def finish_bundle(self):
        yield from self.in_order.finish()

    def teardown(self):
        for work in self.in_order.pending if hasattr(self, "in_order") else ():
            if work.stream is not None:
                work.stream.close()
            _remove_staged(work.tally.plan)

    def _give(self, work: _Work, wait: bool) -> Generator[Any, None, bool]:
        if work.stream is not None:
            while wait or work.stream.ready():
                item = next(work.stream, None)
                if item is None:
                    break
                record = work.tally.add(item)
                if isinstance(record, Clip):
                    inc_counter("clips_decoded")
                    inc_counter("frames_kept", len(record.frames))
                    inc_counter(
                        "film_milliseconds", round(1000 * (record.spec.end_seconds - record.spec.start_seconds))
                    )
                    yield beam.pvalue.TaggedOutput(CLIPS, record)
                elif record is not None:
                    inc_counter("sound_milliseconds", round(1000 * len(record.samples) / SOUND_RATE))
                    yield beam.pvalue.TaggedOutput(WINDOWS, record)
                del item, record  # the frames must not outlive their consumers in this frame's locals
            else:
                return False
            work.tally.worker_failure = work.stream.worker_failure
            work.tally.source_failure = _source_failure(work.tally.plan)
        outcome = work.tally.outcome()
        _remove_staged(work.tally.plan)
        inc_counter("frames_decoded", outcome.frames_decoded)
        inc_counter("clips_failed", len(outcome.clip_failures))
        inc_counter("media_read" if outcome.status == "read" else "media_failed")
        yield outcome
        return True


def _source_failure(plan: DecodePlan) -> MediaError | None:
    """What was wrong with the remote file while it was read, if anything was. Raises WorldError."""
    try:
        refuse_partial(plan.probe.file, plan.probe.path)
    except MediaError as error:
        return error
    return None


def _remove_staged(plan: DecodePlan) -> None:
    if plan.probe.path_is_ours:
        remove(plan.probe.path)


@dataclass
class DecodeClips(beam.PTransform):
    """Decodes what is planned. Takes DecodePlan, yields MediaOutcome; Clip and AudioWindow at `clips` and `windows`."""

    make_pool: Callable[[], WorkerPool]
    ahead: int = 8
    """Files in flight. The pool limits how many bytes they run ahead."""

    def expand(self, pcoll):
        do = beam.ParDo(_Decode(self.make_pool, self.ahead))
        typed = do.with_output_types(MediaOutcome, clips=Clip, windows=AudioWindow)
        return pcoll | typed.with_outputs(CLIPS, WINDOWS, main="outcomes")
