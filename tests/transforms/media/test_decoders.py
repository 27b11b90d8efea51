"""The decoders return the frames that were asked for, compared with ffmpeg's full decode, whatever the container
does."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deephotlink.transforms.media.decoders.decode_file import decode_items
from deephotlink.transforms.media.probe_file import probe
from deephotlink.transforms.media.protocol import (
    ClipRequest,
    DecodedClip,
    DecodedWindow,
    DecodeRequest,
    ItemFailed,
    Limits,
    WindowRequest,
)
from tests.numbered import H264, QUIET_265, X265, by_ffmpeg, ffmpeg, make_numbered, on_display, read_number

LIMITS = Limits()
Maker = Callable[[Path], Path]


def simple(name: str, *output: str, frames: int = 100, fps: float = 25) -> Maker:
    return lambda folder: make_numbered(folder / name, frames, fps, *output)


def copied(name: str, *before: str) -> Maker:
    """A stream copy of a closed-GOP film with other container facts."""

    def make(folder: Path) -> Path:
        source = make_numbered(folder / "source.mp4", 100, 25, *H264, "-g", "24", "-bf", "2")
        ffmpeg(*before, "-i", source, "-c", "copy", folder / name)
        return folder / name

    return make


def joined(folder: Path) -> Path:
    """A transport stream whose clock starts again in the middle."""
    part = make_numbered(folder / "part.ts", 60, 25, *H264, "-g", "24")
    (folder / "twice.ts").write_bytes(part.read_bytes() * 2)
    return folder / "twice.ts"


VFR = ("-vf", "setpts='(N+floor(N/10)*7)/25/TB'", "-fps_mode", "vfr")
CASES: dict[str, tuple[Maker, str]] = {
    "h264 closed GOP": (simple("a.mp4", *H264, "-g", "24", "-bf", "2"), "decord"),
    "h264 in matroska": (simple("a.mkv", *H264, "-g", "24"), "decord"),
    "h264 10 bit": (simple("a.mp4", *H264[:4], "-pix_fmt", "yuv420p10le", "-g", "24"), "decord"),
    "hevc closed GOP": (simple("a.mp4", *X265, f"{QUIET_265}:open-gop=0"), "pyav"),
    "hevc 10 bit": (
        simple("a.mp4", *X265[:4], "-pix_fmt", "yuv420p10le", "-x265-params", f"{QUIET_265}:open-gop=0"),
        "pyav",
    ),
    "variable frame rate": (simple("a.mp4", *H264, "-g", "24", *VFR), "decord"),
    "rotated": (copied("a.mp4", "-display_rotation", "90"), "decord"),
    "mpeg4 without B-frames": (simple("a.mp4", "-c:v", "mpeg4", "-g", "24", "-b:v", "2M"), "decord"),
    "av1": (simple("a.mp4", "-c:v", "libsvtav1", "-preset", "12", "-g", "24", frames=50), "decord"),
    "vp8": (simple("b.webm", "-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8", "-g", "24"), "decord"),
    "long GOP": (simple("a.mp4", *H264, "-g", "250", frames=400), "decord"),
    "vp9": (simple("a.webm", "-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-g", "24"), "decord"),
    "video starts late": (
        lambda folder: _late(folder),
        "decord",
    ),
    "hevc open GOP": (simple("a.mp4", *X265, QUIET_265), "pyav"),
    "hevc open GOP in matroska": (simple("a.mkv", *X265, QUIET_265), "pyav"),
    "h264 open GOP": (simple("a.mp4", *H264, "-g", "24", "-x264-params", "open-gop=1:scenecut=0"), "pyav"),
    "intra refresh": (simple("a.mp4", *H264, "-g", "24", "-x264-params", "intra-refresh=1"), "pyav"),
    "mpeg2 in ts": (simple("a.ts", "-c:v", "mpeg2video", "-b:v", "2M", "-bf", "2"), "pyav"),
    "h264 in ts": (simple("a.ts", *H264, "-g", "24"), "pyav"),
    "ts, time stamps start again": (joined, "pyav"),
    "edit list": (copied("a.mp4", "-ss", "1.7"), "pyav"),
    "mpeg4 B-frames in avi": (simple("a.avi", "-c:v", "mpeg4", "-bf", "2", "-g", "24", "-b:v", "2M"), "pyav"),
    "h264 without time stamps in avi": (simple("a.avi", *H264, "-g", "24"), "pyav"),
    "fragmented": (simple("a.mp4", *H264, "-g", "24", "-movflags", "frag_keyframe+empty_moov"), "pyav"),
    "wmv": (simple("a.wmv", "-c:v", "wmv2", "-b:v", "2M", "-g", "24"), "pyav"),
    "gif": (simple("a.gif", frames=30, fps=10), "pyav"),
    "animated png": (simple("a.apng", "-f", "apng", frames=30, fps=10), "pyav"),
    "mpeg2 in vob": (simple("a.vob", "-c:v", "mpeg2video", "-b:v", "2M", "-bf", "2", "-f", "vob"), "pyav"),
}


def _late(folder: Path) -> Path:
    source = make_numbered(folder / "source.mp4", 100, 25, *H264, "-g", "24")
    tone = ("-f", "lavfi", "-i", "sine=d=5")
    ffmpeg("-itsoffset", "1.5", "-i", source, *tone, "-map", "0:v", "-map", "1:a", "-c:v", "copy", folder / "a.mp4")
    return folder / "a.mp4"


def request(facts: dict, path: Path, clips: list[ClipRequest], decoder: str | None = None, **fields) -> DecodeRequest:
    video = facts["primary_video"]
    return DecodeRequest(
        path=str(path),
        decoder=decoder or facts["decoder"],
        width=fields.pop("width", video["width"]),
        height=fields.pop("height", video["height"]),
        rotation=video["rotation"],
        clips=tuple(clips),
        clock=facts["clock"],
        **fields,
    )


def clip_at(index: int, *times: float) -> ClipRequest:
    return ClipRequest(index, times[0], times[-1] + 0.04, times)


@pytest.mark.parametrize("case", CASES)
def test_frames_are_those_asked_for(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, decoder = CASES[case]
    path = make(tmp_path)
    facts = probe(str(path), LIMITS)
    assert facts["decoder"] == decoder, facts["decoder_reason"]
    rotation = facts["primary_video"]["rotation"]
    # ffmpeg's pictures are upright; those of the rotated film have to be turned back for the bars to be read.
    back = rotation // 90
    pts, numbers = by_ffmpeg(path, back)
    rng = random.Random(1)
    ends = pts[-1] - 0.2
    clips = [
        clip_at(n, *(start + k * 0.08 for k in range(3)))
        for n, start in enumerate(rng.uniform(0, ends) for _ in range(12))
    ]
    # Half of them out of order: seeking backward must be right too.
    clips[:6] = sorted(clips[:6], key=lambda clip: clip.start_seconds)
    pictures = {}
    for used in dict.fromkeys([decoder, "pyav"]):
        with monkeypatch.context() as patch:
            if used == "decord":
                # No silent help from PyAV here.
                patch.setattr("deephotlink.transforms.media.decoders.decode_file.PyavFrames", None)
            items = list(decode_items(request(facts, path, clips, used), LIMITS))
        assert [item.clip_index for item in items] == [clip.clip_index for clip in clips]
        for clip, item in zip(clips, items, strict=True):
            assert isinstance(item, DecodedClip), item
            found = [read_number(np.rot90(frame, back)) for frame in item.frames]
            assert found == on_display(pts, numbers, clip.times_seconds), (used, clip)
            shown_at = (
                [pts[numbers.index(n)] for n in found] if case != "ts, time stamps start again" else item.pts_seconds
            )
            np.testing.assert_allclose(item.pts_seconds, shown_at, atol=0.0015)
            assert item.damage is None
            assert item.frames_decoded >= 0
        pictures[used] = np.concatenate([item.frames for item in items])
    if len(pictures) == 2:
        # The same libavfilter chain: which decoder was used does not show in the pixels.
        np.testing.assert_array_equal(pictures["decord"], pictures["pyav"])


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
@pytest.mark.parametrize("turn", [(), ("-display_rotation", "90"), ("-display_rotation", "180")])
def test_size_and_rotation(decoder: str, turn: tuple[str, ...], tmp_path: Path) -> None:
    path = copied("a.mp4", *turn)(tmp_path)
    facts = probe(str(path), LIMITS)
    video = facts["primary_video"]
    width, height = video["width"] // 2, video["height"] // 2
    (item,) = decode_items(request(facts, path, [clip_at(0, 1.0)], decoder, width=width, height=height), LIMITS)
    assert isinstance(item, DecodedClip)
    assert item.frames.shape == (1, height, width, 3)
    assert read_number(np.rot90(item.frames[0], video["rotation"] // 90)) == 25


@pytest.mark.parametrize("decoder", ["decord", "pyav"])
def test_sparse_clips_leave_out_what_lies_between(decoder: str, tmp_path: Path) -> None:
    path = make_numbered(tmp_path / "a.mp4", 600, 25, *H264, "-g", "30")
    facts = probe(str(path), LIMITS)
    keys = facts["key_frame_seconds"]
    clips = [clip_at(n, *(keys[n * 6] + k / 25 for k in range(4))) for n in range(4)]
    items = list(decode_items(request(facts, path, clips, decoder), LIMITS))
    assert sum(item.frames_decoded for item in items) <= 4 * 6 + 8


def test_no_frame_comes_twice(tmp_path: Path) -> None:
    path = make_numbered(tmp_path / "a.mp4", 20, 5, *H264)
    facts = probe(str(path), LIMITS)
    (item,) = decode_items(request(facts, path, [clip_at(0, *(1 + k / 30 for k in range(16)))]), LIMITS)
    assert isinstance(item, DecodedClip)
    assert [read_number(frame) for frame in item.frames] == [5, 6, 7]


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "late.mp4"])
def test_a_beep_and_its_frame_come_at_the_same_time(name: str, tmp_path: Path) -> None:
    """Frame 50 and the beep are both at 2 s; in `late.mp4` the sound is moved by 0.7 s in the container."""
    rate = 44_100
    sound = np.zeros(rate * 4, np.int16)
    sound[rate * 2 : rate * 2 + 4410] = (16_000 * np.sin(2 * np.pi * 2000 * np.arange(4410) / rate)).astype(np.int16)
    (tmp_path / "beep.raw").write_bytes(sound.tobytes())
    film = make_numbered(tmp_path / "film.mp4", 100, 25, *H264, "-g", "24", "-bf", "2")
    late = 0.7 if name == "late.mp4" else 0.0
    codec = "flac" if name == "a.mkv" else "aac"
    raw = ("-f", "s16le", "-ar", str(rate), "-ac", "1", "-i", tmp_path / "beep.raw")
    both = tmp_path / f"both{Path(name).suffix}"
    ffmpeg("-i", film, *raw, "-map", "0:v", "-map", "1:a", "-c:v", "copy", "-c:a", codec, both)
    ffmpeg("-i", both, "-itsoffset", str(late), "-i", both, "-map", "0:v", "-map", "1:a", "-c", "copy", tmp_path / name)
    facts = probe(str(tmp_path / name), LIMITS)
    clip = ClipRequest(0, 1.5, 3.0, tuple(1.5 + k / 25 for k in range(30)))
    window = WindowRequest(7, 24_000, 24_000, "aasist")
    items = list(decode_items(request(facts, tmp_path / name, [clip], clip_sound=True, windows=(window,)), LIMITS))
    decoded, heard = items
    assert isinstance(decoded, DecodedClip) and isinstance(heard, DecodedWindow)
    numbers = [read_number(frame) for frame in decoded.frames]
    assert decoded.pts_seconds[numbers.index(50)] == pytest.approx(2.0, abs=0.001)
    assert decoded.sound is not None and len(decoded.sound) == 24_000
    onset = 1.5 + int(np.argmax(np.abs(decoded.sound) > 0.2)) / 16_000
    assert onset == pytest.approx(2.0 + late, abs=0.002)
    # Matroska rounds to milliseconds, so the slice after a seek may be off by less than one.
    if name != "a.mkv":
        np.testing.assert_allclose(heard.samples, decoded.sound, atol=1e-6)


def test_a_cut_file_gives_what_it_has(tmp_path: Path) -> None:
    whole = make_numbered(tmp_path / "whole.mp4", 200, 25, *H264, "-g", "24", "-movflags", "+faststart")
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * 0.6)])
    facts = probe(str(path), LIMITS)
    assert facts["truncated"] and facts["decoder"] == "pyav"
    clips = [clip_at(0, 0.4, 0.8), clip_at(1, 2.0, 2.4, 7.6), clip_at(2, 7.0, 7.5)]
    items = list(decode_items(request(facts, path, clips, "decord"), LIMITS))
    assert isinstance(items[0], DecodedClip) and [read_number(f) for f in items[0].frames] == [10, 20]
    assert isinstance(items[1], DecodedClip) and [read_number(f) for f in items[1].frames] == [50, 60]
    assert items[1].damage is not None and "1 of 3" in items[1].damage
    assert isinstance(items[2], ItemFailed) and items[2].error_class == "decode_failed"


def test_damaged_packets_cost_only_themselves(tmp_path: Path) -> None:
    path = make_numbered(tmp_path / "a.mp4", 150, 25, *H264, "-g", "25", "-bf", "0")
    facts = probe(str(path), LIMITS)
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    length = struct.unpack(">I", data[start - 8 : start - 4])[0]
    for at in range(start + length // 3, start + length // 2, 7):
        data[at] ^= 0xFF
    path.write_bytes(data)
    clips = [clip_at(0, 0.2, 0.4), clip_at(1, 5.2, 5.4)]
    items = list(decode_items(request(facts, path, clips), LIMITS))
    for item, expected in zip(items, ([5, 10], [130, 135]), strict=True):
        assert isinstance(item, DecodedClip)
        assert [read_number(frame) for frame in item.frames] == expected


def test_sound_that_fails_leaves_the_frames(tmp_path: Path) -> None:
    path = make_numbered(tmp_path / "a.mp4", 50, 25, *H264)
    facts = probe(str(path), LIMITS)
    window = WindowRequest(0, 0, 16_000, "aasist")
    items = list(decode_items(request(facts, path, [clip_at(0, 0.4)], clip_sound=True, windows=(window,)), LIMITS))
    assert isinstance(items[0], DecodedClip) and items[0].sound is None and items[0].damage is None
    assert items[1:] == [ItemFailed("no_audio", "no decodable sound")]


def test_a_clip_beyond_the_memory_limit_fails_alone(tmp_path: Path) -> None:
    path = make_numbered(tmp_path / "a.mp4", 50, 25, *H264)
    facts = probe(str(path), LIMITS)
    clips = [clip_at(0, 0.4, 0.8), clip_at(1, 0.4)]
    items = list(decode_items(request(facts, path, clips), Limits(item_bytes=100_000)))
    assert isinstance(items[0], ItemFailed) and items[0].error_class == "too_large"
    assert isinstance(items[1], DecodedClip)
