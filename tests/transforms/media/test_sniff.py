"""File kinds by their first bytes: files made by ffmpeg or the standard library, and all real material."""

import csv
import io
import subprocess
import tarfile
import zipfile
from pathlib import Path

import imageio_ffmpeg
import pytest

from deephotlink.transforms.media.containers.sniff import HEAD_BYTES, sniff

SHARED = Path(__file__).resolve().parents[4] / "shared"

PICTURE = ["-f", "lavfi", "-i", "testsrc=size=64x48:rate=10:duration=0.5"]
SOUND = ["-f", "lavfi", "-i", "sine=frequency=300:duration=0.5:sample_rate=48000"]
MADE = [
    # muxer, input, more options, media type, suffix, unsupported
    ("mp4", PICTURE, [], "video", ".mp4", False),
    ("mov", PICTURE, [], "video", ".mov", False),
    ("3gp", PICTURE, ["-c:v", "mpeg4"], "video", ".3gp", False),
    ("ipod", SOUND, ["-c:a", "aac"], "audio", ".m4a", False),
    ("matroska", PICTURE, ["-c:v", "mpeg4"], "video", ".mkv", False),
    ("webm", PICTURE, ["-c:v", "libvpx"], "video", ".webm", False),
    ("avi", PICTURE, ["-c:v", "mpeg4"], "video", ".avi", False),
    ("flv", PICTURE, ["-c:v", "flv"], "video", ".flv", False),
    ("asf", PICTURE, ["-c:v", "wmv2"], "video", ".asf", False),
    ("mpegts", PICTURE, ["-c:v", "mpeg2video"], "video", ".ts", False),
    ("mpeg", PICTURE, ["-c:v", "mpeg1video", "-r", "25"], "video", ".mpg", False),
    ("mxf", PICTURE, ["-c:v", "mpeg2video", "-r", "25"], "video", ".mxf", False),
    ("gif", PICTURE, [], "gif", ".gif", False),
    ("ogg", PICTURE, ["-c:v", "libtheora"], "video", ".ogv", False),
    ("ogg", SOUND, ["-c:a", "libvorbis"], "audio", ".ogg", False),
    ("mp3", SOUND, ["-id3v2_version", "0", "-write_xing", "0"], "audio", ".mp3", False),
    ("mp3", SOUND, [], "audio", ".mp3", False),
    ("adts", SOUND, ["-c:a", "aac"], "audio", ".aac", False),
    ("flac", SOUND, [], "audio", ".flac", False),
    ("wav", SOUND, [], "audio", ".wav", False),
    ("wav", SOUND, ["-rf64", "always"], "audio", ".wav", False),
    ("aiff", SOUND, [], "audio", ".aiff", False),
    ("caf", SOUND, [], "audio", ".caf", False),
    ("ac3", SOUND, [], "audio", ".ac3", False),
    ("w64", SOUND, [], "audio", ".w64", True),
    ("tta", SOUND, [], "audio", ".tta", True),
    ("wv", SOUND, [], "audio", ".wv", True),
    ("au", SOUND, [], "audio", ".au", True),
    ("h264", PICTURE, ["-c:v", "libx264"], "video", ".h264", True),
    ("hevc", PICTURE, ["-c:v", "libx265", "-x265-params", "log-level=none"], "video", ".hevc", True),
    ("mpeg2video", PICTURE, ["-c:v", "mpeg2video"], "video", ".m2v", True),
    ("ivf", PICTURE, ["-c:v", "libvpx"], "video", ".ivf", True),
    ("yuv4mpegpipe", PICTURE, ["-pix_fmt", "yuv420p"], "video", ".y4m", True),
    ("apng", PICTURE, [], "gif", ".png", False),
    ("webp", PICTURE, ["-c:v", "libwebp_anim"], "gif", ".webp", True),
]
STILLS = [
    ("image2", ["-c:v", "mjpeg", "-update", "1"]),
    ("image2", ["-c:v", "png", "-update", "1"]),
    ("image2", ["-c:v", "bmp", "-update", "1"]),
    ("image2", ["-c:v", "tiff", "-update", "1"]),
    ("image2", ["-c:v", "exr", "-pix_fmt", "gbrpf32le", "-update", "1"]),
    ("image2", ["-c:v", "jpeg2000", "-update", "1"]),
    ("image2", ["-c:v", "qoi", "-update", "1"]),
    ("webp", ["-c:v", "libwebp"]),
    ("ico", ["-c:v", "bmp"]),
]


@pytest.mark.parametrize(("muxer", "source", "more", "media_type", "suffix", "unsupported"), MADE)
def test_made_by_ffmpeg(tmp_path, muxer, source, more, media_type, suffix, unsupported) -> None:
    path = tmp_path / "made"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-threads", "1", *source, *more, "-f", muxer, str(path)]
    subprocess.run(command, check=True)
    kind = sniff(path.read_bytes()[:HEAD_BYTES])
    assert (kind.media_type, kind.suffix, kind.unsupported) == (media_type, suffix, unsupported)
    assert kind.reason is None


