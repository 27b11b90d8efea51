"""Films with misleading time stamps, in every container that we write; the true length of each is known.

Every frame shows its number, and every second of sound has its own pitch (tests/numbered.py), so what is read at a
moment can be compared with what is there. Correct files from a muxer are falsified here: by stream copies with other
time stamps (`far`), by joining (`joined`), and by overwriting some of their bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.numbered import H264, LOWEST_HZ, STEP_HZ, ffmpeg, make_numbered

FPS = 25
X264 = (*H264, "-g", "25", "-bf", "0")
MPEG2 = ("-c:v", "mpeg2video", "-g", "12", "-bf", "2", "-q:v", "3")
AVC = (*X264, "-c:a", "aac")
CODECS: dict[str, tuple[str, ...]] = {
    ".mp4": AVC,
    ".mov": AVC,
    ".3gp": AVC,
    ".mkv": AVC,
    ".flv": AVC,
    ".ts": AVC,
    ".m2ts": (*MPEG2, "-c:a", "ac3"),
    ".vob": (*MPEG2, "-c:a", "ac3", "-f", "vob"),
    ".mpg": (*MPEG2, "-c:a", "mp2"),
    ".webm": ("-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8", "-g", "25", "-c:a", "libopus"),
    ".avi": ("-c:v", "mpeg4", "-q:v", "3", "-g", "25", "-c:a", "mp3"),
    ".wmv": ("-c:v", "wmv2", "-b:v", "2M", "-g", "25", "-c:a", "wmav2"),
    ".ogv": ("-c:v", "libtheora", "-q:v", "7", "-g", "25", "-c:a", "libvorbis"),
    ".mxf": ("-c:v", "mpeg2video", "-q:v", "3", "-g", "12", "-c:a", "pcm_s16le"),
}
Lie = Callable[[bytearray], None]
"""Writes over the header of a file."""
FRAGMENTS = ("-movflags", "empty_moov+frag_keyframe+default_base_moof")


@dataclass(frozen=True)
class Film:
    path: Path
    seconds: float
    """How long it is in truth."""
    parts: tuple[tuple[float, int, int], ...]
    """(when it begins in truth, number of its first frame, frames); from part to part the clock need not go on."""
    rate: float = FPS
    sound: bool = True
    steady: bool = False
    """Its time stamps are sound: only the header lies, or nothing does."""


@cache
def part(folder: Path, suffix: str, first: int, frames: int, options: tuple[str, ...] = (), sound: bool = True) -> Path:
    """A correct film of the frames `first`, `first` + 1, …; made once per folder."""
    name = f"part-{first}-{frames}-{abs(hash((options, sound)))}{suffix}"
    codecs = CODECS[suffix] if sound else CODECS[suffix][: CODECS[suffix].index("-c:a")]
    form = ("-f", "vob") if suffix == ".vob" and not sound else ()
    return make_numbered(folder / name, frames, FPS, *codecs, *form, *options, first=first, sound=sound)


def whole(folder: Path, suffix: str, options: tuple[str, ...] = ()) -> Film:
    """12 s of correct film."""
    return Film(part(folder, suffix, 0, 300, options), 12.0, ((0.0, 0, 300),), steady=True)


def joined(folder: Path, suffix: str, *lengths: int, options: tuple[tuple[str, ...], ...] = ()) -> Film:
    """Parts of these many frames one after another, as `cat` joins them."""
    data, parts, first = b"", [], 0
    for n, frames in enumerate(lengths):
        data += part(folder, suffix, first, frames, options[n] if options else ()).read_bytes()
        parts.append((first / FPS, first, frames))
        first += frames
    path = folder / f"joined-{abs(hash((lengths, options)))}{suffix}"
    path.write_bytes(data)
    return Film(path, first / FPS, tuple(parts))


def far(
    folder: Path, suffix: str, which: str, seconds: float, dts: bool = True, name: str = "far", sound: bool = True
) -> Film:
    """The time stamps of the video's frames `which` (a setts expression in which N is the frame) are `seconds` off."""
    source = part(folder, suffix, 0, 300, sound=sound)
    off = f"if({which}\\,{seconds}/TB\\,0)"
    path = folder / f"{name}-{abs(hash((which, seconds, dts, sound)))}{suffix}"
    moved = f"setts=pts=PTS+{off}:dts=DTS+{off if dts else '0'}"
    form = ("-f", "vob") if suffix == ".vob" else FRAGMENTS if name == "fragments" else ()
    ffmpeg("-i", source, "-map", "0", "-c", "copy", "-bsf:v", moved, *form, path)
    return Film(path, 12.0, ((0.0, 0, 300),), sound=sound)


