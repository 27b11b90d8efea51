"""What the probe says of containers, and what it refuses to open."""

from __future__ import annotations

import csv
import json
import os
import struct
from pathlib import Path

import pytest

from deephotlink.transforms.failures import MediaError
from deephotlink.transforms.media.containers.facts import ContainerFacts
from deephotlink.transforms.media.containers.iso_boxes import read_boxes
from deephotlink.transforms.media.probe_file import probe
from deephotlink.transforms.media.protocol import Limits
from tests.numbered import H264, QUIET_265, X265, ffmpeg, make_numbered

LIMITS = Limits()
SHARED = Path(__file__).resolve().parents[3].parent / "shared"
TONE = ("-f", "lavfi", "-i", "sine=d=2")


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds of H.264 and AAC, two seconds of sound, with tags."""
    folder = tmp_path_factory.mktemp("film")
    silent = make_numbered(folder / "silent.mp4", 100, 25, *H264, "-g", "24", "-bf", "2")
    tags = ("-metadata", "comment=made\u202e by\x1b a machine", "-metadata", "Title=t" + "x" * 900)
    ffmpeg("-i", silent, *TONE, "-c:v", "copy", "-c:a", "aac", *tags, folder / "film.mp4")
    return folder / "film.mp4"


def refused(path: Path, limits: Limits = LIMITS) -> str:
    with pytest.raises(MediaError) as error:
        probe(str(path), limits)
    return error.value.error_class


def test_every_fact_is_there_and_is_json(film: Path) -> None:
    facts = probe(str(film), LIMITS)
    assert set(facts) == set(ContainerFacts.__annotations__)
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert facts["media_type"] == "video" and not facts["still_image"]
    assert facts["duration_seconds"] == pytest.approx(4.0, abs=0.03)
    assert facts["tags"]["comment"] == "made\\u202e by\\x1b a machine"
    assert len(facts["tags"]["title"]) == 500
    assert facts["boxes"] == ["ftyp", "free", "mdat", "moov"]
    assert [stream["codec"] for stream in facts["streams"]] == ["h264", "aac"]
    assert facts["streams"][0]["tags"]["handler_name"] == "VideoHandler"
    assert facts["encoder_sei"][0].startswith("x264 - core")
    assert facts["edit_lists"][0] == [[4.0, 0.08, 1.0]]
    assert facts["key_frame_seconds"] == [0.0, 0.96, 1.92, 2.88, 3.84] and facts["key_frame_index"] == "scan"
    video, audio = facts["primary_video"], facts["primary_audio"]
    assert (video["width"], video["height"], video["frame_rate"], video["frame_count"]) == (192, 128, 25.0, 100)
    assert (audio["codec"], audio["sample_rate"], audio["start_seconds"]) == ("aac", 44100, 0.0)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_turns_the_size(film: Path, tmp_path: Path, degrees: int) -> None:
    """ffmpeg's option counts anticlockwise, the facts count clockwise."""
    ffmpeg("-display_rotation", str(degrees), "-i", film, "-c", "copy", tmp_path / "a.mp4")
    video = probe(str(tmp_path / "a.mp4"), LIMITS)["primary_video"]
    assert video["rotation"] == 360 - degrees
    assert (video["width"], video["height"]) == ((192, 128) if degrees == 180 else (128, 192))


def test_the_decoder_and_why(film: Path, tmp_path: Path) -> None:
    ffmpeg("-i", film, "-c", "copy", "-map_metadata", "-1", tmp_path / "a.ts")
    ffmpeg("-ss", "1.5", "-i", film, "-c", "copy", tmp_path / "edit.mp4")
    make_numbered(tmp_path / "open.mp4", 60, 25, *H264, "-g", "24", "-x264-params", "open-gop=1:scenecut=0")
    make_numbered(tmp_path / "hevc.mp4", 30, 25, *X265, f"{QUIET_265}:open-gop=0")
    reasons = {}
    for path in (film, tmp_path / "a.ts", tmp_path / "edit.mp4", tmp_path / "open.mp4", tmp_path / "hevc.mp4"):
        facts = probe(str(path), LIMITS)
        reasons[path.name] = (facts["decoder"], facts["decoder_reason"])
    assert reasons == {
        "film.mp4": ("decord", "closed GOP, time stamps in order"),
        "a.ts": ("pyav", "container mpegts"),
        "edit.mp4": ("pyav", "edit list"),
        "open.mp4": ("pyav", "open GOP"),
        "hevc.mp4": ("pyav", "codec hevc"),
    }


