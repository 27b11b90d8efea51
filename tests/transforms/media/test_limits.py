"""Limits on a file: each is enforced before the work that it bounds."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import pytest

from deephotlink.pipelines.samples.synthetic_media import remux
from deephotlink.transforms import listing
from deephotlink.transforms.archives.members import ShardLimits
from deephotlink.transforms.failures import MediaError
from deephotlink.transforms.listing import ListingOptions, list_sources
from deephotlink.transforms.media import probe_file
from deephotlink.transforms.media.containers.iso_boxes import read_boxes
from deephotlink.transforms.media.probe_file import probe
from deephotlink.transforms.media.protocol import Limits
from deephotlink.transforms.staging import spool_files
from deephotlink.transforms.staging.spool_files import stage
from tests.builders import make_audio, make_gif, make_media_file, make_video
from tests.numbered import ffmpeg

LIMITS = Limits()


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    return make_video(tmp_path_factory.mktemp("limits") / "film.mp4", seconds=1, fps=10, audio=True)


def refused(path: Path, limits: Limits = LIMITS) -> str:
    with pytest.raises(MediaError) as fault:
        probe(str(path), limits)
    assert fault.value.error_class == "too_large"
    return fault.value.message


@pytest.fixture
def unopened(monkeypatch):
    """FFmpeg is not to see the file."""

    def see(*arguments):
        raise AssertionError("FFmpeg was asked")

    monkeypatch.setattr(probe_file, "open_container", see)


@pytest.mark.parametrize("constant_size", [0, 1])
def test_samples_are_counted_before_ffmpeg_makes_room_for_them(film, tmp_path, unopened, constant_size):
    data = bytearray(film.read_bytes())
    at = data.index(b"stsz") + 4
    assert struct.unpack_from(">3I", data, at) == (0, 0, 10)
    struct.pack_into(">3I", data, at, 0, constant_size, 4_000_000_000)
    (tmp_path / "a.mp4").write_bytes(data)
    said = refused(tmp_path / "a.mp4")
    assert "40000000" in said and str(LIMITS.max_samples) in said


def test_samples_of_fragments_count_though_they_take_no_bytes(film, tmp_path, monkeypatch):
    path = remux(film, tmp_path / "a.mp4", {"movflags": "frag_keyframe+empty_moov+default_base_moof"})
    honest = read_boxes(str(path)).samples
    assert honest == read_boxes(str(film)).samples > 20
    assert probe(str(path), Limits(max_samples=honest))["duration_seconds"] == pytest.approx(1, abs=0.2)
    assert f"{honest} samples" in refused(path, Limits(max_samples=honest - 1))
    data = bytearray(path.read_bytes())
    struct.pack_into(">I", data, data.index(b"trun") + 8, 4_000_000_000)
    path.write_bytes(data)
    assert "400000" in refused(path)


def test_pcm_has_no_entry_a_sample(tmp_path):
    """An hour of it declares 172,800,000 samples, and costs nothing."""
    sound = make_audio(tmp_path / "a.mov", seconds=2, options={"c:a": "pcm_s16le"})
    assert read_boxes(str(sound)).samples == 0
    assert probe(str(sound), Limits(max_samples=100))["duration_seconds"] == pytest.approx(2, abs=0.01)


@pytest.mark.parametrize("kind", [b"mdia", b"minf", b"edts", b"stbl"])
def test_boxes_nest_only_so_deep(film, tmp_path, unopened, kind):
    data = b""
    for outer in [kind] * 5000 + [b"trak", b"moov"]:
        data = struct.pack(">I4s", len(data) + 8, outer) + data
    (tmp_path / "deep.mp4").write_bytes(film.read_bytes()[:32] + data)
    assert refused(tmp_path / "deep.mp4") == "boxes nested 17 deep or deeper: at most 16 levels are allowed"
    assert 5 <= read_boxes(str(film)).depth <= 7


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".ts"])
def test_streams_are_counted_whatever_the_container(film, tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    ffmpeg("-i", film, *["-map", "0:v"] * 5, "-c", "copy", path)
    assert len(probe(str(path), Limits(max_streams=5))["streams"]) == 5
    assert "streams" in refused(path, Limits(max_streams=3))


def test_tracks_are_counted_before_ffmpeg_is_asked(film, unopened):
    assert refused(film, Limits(max_streams=1)) == "2 streams: at most 1 are allowed"


CODECS = {
    "gif": ["-c:v", "gif"],
    "avi": ["-c:v", "mpeg4"],
    "raw.avi": ["-c:v", "rawvideo", "-pix_fmt", "bgr24"],
    "h264.mkv": ["-c:v", "libx264"],
    "ffv1.mkv": ["-c:v", "ffv1"],
    "mjpeg.mkv": ["-c:v", "mjpeg"],
    "webm": ["-c:v", "libvpx"],
    "vp9.webm": ["-c:v", "libvpx-vp9"],
    "flv": ["-c:v", "flv1"],
    "ogv": ["-c:v", "libtheora"],
    "mpg": ["-c:v", "mpeg2video"],
    "ts": ["-c:v", "libx264"],
    "wmv": ["-c:v", "wmv2"],
    "mxf": ["-c:v", "mpeg2video"],
}


SILENT = ("gif", "mxf", "ogv")
"""No sound in them, or none that this FFmpeg writes without more ado."""


@pytest.mark.parametrize(
    ("name", "sound"), [(name, sound) for name in CODECS for sound in (False, True) if not (sound and name in SILENT)]
)
def test_pixels_are_counted_whatever_the_container(tmp_path, name, sound):
    path = tmp_path / f"a.{name}"
    inputs = ["-f", "lavfi", "-i", "testsrc2=size=320x240:rate=25:duration=0.4"]
    inputs += ["-f", "lavfi", "-i", "sine=440:sample_rate=44100:duration=0.4"] if sound else []
    ffmpeg(*inputs, *CODECS[name], path)
    # twice: FFmpeg's log leaves out what it has just said
    assert refused(path, Limits(max_pixels=70_000)) == "320×240: at most 70000 pixels are allowed"
    assert refused(path, Limits(max_pixels=70_000)) == "320×240: at most 70000 pixels are allowed"
    assert probe(str(path), Limits(max_pixels=320 * 240))["primary_video"]["width"] == 320


def element(key: bytes, body: bytes) -> bytes:
    return key + struct.pack(">Q", len(body) | 1 << 56) + body


def matroska(codec: bytes, width: int, height: int, kind: bytes) -> bytes:
    """A Matroska or WebM file of one track of that size, with frames of noise."""
    size = element(b"\xb0", struct.pack(">I", width)) + element(b"\xba", struct.pack(">I", height))
    track = element(b"\xd7", b"\1") + element(b"\x73\xc5", b"\1") + element(b"\x83", b"\1") + element(b"\x86", codec)
    blocks = b"".join(element(b"\xa3", b"\x81" + struct.pack(">hB", n, 0x80) + bytes(range(250))) for n in range(5))
    return element(b"\x1a\x45\xdf\xa3", element(b"\x42\x82", kind)) + element(
        b"\x18\x53\x80\x67",
        element(b"\x16\x54\xae\x6b", element(b"\xae", track + element(b"\xe0", size)))
        + element(b"\x1f\x43\xb6\x75", element(b"\xe7", b"\0") + blocks),
    )


@pytest.mark.parametrize(
    ("name", "size"),
    [("gif", 65535), ("avi", 60000), ("V_VP8", 65535), ("V_FFV1", 65535), ("V_VP9", 16000), ("V_MJPEG", 8000)],
)
def test_frames_that_no_decoder_may_make_are_too_large(tmp_path, name, size):
    path = tmp_path / "a"
    if name == "gif":
        data = bytearray(make_gif(tmp_path / "a.gif").read_bytes())
        struct.pack_into("<HH", data, 6, size, size)
    elif name == "avi":
        ffmpeg("-f", "lavfi", "-i", "testsrc2=duration=0.2", *CODECS["raw.avi"], tmp_path / "a.avi")
        data = bytearray((tmp_path / "a.avi").read_bytes())
        struct.pack_into("<ii", data, data.index(b"strf") + 12, size, size)
    else:
        data = bytearray(matroska(name.encode(), size, size, b"webm" if "VP" in name else b"matroska"))
    path.write_bytes(data)
    assert refused(path) == f"{size}×{size}: at most {LIMITS.max_pixels} pixels are allowed"


def test_a_file_over_the_bytes_is_refused_where_it_lies_and_unread(film, tmp_path, monkeypatch):
    file = make_media_file(film)
    assert stage(file, tmp_path, max_bytes=file.size_bytes).path == str(film)
    monkeypatch.setattr(spool_files, "open_blob", None)
    with pytest.raises(MediaError, match=f"too_large: {file.size_bytes} bytes: at most 100 are allowed"):
        stage(file, tmp_path, max_bytes=100)


def test_the_listing_refuses_by_bytes_before_it_hashes_and_never_an_archive_as_such(film, tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(film, "film.mp4")
        archive.writestr("small.mp4", film.read_bytes()[:90])
    (tmp_path / "film.mp4").write_bytes(film.read_bytes())
    (tmp_path / "notes.txt").write_text("no media " * 100)
    hashed = []
    monkeypatch.setattr(listing, "content", lambda file, blob: hashed.append(file.uri) or [b""])
    options = ListingOptions(identity="content", limits=ShardLimits(max_bytes=100))
    told = {}
    for file, outcome in list_sources([str(tmp_path)], options):
        how = outcome and (outcome.failure.message if outcome.failure else outcome.skipped_reason)
        told[file.uri.replace(str(tmp_path), "")] = how
    size = film.stat().st_size
    assert told == {
        "zip://film.mp4::/a.zip": f"{size} bytes: at most 100 are allowed",
        "zip://small.mp4::/a.zip": None,
        "/a.zip": "shard",
        "/film.mp4": f"{size} bytes: at most 100 are allowed",
        "/notes.txt": "not_media",
    }
    assert hashed == [f"zip://small.mp4::{tmp_path}/a.zip"]


def test_members_that_share_their_bytes_are_not_all_read(tmp_path):
    """Fifield's bomb: the ratio of each member is honest, that of the archive is not."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.wav", b"RIFF" + bytes(100_000))
        archive.writestr("b.wav", b"RIFF" + bytes(50_000))
        for called in ("c.wav", "d.wav"):  # the directory says that they lie where a.wav does
            twin = zipfile.ZipInfo(called)
            first = archive.getinfo("a.wav")
            for name in ("header_offset", "compress_size", "file_size", "CRC", "compress_type"):
                setattr(twin, name, getattr(first, name))
            archive.filelist.append(twin)
    (tmp_path / "bomb.zip").write_bytes(out.getvalue())
    outcomes = [outcome for _, outcome in list_sources([str(tmp_path / "bomb.zip")])]
    told = [outcome and outcome.failure and outcome.failure.error_class for outcome in outcomes]
    assert sorted(told, key=str) == [None, None, "damaged_archive", "damaged_archive"]
