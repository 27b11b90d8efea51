"""Probe: reads with PyAV what a container says about itself, before any frame is handed out.

Takes a path, returns `ContainerFacts` (containers/facts.py) as plain JSON. Runs in the sandboxed child; the parent
checks the answer. `clock/lengths.py` measures the length, `selection/streams.py` chooses the streams,
`decoder_choice.py` chooses the decoder.
"""

from __future__ import annotations

import math
import os
from functools import cached_property
from typing import Any

from ..failures import MediaError
from .appended_recording import unread_note
from .clock.lengths import Length, measure, read_clock
from .clock.media_clock import MediaClock
from .clock.packets import PacketScan
from .clock.sampled_clock import SampledClock
from .containers.facts import AudioFacts, ContainerFacts, StreamFacts, VideoFacts
from .containers.fed_file import is_fed, open_file
from .containers.iso_boxes import MAX_DEPTH, IsoBoxes, begins_as_iso, read_boxes
from .containers.opening import MAX_ATTACHMENTS, Refusals, check_pixels, clock_zero, open_container
from .decoder_choice import choose_decoder
from .notes import CLOCK, NOT_LOOKED
from .protocol import Limits
from .selection.first_picture import find_picture
from .selection.listening import Heard, listen_to
from .selection.streams import Selection, merged, select_sound, select_video, why_unreadable
from .stream_facts import audio_facts, stream_facts, tags_of, video_facts

MAX_KEY_FRAMES = 100_000
MAX_JOINTS = 1_000


def probe(path: str, limits: Limits) -> dict[str, Any]:
    """Returns ContainerFacts as plain JSON. Declared sizes are checked before we open any decoder.

    Raises MediaError: `unreadable`, `unsupported_format`, `unsupported_codec`, `no_streams`, `too_large`, `encrypted`.
    """
    try:
        size, head = os.path.getsize(path), _head(path)
    except OSError as error:
        raise MediaError("unreadable", f"cannot be opened: {error.strerror}") from error
    # FFmpeg opens decoders itself to fill in what is missing, so check here what can be known before that.
    iso = read_boxes(path) if begins_as_iso(head) else None
    if iso is not None:
        _check_boxes(iso, limits)
    with Refusals() as refusals:
        try:
            container = open_container(path, limits)
        except MediaError as error:
            if error.error_class == "unreadable" and iso is not None and "moov" not in iso.top_level:
                why = "it was cut off, or is still being written"
                raise MediaError("unreadable", f"an mp4 or mov without its index (moov): {why}") from error
            raise
    with container:
        _check_streams(container, limits)
        refusals.check(container, limits)
        for stream in container.streams:
            context = stream.codec_context if stream.type == "video" else None
            if context is not None:
                check_pixels(context.width, context.height, limits)
        if not container.format.name.startswith("mov,"):
            iso = None
        zero = clock_zero(container)
        streams = [stream_facts(s, iso, zero) for s in container.streams]
        look = _Look(path, size, limits, container, streams, iso)
        chosen, length = look.chosen, look.length
        if not chosen.sounds and (chosen.video is None or chosen.hopeless):
            raise _nothing_usable(streams)
        longest = limits.max_duration_seconds
        if length.seconds > longest:
            raise MediaError("too_large", f"{length.seconds:.0f} s long: at most {longest:.0f} s are allowed")
        picture = look.picture()
        sound = look.sound()
        scan = length.scan
        if chosen.unreadable is not None:
            decoder: str | None = "pyav"
            reason = f"the video stream cannot be opened: {chosen.unreadable}"
        else:
            decoder, reason = choose_decoder(container, chosen.video, streams, length, iso, head)
        animated = container.format.name in ("gif", "apng")
        ends = [stream["start_seconds"] + stream["duration_seconds"] for stream in (picture, sound) if stream]
        facts: ContainerFacts = {
            "format": container.format.name,
            "media_type": "gif" if animated else "video" if chosen.video is not None else "audio",
            "still_image": bool(
                (animated and scan.complete and scan.packets == 1) or (iso is not None and iso.still_brands)
            ),
            "size_bytes": size,
            "duration_seconds": min(longest, max(round(length.seconds, 6), *ends)),
            "declared_seconds": round(length.declared, 6),
            "clock": length.kind,
            "clock_jumps": len(length.jumps),
            "jump_seconds": [jump.by_seconds for jump in length.jumps[:MAX_JOINTS]],
            "joint_seconds": [jump.at_seconds for jump in length.jumps[:MAX_JOINTS] if jump.at_seconds <= longest],
            "notes": [
                *merged(chosen.notes),
                *look.unseen_note(),
                *_clock_notes(length),
                *unread_note(path, size, scan, iso, container),
            ],
            "start_seconds": float(zero),
            "bit_rate": container.bit_rate or None,
            "tags": tags_of(container.metadata),
            "streams": streams,
            "boxes": iso.top_level if iso is not None else [],
            "edit_lists": [[list(edit) for edit in t.edits] for t in iso.tracks] if iso is not None else [],
            "fragmented": iso is not None and iso.fragmented,
            "truncated": (iso is not None and iso.truncated) or _cut_short(chosen.video, scan),
            "encoder_sei": scan.encoder_notes,
            "key_frame_seconds": look.key_seconds(),
            "key_frame_index": length.index_kind,
            "primary_video": picture,
            "primary_audio": sound,
            "decoder": decoder,
            "decoder_reason": reason,
        }
        return dict(facts)


