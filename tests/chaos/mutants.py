"""Small films in every container that archives hold, and seeded ways of damaging them: equal seeds give equal bytes."""

from __future__ import annotations

import random
import struct
from collections.abc import Mapping
from pathlib import Path

from deephotlink.pipelines.making import make_audio, make_video, remux

SIZE = (64, 48)
_ISO = (".mp4", ".mov", ".m4a")
_EBML = (".mkv", ".webm")
_BOXES = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"moof", b"traf", b"mvex", b"udta", b"meta")
_ODD = (0, 1, 7, 8, 0xFFFF, 65536, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
"""Lengths and counts at which readers trip."""
_EBML_IDS = (b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67", b"\x15\x49\xa9\x66", b"\x16\x54\xae\x6b", b"\x1f\x43\xb6\x75")
"""EBML header, Segment, Info, Tracks, Cluster."""


def make_seeds(folder: Path) -> Mapping[str, bytes]:
    """The films to be damaged, by name: eight containers, then what else is odd enough."""
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
    make_audio(folder / "sound.m4a", seconds=1)
    remux(folder / "uneven.mkv", folder / "no-key-frame.mkv", {"bsf:v": r"noise=drop=key"})
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def mutate(seeds: Mapping[str, bytes], number: int, seed: int) -> tuple[str, bytes]:
    """Mutant `number` of the series `seed`: its file name, which says how it came about, and its bytes."""
    rng = random.Random((seed << 32) + number)
    names = sorted(seeds)
    name = names[number % len(names)]
    suffix, data = Path(name).suffix, bytearray(seeds[name])
    kinds = [_flip, _flip, _cut, _blank, _repeat, _head]
    if suffix in _ISO:
        kinds += [_box, _box]
    if suffix in _EBML:
        kinds += [_element, _element]
    if suffix == ".ts":
        kinds += [_tables, _tables]
    kind = rng.choice(kinds)
    kind(data, rng)
    return f"{seed}-{number:05d}-{Path(name).stem}{kind.__name__.replace('_', '-')}{suffix}", bytes(data)


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
    """Sizes of boxes, and the counts and versions that they begin with."""
    boxes = _boxes(bytes(data))
    for _ in range(rng.randrange(1, 4)):
        at = rng.choice(boxes)
        if rng.random() >= 0.5:
            at += 8 + rng.randrange(32)
        if at + 4 <= len(data):
            data[at : at + 4] = struct.pack(">I", rng.choice([*_ODD, rng.getrandbits(32), len(data) + 1]))


def _boxes(data: bytes, start: int = 0, end: int | None = None, depth: int = 0) -> list[int]:
    """Where boxes begin, those inside of boxes too."""
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


def _element(data: bytearray, rng: random.Random) -> None:
    """Sizes of EBML elements: unknown, zero, beyond the file, of another width than they say."""
    places = [at + len(mark) for mark in _EBML_IDS if 0 <= (at := data.find(mark)) < len(data) - 12]
    for _ in range(rng.randrange(1, 3)):
        at = rng.choice(places) + (0 if rng.random() < 0.5 else rng.randrange(24))
        size = rng.choice([b"\xff", b"\x80", b"\x01" + b"\xff" * 7, b"\x01" + bytes(7), b"\x08", b"\x00", b"\x10\xff"])
        data[at : at + len(size)] = size


def _tables(data: bytearray, rng: random.Random) -> None:
    """PAT and PMT of a transport stream: sections that lie about their length, programs that are each other."""
    packets = [at for at in range(0, len(data) - 187, 188) if data[at] == 0x47]
    tables = [at for at in packets if ((data[at + 1] & 0x1F) << 8 | data[at + 2]) in (0, 0x1000)]
    for at in rng.sample(tables, min(len(tables), rng.randrange(1, 6))):
        for _ in range(rng.randrange(1, 6)):
            data[at + rng.randrange(1, 40)] = rng.choice([0, 0xFF, 0x1F, 0x10, rng.randrange(256)])