@pytest.mark.parametrize(("muxer", "options"), STILLS)
def test_stills_are_called_so(tmp_path, muxer, options) -> None:
    path = tmp_path / "made"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *PICTURE, "-frames:v", "1", *options, "-f", muxer]
    subprocess.run([*command, str(path)], check=True)
    assert sniff(path.read_bytes()[:HEAD_BYTES]).reason == "still_image"


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (b"", "empty"),
        (b"hello, world\n", "not_media"),
        ("日本語".encode() * 50, "not_media"),
        (b"#EXTM3U\n#EXT-X-VERSION:3\nhttp://x/a.ts\n", "not_media"),
        (b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\n", "not_media"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "not_media"),
        (b"\xff\xfeh\0e\0l\0l\0o\0 \0w\0", "not_media"),
        (b"<!DOCTYPE html>", "not_media"),
        (b'{"a": 1}', "not_media"),
        (b"%PDF-1.7\n", "not_media"),
        (b"\x7fELF\x02\x01\x01", "not_media"),
        (b"\0" * 4096, "not_media"),
        (b"G" * 4096, "not_media"),
        (b"\xff" * 4096, "not_media"),
        (b"ID3 is the name of a tag", "not_media"),
        (b"\0\0\0\x1cftypavif\0\0\0\0mif1avifmiaf", "still_image"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "still_image"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "still_image"),
        (b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 \0\0\0\0jp2 ", "still_image"),
        (b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom", "still_image"),
        (b"8BPS\0\x01" + bytes(20), "still_image"),
        (b"\xff\x0a\xfa\x7f", "still_image"),
        (b"BMW made 300 cars\n", "not_media"),
        (b"7z\xbc\xaf\x27\x1c\0\x04", "nested_archive"),
    ],
)
def test_no_media(head: bytes, reason: str) -> None:
    kind = sniff(head)
    assert (kind.media_type, kind.reason) == (None, reason)


@pytest.mark.parametrize(
    ("head", "media_type"),
    [
        (b"\0\0\0\x1cftypavis\0\0\0\0avifmsf1", "video"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1msf1hevc", "video"),
        (b"\0\0\0\x08wide\0\0\x10\0mdat", "video"),
        (b"\0\0\x10\0moov\0\0\0\x6cmvhd", "video"),
        (b"\0\0\0\x18styp msdh", "video"),
        (b"#!AMR\n\x3c", "audio"),
        (b".RMF\0\0\0\x12", "video"),
        (b"\x1f\x07\x00\xbf", "video"),
        (b"ID3\x04\0\0\0\0\x01\0" + bytes(128) + b"fLaC\0\0\0\x22", "audio"),
        (b"ID3\x03\0\0\xff\xff\xff\xff\x00\x01", "audio"),
        (b"\0\0\0\x20ftyp\x00\xff\x13\x37", "video"),
    ],
)
def test_media_also_where_damaged(head: bytes, media_type: str) -> None:
    assert sniff(head).media_type == media_type


def test_motion_is_not_dropped_with_a_picture() -> None:
    """What phones and messengers make of a film must not pass for a photo."""
    phone = sniff(b"\xff\xd8\xff\xe1\x10\0http://ns.adobe.com/xap/1.0/\0<x GCamera:MotionPhoto='1'/>" + bytes(99))
    assert phone.unsupported and "motion photo" in phone.name
    animated = b"RIFF\0\0\1\0WEBPVP8X\x0a\0\0\0\x02" + bytes(99)
    assert sniff(animated).unsupported and sniff(animated).name == "animated WebP"
    assert sniff(animated.replace(b"\x02", b"\x10")).reason == "still_image"


def test_flac_behind_an_id3_tag_is_called_flac() -> None:
    assert sniff(b"ID3\x04\0\0\0\0\x01\0" + bytes(128) + b"fLaC\0\0\0\x22").suffix == ".flac"


def test_archives_whatever_their_first_member_is_called() -> None:
    tar, zipped = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("ID3 RIFF GIF89a.mp3"))
    with zipfile.ZipFile(zipped, "w") as other:
        other.writestr("a", "b")
    assert sniff(tar.getvalue()).reason == sniff(zipped.getvalue()).reason == "nested_archive"


def test_mp3_cut_out_of_a_broadcast() -> None:
    frame = b"\xff\xfb\x90\x64" + bytes(413)
    assert sniff(bytes(range(1, 200)) + frame * 6).suffix == ".mp3"
    assert sniff((b"\xff\xfb\x90\x64" + b"\x01" * 300) * 20).media_type is None  # frames that do not follow


def test_transport_stream_that_begins_within_a_packet() -> None:
    packets = b"".join(b"G" + bytes((i + j) % 251 for j in range(187)) for i in range(20))
    assert sniff(packets[100:]).suffix == ".ts"
    blu_ray = b"".join(bytes((i, 1, 2, 3)) + packets[188 * i : 188 * i + 188] for i in range(20))
    assert sniff(blu_ray).suffix == ".ts"


@pytest.mark.real
def test_the_real_material() -> None:
    if not (SHARED / "MANIFEST.csv").exists():
        pytest.skip("no ../shared/MANIFEST.csv here")
    with open(SHARED / "MANIFEST.csv", newline="") as f:
        paths = [SHARED / row["path"] for row in csv.DictReader(f)]
    wrong = []
    for path in paths:
        if not path.is_file():
            continue
        with open(path, "rb") as f:
            kind = sniff(f.read(HEAD_BYTES))
        folder, suffix = path.relative_to(SHARED).parts[0], path.suffix.lower()
        if suffix in (".jpg", ".png", ".json", ".md", ".h5", ".onnx", ".pth") and kind.media_type:
            wrong.append((path.name, kind))
        if suffix in (".mp4", ".mkv", ".mov", ".mpg", ".flac", ".gif") and folder == "media" and not kind.media_type:
            wrong.append((path.name, kind))
    assert not wrong