def test_a_large_film_is_known_by_its_index(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scanned = probe(str(film), LIMITS)
    monkeypatch.setattr("deephotlink.transforms.media.clock.lengths.SCAN_BYTES", 1000)
    facts = probe(str(film), LIMITS)
    assert facts["key_frame_index"] == "index" and facts["decoder"] == "pyav"
    assert facts["key_frame_seconds"] == scanned["key_frame_seconds"]


@pytest.mark.parametrize(
    ("name", "make", "media_type"),
    [
        ("a.wav", TONE, "audio"),
        ("a.mp3", TONE, "audio"),
        ("a.aac", TONE, "audio"),
        ("a.flac", TONE, "audio"),
        ("a.gif", ("-f", "lavfi", "-i", "testsrc=d=1:s=64x48:r=10"), "gif"),
        ("a.mkv", ("-f", "lavfi", "-i", "testsrc=d=1:s=64x48"), "video"),
    ],
)
def test_media_types(tmp_path: Path, name: str, make: tuple[str, ...], media_type: str) -> None:
    ffmpeg(*make, tmp_path / name)
    facts = probe(str(tmp_path / name), LIMITS)
    assert facts["media_type"] == media_type and not facts["still_image"]
    assert (facts["decoder"] is None) == (media_type == "audio")
    # An ADTS stream says only an estimate by its bit rate.
    assert facts["duration_seconds"] == pytest.approx(2 if media_type == "audio" else 1, rel=0.15)


def test_a_gif_of_one_frame_is_a_still_image(tmp_path: Path) -> None:
    ffmpeg("-f", "lavfi", "-i", "testsrc=s=64x48", "-frames:v", "1", tmp_path / "a.gif")
    assert probe(str(tmp_path / "a.gif"), LIMITS)["still_image"]


def test_cover_art_is_no_video(tmp_path: Path) -> None:
    ffmpeg("-f", "lavfi", "-i", "testsrc=s=64x48", "-frames:v", "1", tmp_path / "cover.png")
    cover = ("-i", tmp_path / "cover.png", "-map", "0", "-map", "1", "-c:v", "copy", "-disposition:v", "attached_pic")
    ffmpeg(*TONE, *cover, tmp_path / "a.mp3")
    facts = probe(str(tmp_path / "a.mp3"), LIMITS)
    assert facts["media_type"] == "audio" and facts["primary_video"] is None
    assert [s["attached_picture"] for s in facts["streams"]] == [False, True]


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{film}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile {film}\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/9\n",
    ],
)
def test_scripts_that_name_other_files_are_refused(film: Path, tmp_path: Path, text: str) -> None:
    path = film.parent / "script.mp4"
    path.write_text(text.format(film=film.name))
    assert refused(path) in ("unsupported_format", "unreadable")


@pytest.mark.parametrize("name", ["-x.mp4", "concat:a|b.mp4", "a%03d.mp4", "http:x\nfile:y", "weiß ‮.txt", b"\xff\xfe"])
def test_names_mean_nothing(film: Path, tmp_path: Path, name: str | bytes) -> None:
    path = os.path.join(os.fsencode(tmp_path), os.fsencode(name))
    with open(path, "wb") as file:
        file.write(film.read_bytes())
    assert probe(os.fsdecode(path), LIMITS)["primary_video"]["frame_count"] == 100


def test_what_is_declared_too_large_is_refused(film: Path, tmp_path: Path) -> None:
    ffmpeg("-f", "lavfi", "-i", "testsrc=s=64x48:d=0.2", "-c:v", "png", tmp_path / "a.mov")
    data = bytearray((tmp_path / "a.mov").read_bytes())
    at = data.index(b"png ", data.index(b"stsd")) + 28
    assert struct.unpack_from(">HH", data, at) == (64, 48)
    struct.pack_into(">HH", data, at, 8192, 8192)
    (tmp_path / "a.mov").write_bytes(data)
    assert refused(tmp_path / "a.mov") == "too_large"
    assert refused(film, Limits(max_pixels=1000)) == "too_large"
    assert refused(film, Limits(max_streams=1)) == "too_large"
    assert refused(film, Limits(max_duration_seconds=3)) == "too_large"


def far_packet(path: Path, film: Path, which: int, seconds: int) -> Path:
    """`film` as Matroska with one time stamp of its video moved, as a damaged or a hostile file has it."""
    moved = f"setts=pts='if(eq(N,{which}),{seconds}/TB,PTS)':dts='if(eq(N,{which}),{seconds}/TB,DTS)'"
    ffmpeg("-i", film, "-map", "0:v", "-c", "copy", "-bsf:v", moved, path)
    return path