def restamped(folder: Path, suffix: str, move: Callable[[float], float]) -> Film:
    """An MPEG stream with new time stamps in its video: `move` takes the stamp of a PES packet, in seconds, and returns
    another."""
    data = bytearray(part(folder, suffix, 0, 300).read_bytes())
    for at in _pes_headers(data, suffix):
        if data[at + 3] & 0xF0 != 0xE0 or not data[at + 7] & 0x80:
            continue
        for where in (at + 9, at + 14)[: 1 + (data[at + 7] >> 6 & 1)]:
            stamp = _read_stamp(data, where)
            _write_stamp(data, where, round(move(stamp / 90_000) * 90_000) % (1 << 33))
    path = folder / f"restamped-{abs(hash(move))}{suffix}"
    path.write_bytes(data)
    return Film(path, 12.0, ((0.0, 0, 300),))


def _pes_headers(data: bytearray, suffix: str) -> list[int]:
    if suffix in (".vob", ".mpg"):
        found, at = [], data.find(b"\x00\x00\x01")
        while at >= 0:
            if data[at + 3] & 0xF0 == 0xE0 and data[at + 6] & 0xC0 == 0x80:
                found.append(at)
            at = data.find(b"\x00\x00\x01", at + 3)
        return found
    size, skip = (192, 4) if suffix == ".m2ts" else (188, 0)
    found = []
    for at in range(skip, len(data), size):
        if data[at + 1] & 0x40:
            payload = at + 4 + (1 + data[at + 4] if data[at + 3] & 0x20 else 0)
            if data[payload : payload + 3] == b"\x00\x00\x01":
                found.append(payload)
    return found


def _read_stamp(data: bytearray, at: int) -> int:
    a, b, c, d, e = data[at : at + 5]
    return (a >> 1 & 7) << 30 | b << 22 | (c >> 1) << 15 | d << 7 | e >> 1


def _write_stamp(data: bytearray, at: int, stamp: int) -> None:
    data[at] = data[at] & 0xF1 | (stamp >> 30 & 7) << 1
    data[at + 1] = stamp >> 22 & 0xFF
    data[at + 2] = data[at + 2] & 1 | (stamp >> 15 & 0x7F) << 1
    data[at + 3] = stamp >> 7 & 0xFF
    data[at + 4] = data[at + 4] & 1 | (stamp & 0x7F) << 1


def lying(
    folder: Path, suffix: str, name: str, lie: Callable[[bytearray], None], options: tuple[str, ...] = ()
) -> Film:
    """A correct film whose header is overwritten by `lie`."""
    source = whole(folder, suffix, options)
    data = bytearray(source.path.read_bytes())
    lie(data)
    path = folder / f"lying-{name}{suffix}"
    path.write_bytes(data)
    return Film(path, source.seconds, source.parts, steady=True)


def box_durations(value: int) -> Lie:
    """Has mvhd, tkhd and mdhd of version 0 declare a duration of `value` units."""

    def lie(data: bytearray) -> None:
        for kind, offset in ((b"mvhd", 20), (b"tkhd", 24), (b"mdhd", 20)):
            at = data.find(kind)
            while at >= 0:
                assert data[at + 4] == 0
                struct.pack_into(">I", data, at + offset, value)
                at = data.find(kind, at + 4)

    return lie


