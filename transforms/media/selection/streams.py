"""Chooses which streams of a file are looked at and listened to, and says in plain words which are not.

FFmpeg's own choice goes by size and flags. Here, a single picture beside sound is cover art, whatever its flags say. A
video stream that cannot be opened is still a video stream. Mono tracks of one recording are heard together. Among
several sound tracks, the one in which somebody speaks is chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...failures import printable
from ..containers.facts import StreamFacts
from ..notes import NOT_HEARD, NOT_LOOKED
from ..protocol import SoundSource
from .listening import Heard

SECOND_TRACK, SILENT_TRACK = "a second sound track", "a sound track that seems silent"
COVER_SECONDS = 1.0
"""A single picture beside sound of at least this length is cover art."""
MOST_LISTENED = 8
"""Most tracks that are tried before one is chosen. Each costs as much as opening the file."""
MOST_TOGETHER = 16
"""Most mono tracks that are heard together."""


@dataclass(slots=True)
class Selection:
    video: Any | None = None
    """The video stream; None if there is none or only cover art."""
    unreadable: str | None = None
    """Why its pictures cannot be opened."""
    sounds: tuple[SoundSource, ...] = ()
    notes: list[str] = field(default_factory=list)
    """What is left out, one sentence each."""

    hopeless: bool = False
    """No frame of the video can ever be decoded here: it is encrypted, or there is no decoder for it."""


def select_video(
    container: Any, streams: Sequence[StreamFacts], packets: Mapping[int, int], seconds: Mapping[int, float]
) -> Selection:
    """Chooses the video stream.

    packets: by stream, how many are shown, if known.
    seconds: by stream, how long it lasts, if known.
    """
    chosen = Selection()
    pictures = [s for s in streams if s["kind"] == "video"]
    longest_sound = max((seconds.get(s["index"], 0.0) for s in streams if s["kind"] == "audio"), default=0.0)
    real = []
    for stream in pictures:
        single = packets.get(stream["index"]) == 1 and longest_sound >= COVER_SECONDS
        if stream["attached_picture"]:
            chosen.notes.append(f"{NOT_LOOKED}cover art ({_name(stream)})")
        elif single:
            chosen.notes.append(f"{NOT_LOOKED}a single picture beside the sound, taken as cover art ({_name(stream)})")
        else:
            real.append(stream)
    if not real:
        return chosen
    readable = [s for s in real if why_unreadable(s) is None]
    best = container.streams.best("video")
    candidates = readable or real
    # FFmpeg goes by bit rates, and may prefer a thumbnail to the film.
    first = max(candidates, key=lambda s: (_pixels(s), best is not None and s["index"] == best.index, -s["index"]))
    chosen.video = container.streams[first["index"]]
    chosen.unreadable = why_unreadable(first)
    chosen.hopeless = first["encrypted"] or first["codec"] is None
    if chosen.unreadable is not None:
        chosen.notes.append(f"{NOT_LOOKED}the video stream ({_name(first)}: {chosen.unreadable})")
    for stream in real:
        if stream is not first:
            why = why_unreadable(stream)
            what = "a second video stream" if why is None else "a video stream that cannot be opened"
            chosen.notes.append(f"{NOT_LOOKED}{what} ({_name(stream)}{'' if why is None else ': ' + why})")
    return chosen


def _pixels(stream: StreamFacts) -> int:
    return (stream["width"] or 0) * (stream["height"] or 0)


def why_unreadable(stream: StreamFacts) -> str | None:
    """Why the pictures of a stream cannot be opened; None if they can."""
    if stream["encrypted"]:
        return "it is encrypted"
    if stream["codec"] is None:
        return f"no decoder for the codec {stream['codec_tag'] or 'without a name'}"
    if not stream["width"] or not stream["height"]:
        return "no picture in it can be decoded without an earlier one"
    return None


def usable_sounds(streams: Sequence[StreamFacts], packets: Mapping[int, int]) -> list[StreamFacts]:
    sounds = (s for s in streams if s["kind"] == "audio" and packets.get(s["index"], 1))
    return [s for s in sounds if s["codec"] and s["sample_rate"] and not s["encrypted"]]


def select_sound(
    container: Any,
    streams: Sequence[StreamFacts],
    packets: Mapping[int, int],
    listen: Callable[[int], Heard],
    chosen: Selection,
) -> None:
    """Chooses what is listened to and adds it to `chosen`. `listen` tells what a few moments of a stream sound like."""
    usable = usable_sounds(streams, packets)
    for stream in streams:
        if stream["kind"] == "audio" and stream not in usable and packets.get(stream["index"], 1):
            why = "encrypted" if stream["encrypted"] else "no decoder" if not stream["codec"] else "cannot be opened"
            chosen.notes.append(f"{NOT_HEARD}a sound track ({_name(stream)}: {why})")
    if not usable:
        return
    parties = _parties(usable)
    listened: dict[int, Heard] = {}
    if len(usable) > 1 or (usable[0]["channels"] or 0) > 2:
        listened = {stream["index"]: listen(stream["index"]) for stream in usable[:MOST_LISTENED]}
    best = container.streams.best("audio")
    own = next((p for p in parties if best is not None and any(s["index"] == best.index for s in p)), parties[0])
    party = own
    if len(parties) > 1:
        # FFmpeg's choice stands, unless it is silent, or somebody speaks in another track and nobody in this one.
        ranks = [
            max((listened[s["index"]].rank for s in p if s["index"] in listened), default=(0, 0.0)) for p in parties
        ]
        top = max(range(len(parties)), key=lambda n: (ranks[n][0], parties[n] is own, ranks[n][1]))
        party = parties[top]
    # A track that was silent where it was tried may have sound elsewhere, so all tracks of a recording are heard.
    together = party[:MOST_TOGETHER]
    quiet = {index for index, one in listened.items() if not one.audible}
    chosen.sounds = tuple(
        SoundSource(
            s["index"],
            listened[s["index"]].in_use if s["index"] in listened else 0,
            s["index"] not in quiet or all(t["index"] in quiet for t in together),
        )
        for s in together
    )
    for stream in usable:
        if stream not in together:
            kind = SILENT_TRACK if stream["index"] in quiet else SECOND_TRACK
            chosen.notes.append(f"{NOT_HEARD}{kind} ({_name(stream)})")


def _parties(usable: Sequence[StreamFacts]) -> list[list[StreamFacts]]:
    """Groups tracks that belong together: the mono tracks of a recording are its microphones or its loudspeakers.
    Tracks in different languages are separate versions."""
    mono = [s for s in usable if s["channels"] == 1]
    languages = {s["language"] or "und" for s in mono} - {"und", "mis", "zxx"}
    parties = [[s] for s in usable if s not in mono or len(languages) > 1]
    if mono and len(languages) <= 1:
        parties.insert(0, mono)
    return sorted(parties, key=lambda party: party[0]["index"])


def merged(notes: Sequence[str]) -> list[str]:
    """Puts notes of one kind into one sentence, so that eight tracks do not take all the room for reasons."""
    by_kind: dict[str, list[str]] = {}
    for note in notes:
        kind, _, name = note.partition(" (")
        by_kind.setdefault(kind, []).append(name.removesuffix(")"))
    out = []
    for kind, names in by_kind.items():
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        shown = "; ".join(names[:8]) + more
        out.append(f"{_plural(kind) if len(names) > 1 else kind} ({shown})" if any(names) else kind)
    return out


def _plural(kind: str) -> str:
    for one, many in (
        ("a second video stream", "other video streams"),
        ("a video stream that cannot be opened", "video streams that cannot be opened"),
        (SECOND_TRACK, "other sound tracks"),
        (SILENT_TRACK, "sound tracks that seem silent"),
        ("a sound track", "sound tracks"),
    ):
        if kind.endswith(one):
            return kind.removesuffix(one) + many
    return kind


def _name(stream: StreamFacts) -> str:
    """For example `stream 2, fra, "Director's comments"`."""
    parts = [f"stream {stream['index']}"]
    if stream["language"] and stream["language"] != "und":
        parts.append(stream["language"])
    if title := stream["tags"].get("title"):
        parts.append(f'"{printable(title, 40)}"')
    elif stream["kind"] == "video" and stream["width"]:
        parts.append(f"{stream['width']}x{stream['height']}")
    return ", ".join(parts)