def test_a_stream_may_not_outlast_the_limit(tmp_path: Path) -> None:
    """What a stream says is held against the limit too: the clips are planned by it."""
    film = make_numbered(tmp_path / "film.mp4", 100, 25, *H264, "-g", "24", "-bf", "0")
    path = far_packet(tmp_path / "a.mkv", film, 99, 2_000_000)
    data = path.read_bytes()
    at = data.index(b"\x44\x89\x88") + 3  # the Duration of the Segment, in ms
    assert struct.unpack_from(">d", data, at)[0] > 1e9
    path.write_bytes(data[:at] + struct.pack(">d", 4000.0) + data[at + 8 :])
    facts = probe(str(path), LIMITS)
    assert facts["duration_seconds"] == 4
    assert facts["primary_video"]["start_seconds"] + facts["primary_video"]["duration_seconds"] == pytest.approx(4)
    assert max(facts["key_frame_seconds"]) < 4
    ffmpeg(*TONE, "-itsoffset", "2000000", "-i", film, "-map", "0", "-map", "1", "-c:v", "copy", tmp_path / "b.mkv")
    data = (tmp_path / "b.mkv").read_bytes()
    at = data.index(b"\x44\x89\x88") + 3
    (tmp_path / "b.mkv").write_bytes(data[:at] + struct.pack(">d", 4000.0) + data[at + 8 :])
    facts = probe(str(tmp_path / "b.mkv"), LIMITS)
    # Two seconds of sound lie before the film in the file.
    assert facts["duration_seconds"] == pytest.approx(6, abs=0.1)
    assert "its clock jumps once, at 2.0 s by 1999998.0 s ahead" in facts["notes"][0]


def test_a_scan_ends_by_packets_and_bytes_and_says_so(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for bound in ("MAX_PACKETS", "MAX_BYTES"):
        with monkeypatch.context() as patch:
            patch.setattr(f"deephotlink.transforms.media.clock.packets.{bound}", 40)
            facts = probe(str(film), LIMITS)
            assert (facts["key_frame_index"], facts["decoder"]) == ("partial", "pyav")
            assert facts["decoder_reason"] == "not scanned to its end"


def test_encrypted_tracks_are_said_to_be(film: Path, tmp_path: Path) -> None:
    data = film.read_bytes().replace(b"avc1\x00\x00\x00\x00\x00\x00", b"encv\x00\x00\x00\x00\x00\x00")
    (tmp_path / "a.mp4").write_bytes(data.replace(b"mp4a\x00\x00\x00\x00\x00\x00", b"enca\x00\x00\x00\x00\x00\x00"))
    assert refused(tmp_path / "a.mp4") == "encrypted"


def test_what_is_no_media_is_unreadable(tmp_path: Path) -> None:
    for name, content in {"empty": b"", "noise": bytes(range(256)) * 40, "box": b"\x00\x00\x00\x08ftyp"}.items():
        (tmp_path / name).write_bytes(content)
        assert refused(tmp_path / name) == "unreadable", name
    assert refused(tmp_path / "absent") == "unreadable"


def test_a_film_that_is_still_being_written_is_told_so(film: Path, tmp_path: Path) -> None:
    path = tmp_path / "growing.mp4"
    path.write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    with pytest.raises(MediaError, match=r"without its index .* still being written"):
        probe(str(path), LIMITS)


def test_boxes_of_hostile_files_end(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    nested = b"".join(struct.pack(">I4s", 1 << 20, kind) for kind in [b"moov", b"trak", *[b"mdia", b"minf"] * 400])
    for content in (nested, struct.pack(">I4s", 8, b"free") * 50_000, struct.pack(">I4sQ", 1, b"moov", 1 << 63)):
        path.write_bytes(content)
        assert len(read_boxes(str(path)).top_level) <= 256


@pytest.mark.real
def test_every_real_video_has_a_decoder() -> None:
    with open(SHARED / "MANIFEST.csv", newline="") as file:
        paths = [SHARED / row["path"] for row in csv.DictReader(file) if row["path"].startswith("media/dev/video_")]
    if not paths:
        pytest.skip("no videos under media/dev")
    decoders = {str(probe(str(path), LIMITS)["decoder"]) for path in paths}
    assert decoders == {"decord", "pyav"}
