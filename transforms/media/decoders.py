"""Decodes what is asked for of one file: clips by decord or PyAV, then windows of sound. Runs in the child."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import av.error
import numpy as np

from ..failures import MediaError, printable
from .decord_frames import DecordFrames
from .protocol import ClipRequest, DecodedClip, DecodedItem, DecodedWindow, DecodeRequest, ItemFailed, Limits
from .pyav_frames import Picked, PyavFrames
from .sound import SOUND_RATE, SoundReader, iter_windows

MEDIA_FAULTS = (MediaError, av.error.FFmpegError, ValueError, IndexError, AttributeError, RuntimeError)
"""What PyAV raises on broken files (AttributeError: a stream without a decoder)."""


def decode_items(request: DecodeRequest, limits: Limits) -> Iterator[DecodedItem]:
    """Takes a DecodeRequest, yields DecodedClip or ItemFailed for each clip in order, then DecodedWindow or ItemFailed
    for each window by start. What fails is an item; nothing is raised but our own faults. Holds one clip at a time."""
    if request.clips:
        yield from _decode_clips(request, limits)
    if request.windows:
        yield from _decode_windows(request, limits)


def _decode_clips(request: DecodeRequest, limits: Limits) -> Iterator[DecodedItem]:
    with _Frames(request, limits) as frames:
        sound = _ClipSound(request.path, limits) if request.clip_sound else None
        try:
            for clip in request.clips:
                needed = len(clip.times_seconds) * request.width * request.height * 3
                if needed > limits.item_bytes:
                    yield ItemFailed("too_large", f"a clip of {needed} bytes", clip_index=clip.clip_index)
                    continue
                try:
                    picked = frames.pick(clip)
                except MEDIA_FAULTS as error:
                    yield _failed(error, clip_index=clip.clip_index)
                    continue
                samples, note = sound.slice(clip) if sound is not None else (None, None)
                yield DecodedClip(
                    clip_index=clip.clip_index,
                    frames=picked.frames,
                    pts_seconds=picked.pts_seconds,
                    frames_decoded=picked.decoded,
                    sound=samples,
                    damage="; ".join(n for n in (picked.damage, note) if n) or None,
                    decoder=frames.used,
                )
                del picked
        finally:
            if sound is not None:
                sound.close()


def _decode_windows(request: DecodeRequest, limits: Limits) -> Iterator[DecodedItem]:
    try:
        reader = SoundReader(request.path, limits)
    except MEDIA_FAULTS as error:
        failed = _failed(error)
        yield ItemFailed(failed.error_class, failed.message)
        return
    with reader:
        for window, samples in iter_windows(reader, request.windows):
            if isinstance(samples, Exception):
                yield _failed(samples, window_index=window.window_index)
            else:
                yield DecodedWindow(window.window_index, samples, window.detector)


class _Frames:
    """decord as long as it goes well, else PyAV; each opened when first needed."""

    def __init__(self, request: DecodeRequest, limits: Limits):
        self._arguments = (request.path, request.width, request.height, limits)
        self._decord: DecordFrames | None = None
        self._pyav: PyavFrames | None = None
        self._try_decord = request.decoder == "decord"
        self.used = "pyav"
        """Which of the two decoded the last clip."""

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
            self._pyav = PyavFrames(*self._arguments)
        picked = self._pyav.pick(clip.times_seconds)
        if not len(picked.frames):
            raise MediaError("decode_failed", picked.damage or "no frame", "decode")
        return picked

    def __enter__(self) -> _Frames:
        return self

    def __exit__(self, *_: Any) -> None:
        for reader in (self._decord, self._pyav):
            if reader is not None:
                reader.close()


class _ClipSound:
    """Slices of sound beside the clips. A fault of the sound is a note; the frames are not lost with it."""

    def __init__(self, path: str, limits: Limits):
        self._reader: SoundReader | None = None
        self._note: str | None = None
        try:
            self._reader = SoundReader(path, limits)
        except MediaError as error:
            self._note = None if error.error_class == "no_audio" else f"sound: {error.error_class}"
        except MEDIA_FAULTS as error:
            self._note = f"sound: {type(error).__name__}"

    def slice(self, clip: ClipRequest) -> tuple[np.ndarray | None, str | None]:
        if self._reader is None:
            return None, self._note
        first = round(clip.start_seconds * SOUND_RATE)
        try:
            return self._reader.read(first, max(first, round(clip.end_seconds * SOUND_RATE))), None
        except MEDIA_FAULTS as error:
            return None, f"sound: {printable(str(error), 100)}"

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()


def _failed(error: Exception, clip_index: int | None = None, window_index: int | None = None) -> ItemFailed:
    if isinstance(error, MediaError):
        return ItemFailed(error.error_class, error.message, clip_index, window_index)
    return ItemFailed("decode_failed", printable(f"{type(error).__name__}: {error}"), clip_index, window_index)
