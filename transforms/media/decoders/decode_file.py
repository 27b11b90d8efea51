"""Decodes what is wanted from one file: clips by decord or PyAV, then windows of sound. Runs in the child."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import av.error
import numpy as np

from ...failures import MediaError
from ..clock.lengths import read_clock
from ..clock.media_clock import MediaClock
from ..clock.sampled_clock import SampledClock
from ..containers.opening import words_of
from ..protocol import (
    ClipRequest,
    DecodedClip,
    DecodedItem,
    DecodedWindow,
    DecodeRequest,
    ItemFailed,
    Limits,
    WindowRequest,
)
from .decord_frames import DecordFrames
from .pyav_frames import Picked, PyavFrames
from .sound import SOUND_RATE, SoundMix, iter_windows

MEDIA_FAULTS = (MediaError, av.error.FFmpegError, ValueError, IndexError, AttributeError, RuntimeError)
"""What PyAV raises on broken files (AttributeError: a stream without a decoder)."""


def decode_items(request: DecodeRequest, limits: Limits) -> Iterator[DecodedItem]:
    """Takes a DecodeRequest, yields DecodedClip or ItemFailed for each clip in order, then DecodedWindow or ItemFailed
    for each window by start. A failure is an item; only our own bugs are raised. Holds one clip at a time."""
    with ItemDecoder(request, limits) as decoder:
        yield from decoder.items(request.clips, request.windows)


class ItemDecoder:
    """One file whose items are asked for slice by slice. What was opened stays open between slices, because some
    containers can only be read from their beginning. The items of `request` itself are ignored."""

    def __init__(self, request: DecodeRequest, limits: Limits):
        self._request, self._limits = request, limits
        self._frames: _Frames | None = None
        self._sound: _ClipSound | None = None
        self._reader: SoundMix | None = None

    @cached_property
    def _clock(self) -> MediaClock | SampledClock | None:
        return read_clock(self._request.path, self._limits, self._request.clock)

    def items(self, clips: Sequence[ClipRequest], windows: Sequence[WindowRequest]) -> Iterator[DecodedItem]:
        """As `decode_items`. What the clips needed is closed before the windows begin."""
        for clip in clips:
            yield self._decode_clip(clip)
        if windows:
            self._close_clips()
            yield from self._decode_windows(windows)

    def _decode_clip(self, clip: ClipRequest) -> DecodedItem:
        request, limits = self._request, self._limits
        if self._frames is None:
            self._frames = _Frames(request, limits, self._clock)
            self._sound = _ClipSound(request, limits, self._clock) if request.clip_sound else None
        needed = len(clip.times_seconds) * request.width * request.height * 3
        if needed > limits.item_bytes:
            return ItemFailed("too_large", f"a clip of {needed} bytes", clip_index=clip.clip_index)
        try:
            picked = self._frames.pick(clip)
        except MEDIA_FAULTS as error:
            return _failed(error, clip_index=clip.clip_index)
        samples, note = self._sound.slice(clip) if self._sound is not None else (None, None)
        return DecodedClip(
            clip_index=clip.clip_index,
            frames=picked.frames,
            pts_seconds=picked.pts_seconds,
            frames_decoded=picked.decoded,
            sound=samples,
            damage="; ".join(n for n in (picked.damage, note) if n) or None,
            decoder=self._frames.used,
        )

    def _decode_windows(self, windows: Sequence[WindowRequest]) -> Iterator[DecodedItem]:
        if self._reader is None:
            try:
                self._reader = SoundMix(self._request.path, self._limits, self._request.sound, self._clock)
            except MEDIA_FAULTS as error:
                failed = _failed(error)
                yield ItemFailed(failed.error_class, failed.message)
                return
        for window, samples in iter_windows(self._reader, windows):
            if isinstance(samples, Exception):
                yield _failed(samples, window_index=window.window_index)
            else:
                yield DecodedWindow(window.window_index, samples, window.detector)

    def _close_clips(self) -> None:
        for opened in (self._frames, self._sound):
            if opened is not None:
                opened.close()
        self._frames = self._sound = None

    def __enter__(self) -> ItemDecoder:
        return self

    def __exit__(self, *_: Any) -> None:
        self._close_clips()
        if self._reader is not None:
            self._reader.close()
            self._reader = None


class _Frames:
    """decord as long as it works, then PyAV. Each is opened when first needed."""

    def __init__(self, request: DecodeRequest, limits: Limits, clock: MediaClock | SampledClock | None):
        self._arguments = (request.path, request.width, request.height, limits)
        self._stream, self._clock = request.video_stream, clock
        self._decord: DecordFrames | None = None
        self._pyav: PyavFrames | None = None
        self._try_decord = request.decoder == "decord"
        self.used = "pyav"
        """The decoder of the last clip."""

    def pick(self, clip: ClipRequest) -> Picked:
        if self._try_decord:
            try:
                if self._decord is None:
                    self._decord = DecordFrames(*self._arguments)
                picked = self._decord.pick(clip.times_seconds)
                self.used = "decord"
                return picked
            except Exception:  # decord's errors have no common base; PyAV reads the clip, or says what is wrong with it
                self._try_decord = False
                if self._decord is not None:
                    self._decord.close()
                    self._decord = None
        self.used = "pyav"
        if self._pyav is None:
            self._pyav = PyavFrames(*self._arguments, self._stream, self._clock)
        picked = self._pyav.pick(clip.times_seconds)
        if not len(picked.frames):
            raise MediaError("decode_failed", picked.damage or "no frame", "decode")
        return picked

    def close(self) -> None:
        for reader in (self._decord, self._pyav):
            if reader is not None:
                reader.close()


class _ClipSound:
    """Slices of sound that go with the clips. A fault in the sound becomes a note; the frames are not lost with it."""

    def __init__(self, request: DecodeRequest, limits: Limits, clock: MediaClock | SampledClock | None):
        self._reader: SoundMix | None = None
        self._note: str | None = None
        try:
            self._reader = SoundMix(request.path, limits, request.sound, clock)
        except MediaError as error:
            self._note = None if error.error_class == "no_audio" else f"sound: {error.error_class}"
        except MEDIA_FAULTS as error:
            self._note = f"sound: {words_of(error)[:100]}"

    def slice(self, clip: ClipRequest) -> tuple[np.ndarray | None, str | None]:
        if self._reader is None:
            return None, self._note
        first = round(clip.start_seconds * SOUND_RATE)
        try:
            return self._reader.read(first, max(first, round(clip.end_seconds * SOUND_RATE))), None
        except MEDIA_FAULTS as error:
            return None, f"sound: {words_of(error)[:100]}"

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()


def _failed(error: Exception, clip_index: int | None = None, window_index: int | None = None) -> ItemFailed:
    if isinstance(error, MediaError):
        return ItemFailed(error.error_class, error.message, clip_index, window_index)
    return ItemFailed("decode_failed", words_of(error), clip_index, window_index)