class _Look:
    """One file under examination: first its length, then which of its streams count."""

    def __init__(
        self,
        path: str,
        size: int,
        limits: Limits,
        container: Any,
        streams: list[StreamFacts],
        iso: IsoBoxes | None,
    ):
        self.path, self.limits, self.container, self.streams = path, limits, container, streams
        first = select_video(container, streams, {}, {}).video
        main = first if first is not None else container.streams.best("audio")
        fragmented = iso is not None and iso.fragmented
        self.first_seconds = -math.inf
        """When the first decodable picture comes, on the media clock; -inf if unknown."""
        self.length: Length = measure(container, first, main, size, limits, fragmented)
        if first is not None and (
            why_unreadable(streams[first.index]) is not None or self._begins_between(first.index)
        ):
            self._find_picture(first.index)
        clocks = self.length.clock.streams if self.length.clock is not None else {}
        packets = {index: clock.shown for index, clock in clocks.items()}
        if self.length.scan.complete:
            packets = {s["index"]: packets.get(s["index"], 0) for s in streams}
        else:
            packets |= {s["index"]: s["frames"] for s in streams if s["frames"] and s["index"] not in packets}
        seconds = {index: clock.end - clock.start for index, clock in clocks.items()}
        seconds |= {s["index"]: s["duration_seconds"] or 0.0 for s in streams if s["index"] not in seconds}
        self.packets = packets
        self.chosen: Selection = select_video(container, streams, packets, seconds)
        select_sound(container, streams, packets, self._listen, self.chosen)

    @cached_property
    def _clock(self) -> MediaClock | SampledClock | None:
        """The clock for readers; None if the file's time stamps are right."""
        if self.length.kind == "file":
            return None
        return self.length.clock or read_clock(self.path, self.limits, self.length.kind)

    def _begins_between(self, index: int) -> bool:
        """Whether the first packet is not a key frame. The pictures up to the first key frame may not be decodable."""
        clock = self.length.clock.streams.get(index) if self.length.clock is not None else None
        return clock is not None and self.length.scan.complete and (not len(clock.keys) or bool(clock.keys[0] > 0))

    def _find_picture(self, index: int) -> None:
        """Fills in the size of a stream that begins between key frames: FFmpeg gives up, but a later frame may tell."""
        stream = self.streams[index]
        if stream["codec"] is None or stream["encrypted"]:
            return
        if (found := find_picture(self.path, self.limits, index, self._clock)) is not None:
            if not stream["width"] or not stream["height"]:
                stream["width"], stream["height"] = found.width, found.height
                stream["pixel_format"] = found.pixel_format
            self.first_seconds = found.seconds

    def _listen(self, index: int) -> Heard:
        start, seconds = self._span(index)
        return listen_to(self.path, self.limits, index, start, seconds, self._clock, is_fed())

    def _span(self, index: int) -> tuple[float, float]:
        """(start, length) of a stream in seconds on the media clock."""
        clocks = self.length.clock.streams if self.length.clock is not None else {}
        if (clock := clocks.get(index)) is not None:
            return clock.start, max(0.0, clock.end - clock.start)
        declared, longest = self.streams[index], self.limits.max_duration_seconds
        start = declared["start_seconds"] or 0.0
        if abs(start) > max(self.length.seconds, 60.0):
            start = 0.0
        length = declared["duration_seconds"] or 0.0
        if self.length.scan.complete:
            return start, 0.0  # the stream has no packets
        if length <= 0 or start + length > self.length.seconds + 60.0 or self.length.kind == "placed":
            length = max(0.0, self.length.seconds - max(0.0, start))
        return start, min(length, longest)

    def picture(self) -> VideoFacts | None:
        video = self.chosen.video
        if video is None:
            return None
        clocks = self.length.clock.streams if self.length.clock is not None else {}
        clock, declared = clocks.get(video.index), self.streams[video.index]
        start, length = self._span(video.index)
        # Nothing before the first decodable picture can be seen.
        shown, unseen = self.packets.get(video.index, 0), max(0.0, self.first_seconds - start)
        if length > 0:
            shown = math.ceil(shown * max(0.0, length - unseen) / length)
        start, length = start + unseen, max(0.0, length - unseen)
        return video_facts(video, declared, clock, shown, start, length, self.chosen.unreadable)

    def unseen_note(self) -> list[str]:
        if self.chosen.video is None or self.chosen.unreadable is not None:
            return []
        unseen = self.first_seconds - max(0.0, self._span(self.chosen.video.index)[0])
        note = f"{NOT_LOOKED}the first {unseen:.1f} s, because the picture that they depend on is missing"
        return [note] if unseen > 1 else []

    def sound(self) -> AudioFacts | None:
        sounds = self.chosen.sounds
        if not sounds:
            return None
        spans = [self._span(source.stream) for source in sounds]
        start = min(start for start, _ in spans)
        end = max(start + length for start, length in spans)
        return audio_facts(self.streams[sounds[0].stream], sounds, start, end - start)

    def key_seconds(self) -> list[float]:
        """Times of the key frames, ascending, on the media clock."""
        video, longest = self.chosen.video, self.limits.max_duration_seconds
        if video is None:
            return []
        clock = self.length.clock.streams.get(video.index) if self.length.clock is not None else None
        if clock is not None and self.length.kind != "file":
            seconds = sorted(float(second) for second in clock.key_seconds)
        else:
            base, zero = video.time_base, clock_zero(self.container)
            seconds = [float(pts * base - zero) for pts in self.length.scan.key_pts]
        return [round(second, 6) for second in seconds[:MAX_KEY_FRAMES] if abs(second) <= longest]


