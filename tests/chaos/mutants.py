"""Small films in every container that archives hold, and seeded ways of damaging them: equal seeds give equal bytes."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from deephotlink.pipelines.samples.synthetic_media import make_audio, make_gif, make_video, remux

SIZE = (64, 48)
_ISO = (".mp4", ".mov", ".m4a")
_EBML = (".mkv", ".webm")
_BOXES = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"moof", b"traf", b"mvex", b"udta", b"meta")
_ODD = (0, 1, 7, 8, 0xFFFF, 65536, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
"""Lengths and counts at which readers trip."""
_FIELDS: Mapping[str, tuple[tuple[bytes, int], ...]] = {
    ".avi": tuple((mark, 4) for mark in (b"RIFF", b"LIST", b"avih", b"strh", b"strf", b"idx1", b"00dc", b"01wb")),
    ".wav": tuple((mark, 4) for mark in (b"RIFF", b"fmt ", b"data")),
    ".aiff": tuple((mark, 4) for mark in (b"FORM", b"COMM", b"SSND")),
    ".ogv": ((b"\x80theora", 7), (b"\x01vorbis", 7), (b"OggS", 4), (b"OggS", 26)),
    ".wmv": tuple(
        (bytes.fromhex(mark), 16)  # header, file properties, stream properties, header extension, data
        for mark in ("3026b2758e66cf11", "a1dcab8c47a9cf11", "9107dcb7b7a9cf11", "b503bf5f2ea9cf11", "3626b2758e66cf11")
    ),
    ".gif": ((b"GIF89a", 6), (b"NETSCAPE2.0", 11), (b"\x21\xf9\x04", 3), (b"\x2c\0\0\0\0", 5)),
    ".mxf": ((bytes.fromhex("060e2b34"), 16), (bytes.fromhex("060e2b34"), 20)),
    ".mp3": ((b"ID3", 3), (b"\xff\xf3", 2), (b"\xff\xfb", 2), (b"Xing", 4), (b"Info", 4)),
    ".flv": ((b"FLV", 3), (b"onMetaData", 10), (b"\x09\0", 1), (b"\x08\0", 1)),
    ".mpg": tuple((b"\0\0\x01" + bytes([mark]), 4) for mark in (0xBA, 0xBB, 0xB3, 0xC0, 0xE0)),
}
"""What stands before lengths and counts in the other containers, and how many bytes before."""
_EBML_IDS = (b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67", b"\x15\x49\xa9\x66", b"\x16\x54\xae\x6b", b"\x1f\x43\xb6\x75")
"""EBML header, Segment, Info, Tracks, Cluster."""


def make_seeds(folder: Path) -> Mapping[str, bytes]:
    """The files to be damaged, by name: the most common containers and codecs, then some unusual ones."""
    common = {"seconds": 1, "fps": 8, "size": SIZE, "audio": "tone"}
    make_video(folder / "plain.mp4", codec="libx264", gop=4, **common)
    make_video(folder / "fragments.mp4", gop=4, options={"movflags": "frag_keyframe+empty_moov"}, **common)
    make_video(folder / "vp9.webm", codec="libvpx-vp9", options={"c:a": "libopus", "cpu-used": 8}, **common)
    make_video(
        folder / "hevc.mkv", codec="libx265", options={"c:a": "ac3", "x265-params": "log-level=none:pools=1"}, **common
    )
    make_video(folder / "mpeg4.avi", codec="mpeg4", options={"c:a": "mp3"}, **common)
    make_video(folder / "mpeg2.ts", codec="mpeg2video", options={"c:a": "mp2", "r": 25}, **common)
    make_video(folder / "mjpeg.mov", codec="mjpeg", options={"c:a": "pcm_s16le", "pix_fmt": "yuvj420p"}, **common)
    make_video(folder / "flash.flv", codec="flv1", options={"c:a": "mp3", "ar": 44100}, **common)
    make_video(folder / "av1.mp4", codec="libaom-av1", options={"cpu-used": 8}, **common)
    make_video(folder / "prores.mov", codec="prores_ks", options={"c:a": "pcm_s16le", "pix_fmt": "yuv422p10"}, **common)
    make_video(folder / "rotated.mp4", codec="libx264", rotate=90, **common)
    uneven = {"vf": "setpts='PTS+0.05*mod(N,3)/TB'", "fps_mode": "vfr"}
    make_video(folder / "uneven.mkv", codec="libx264", options=uneven, **common)
    make_video(folder / "theora.ogv", **common)
    make_video(folder / "windows.wmv", **common)
    make_video(folder / "program.mpg", options={"r": 25}, **common)
    broadcast = {"c:a": "pcm_s16le", "ar": 48000, "r": 25}
    make_video(folder / "material.mxf", codec="mpeg2video", options=broadcast, **common)
    make_gif(folder / "moving.gif", seconds=1, size=SIZE)
    for name in ("sound.m4a", "sound.wav", "sound.mp3", "sound.aiff"):
        make_audio(folder / name, seconds=1)
    remux(folder / "uneven.mkv", folder / "no-key-frame.mkv", {"bsf:v": r"noise=drop=key"})
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def mutate(seeds: Mapping[str, bytes], number: int, seed: int) -> tuple[str, bytes]:
    """Mutant `number` of the series `seed`: its bytes, and a file name that says how it was made."""
    rng = random.Random((seed << 32) + number)
    names = sorted(seeds)
    name, turn = names[number % len(names)], number // len(names)
    path, data, kinds = Path(name), bytearray(seeds[name]), kinds_of(name)
    kind = kinds[turn % len(kinds)]
    if kind is _field:
        _field(data, rng, _FIELDS[path.suffix])
    else:
        kind(data, rng)
    return f"{seed}-{number:05d}-{path.stem}{kind.__name__.replace('_', '-')}{path.suffix}", bytes(data)


def kinds_of(name: str) -> list[Callable[..., None]]:
    """The ways in which a file of this name is damaged. A way that is listed twice is used twice as often."""
    own = {**dict.fromkeys(_FIELDS, _field), **dict.fromkeys(_ISO, _box), **dict.fromkeys(_EBML, _element)}
    own[".ts"] = _tables
    return [_flip, _flip, _cut, _blank, _repeat, _head, *[own[Path(name).suffix]] * 2]


def _flip(data: bytearray, rng: random.Random) -> None:
    for _ in range(max(1, int(len(data) * 8 * 10 ** rng.uniform(-5, -2)))):
        bit = rng.randrange(len(data) * 8)
        data[bit >> 3] ^= 1 << (bit & 7)


def _cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def _blank(data: bytearray, rng: random.Random) -> None:
    start, length = rng.randrange(len(data)), rng.randrange(1, 4096)
    data[start : start + length] = bytes(len(data[start : start + length]))


def _repeat(data: bytearray, rng: random.Random) -> None:
    start, length = rng.randrange(len(data)), rng.randrange(1, 8192)
    data[start:start] = data[start : start + length] * rng.randrange(1, 5)


def _head(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.randrange(1, 24)):
        data[rng.randrange(min(len(data), 2048))] = rng.choice([0, 255, 127, 128, rng.randrange(256)])


def _box(data: bytearray, rng: random.Random) -> None:
    """Damages sizes of boxes, and the counts and versions with which they begin."""
    boxes = _boxes(bytes(data))
    for _ in range(rng.randrange(1, 4)):
        at = rng.choice(boxes)
        if rng.random() >= 0.5:
            at += 8 + rng.randrange(32)
        if at + 4 <= len(data):
            data[at : at + 4] = struct.pack(">I", rng.choice([*_ODD, rng.getrandbits(32), len(data) + 1]))


def _boxes(data: bytes, start: int = 0, end: int | None = None, depth: int = 0) -> list[int]:
    """Where boxes begin, including nested ones."""
    found, end = [], len(data) if end is None else end
    while start + 8 <= end and depth < 8:
        size, kind = struct.unpack_from(">I4s", data, start)
        if size < 8 or start + size > end:
            break
        found.append(start)
        if kind in _BOXES:
            found += _boxes(data, start + 8, start + size, depth + 1)
        start += size
    return found


def _field(data: bytearray, rng: random.Random, fields: Sequence[tuple[bytes, int]]) -> None:
    """Damages lengths and counts of the other containers, in either byte order, or the fields beside them."""
    places = [at + behind for mark, behind in fields for at in _found(bytes(data), mark) if at + behind < len(data)]
    for _ in range(rng.randrange(1, 4)):
        at = rng.choice(places) + (0 if rng.random() < 0.5 else rng.randrange(32))
        order, wide = rng.choice("<>"), rng.choice("HIQ")
        value = rng.choice([*_ODD, rng.getrandbits(32), len(data) + 1, (1 << 64) - 1])
        number = struct.pack(order + wide, value % (1 << 8 * struct.calcsize(wide)))
        data[at : at + len(number)] = number[: len(data) - at]


def _found(data: bytes, mark: bytes, most: int = 8) -> list[int]:
    """The first few places where a mark occurs."""
    found = [data.find(mark)]
    while found[-1] >= 0 and len(found) < most:
        found.append(data.find(mark, found[-1] + 1))
    return [at for at in found if at >= 0]


def _element(data: bytearray, rng: random.Random) -> None:
    """Damages sizes of EBML elements: unknown, zero, beyond the file, or of another width than they state."""
    places = [at + len(mark) for mark in _EBML_IDS if 0 <= (at := data.find(mark)) < len(data) - 12]
    for _ in range(rng.randrange(1, 3)):
        at = rng.choice(places) + (0 if rng.random() < 0.5 else rng.randrange(24))
        size = rng.choice([b"\xff", b"\x80", b"\x01" + b"\xff" * 7, b"\x01" + bytes(7), b"\x08", b"\x00", b"\x10\xff"])
        data[at : at + len(size)] = size


def _tables(data: bytearray, rng: random.Random) -> None:
    """Damages PAT and PMT of a transport stream: sections with a false length, programs that refer to each other."""
    packets = [at for at in range(0, len(data) - 187, 188) if data[at] == 0x47]
    tables = [at for at in packets if ((data[at + 1] & 0x1F) << 8 | data[at + 2]) in (0, 0x1000)]
    for at in rng.sample(tables, min(len(tables), rng.randrange(1, 6))):
        for _ in range(rng.randrange(1, 6)):
            data[at + rng.randrange(1, 40)] = rng.choice([0, 0xFF, 0x1F, 0x10, rng.randrange(256)])