def matroska_duration(value: float) -> Lie:
    def lie(data: bytearray) -> None:
        at = data.index(b"\x44\x89\x88") + 3
        struct.pack_into(">d", data, at, value)

    return lie


def flv_number(key: bytes, value: float) -> Lie:
    def lie(data: bytearray) -> None:
        at = data.index(key) + len(key)
        assert data[at] == 0  # an AMF number
        struct.pack_into(">d", data, at + 1, value)

    return lie


def avi_header(frames: int, microseconds: int) -> Lie:
    """Has avih declare how many frames there are and how long each lasts, and each strh how many there are."""

    def lie(data: bytearray) -> None:
        at = data.index(b"avih") + 8
        struct.pack_into("<I", data, at, microseconds)
        struct.pack_into("<I", data, at + 16, frames)
        at = data.find(b"strh")
        while at >= 0:
            struct.pack_into("<I", data, at + 8 + 32, frames)
            at = data.find(b"strh", at + 4)

    return lie


def asf_duration(value: int) -> Lie:
    """In units of 100 ns."""

    def lie(data: bytearray) -> None:
        at = data.index(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365"))
        struct.pack_into("<Q", data, at + 24 + 16 + 24, value)

    return lie


SOUNDS: dict[str, tuple[str, ...]] = {
    ".mp3": ("-c:a", "libmp3lame"),
    ".aac": ("-c:a", "aac"),
    ".ac3": ("-c:a", "ac3"),
    ".eac3": ("-c:a", "eac3"),
    ".mp2": ("-c:a", "mp2"),
    ".flac": ("-c:a", "flac"),
    ".ogg": ("-c:a", "libvorbis"),
    ".opus": ("-c:a", "libopus"),
    ".mka": ("-c:a", "libvorbis"),
    ".wav": ("-c:a", "pcm_s16le"),
    ".m4a": ("-c:a", "aac"),
    ".wma": ("-c:a", "wmav2"),
    ".aiff": ("-c:a", "pcm_s16be"),
    ".caf": ("-c:a", "pcm_s16le"),
}


@cache
def sound_part(folder: Path, suffix: str, first: int, seconds: int, options: tuple[str, ...] = ()) -> Path:
    """A correct recording of the seconds `first`, `first` + 1, …"""
    path = folder / f"sound-{first}-{seconds}-{abs(hash(options))}{suffix}"
    tone = f"aevalsrc='0.3*sin(2*PI*({LOWEST_HZ}+{STEP_HZ}*floor(t+{first}))*t)':s=48000:d={seconds}"
    ffmpeg("-f", "lavfi", "-i", tone, *SOUNDS[suffix], *options, path)
    return path


def sound(folder: Path, suffix: str, *options: str) -> Film:
    return Film(sound_part(folder, suffix, 0, 12, options), 12.0, ((0.0, 0, 0),), steady=True)


def sound_joined(folder: Path, suffix: str, steady: bool, seen: float = 14.0) -> Film:
    """Eight seconds and six. In some containers the second recording cannot be seen, and a note must say so."""
    path = folder / f"sounds{suffix}"
    parts = [sound_part(folder, suffix, 0, 8), sound_part(folder, suffix, 8, 6)]
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return Film(path, seen, ((0.0, 0, 0),), steady=steady)


def sound_lying(folder: Path, suffix: str, name: str, lie: Lie) -> Film:
    source = sound(folder, suffix)
    data = bytearray(source.path.read_bytes())
    lie(data)
    path = folder / f"lying-{name}{suffix}"
    path.write_bytes(data)
    return Film(path, 12.0, ((0.0, 0, 0),), steady=True)


def number_after(mark: bytes, offset: int, value: int, layout: str) -> Lie:
    def lie(data: bytearray) -> None:
        struct.pack_into(layout, data, data.index(mark) + offset, value)

    return lie


def flac_samples(value: int) -> Lie:
    def lie(data: bytearray) -> None:
        packed = int.from_bytes(data[18:26], "big") >> 36 << 36 | value
        data[18:26] = packed.to_bytes(8, "big")

    return lie