def _check_boxes(iso: IsoBoxes, limits: Limits) -> None:
    if len(iso.tracks) > limits.max_streams:
        raise MediaError("too_large", f"{len(iso.tracks)} streams: at most {limits.max_streams} are allowed")
    if iso.depth > MAX_DEPTH:
        raise MediaError(
            "too_large", f"boxes nested {iso.depth} deep or deeper: at most {MAX_DEPTH} levels are allowed"
        )
    if iso.samples > limits.max_samples:
        raise MediaError("too_large", f"{iso.samples} samples: at most {limits.max_samples} are allowed")
    for track in iso.tracks:
        check_pixels(track.width, track.height, limits)


def _check_streams(container: Any, limits: Limits) -> None:
    """Raises MediaError for too many streams. Attachments such as fonts are counted apart: nobody decodes them."""
    attached = sum(stream.type == "attachment" for stream in container.streams)
    count = len(container.streams) - attached
    if count > limits.max_streams or attached > MAX_ATTACHMENTS:
        # FFmpeg stops counting soon after the limit.
        many = f"more than {limits.max_streams} streams"
        exact = f"{count} streams" if len(container.streams) <= limits.max_streams + MAX_ATTACHMENTS else many
        beside = f" and {attached} attachments" if attached else ""
        raise MediaError("too_large", f"{exact}{beside}: at most {limits.max_streams} streams are allowed")


def _clock_notes(length: Length) -> list[str]:
    if not length.jumps:
        return []
    first = length.jumps[0]
    by = f"{abs(first.by_seconds):.1f} s {'ahead' if first.by_seconds > 0 else 'back'}"
    times = "once" if len(length.jumps) == 1 else f"{len(length.jumps)} times"
    where = "at" if len(length.jumps) == 1 else "first at"
    return [f"{CLOCK}{times}, {where} {first.at_seconds:.1f} s by {by}: times here are counted as the file is played"]


def _nothing_usable(streams: list[StreamFacts]) -> MediaError:
    real = [s for s in streams if s["kind"] in ("video", "audio") and not s["attached_picture"]]
    if any(s["encrypted"] for s in real):
        return MediaError("encrypted", "its streams are encrypted")
    if real:
        return MediaError("unsupported_codec", "no stream has a codec that can be decoded")
    return MediaError("no_streams", "it has neither video nor sound")


def _cut_short(video: Any | None, scan: PacketScan) -> bool:
    return video is not None and (scan.broken or (scan.complete and scan.packets < (video.frames or 0)))


def _head(path: str) -> bytes:
    with open_file(path) as file:
        return file.read(16)
