"""The sample archive holds what its README says, and the functions that make media make what they are asked for."""

from __future__ import annotations

import io
import os
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import av
import c2pa
import imageio_ffmpeg
import numpy as np
import pytest

from deephotlink.pipelines.samples import archive
from deephotlink.pipelines.samples.synthetic_media import face_frames, make_sound, speech_envelope
from deephotlink.transforms.failures import UsageError
from tests.builders import (
    FakeDetector,
    is_marked,
    make_audio,
    make_clip,
    make_face_video,
    make_item,
    make_video,
    read_barcode,
)

FORMATS = "mov,mp4,m4a,matroska,webm,avi,mpegts,gif,mp3,flac"


def opened(path: Path) -> Any:
    return av.open(str(path), options={"format_whitelist": FORMATS})


def sizes_and_frames(path: Path) -> tuple[int, int, int]:
    """Coded width and height, and how many frames can be decoded."""
    with opened(path) as container:
        stream = container.streams.video[0]
        return stream.codec_context.width, stream.codec_context.height, sum(1 for _ in container.decode(stream))


def ffmpeg_frames(path: Path, size: tuple[int, int]) -> np.ndarray:
    """uint8 [N, H, W, 3]: every frame as ffmpeg's own command shows it (rotation applied)."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path)]
    command += ["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(command, check=True, capture_output=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, size[1], size[0], 3)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".ts", ".webm", ".avi"])
def test_the_interview_has_pictures_and_sound_in_every_container(sample_archive: Path, suffix: str) -> None:
    path = sample_archive / f"interview{suffix}"
    seconds = 3 if suffix in (".webm", ".avi") else 6
    width, height, frames = sizes_and_frames(path)
    assert (width, height) == (320, 240)
    assert abs(frames - 25 * seconds) <= 1
    with opened(path) as container:
        spoken = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)]).astype(float)
    assert spoken.std() > 0


def test_every_kind_is_there(sample_archive: Path) -> None:
    assert (sample_archive / "copy/interview.mp4").read_bytes() == (sample_archive / "interview.mp4").read_bytes()
    assert (sample_archive / "dubbed.mp4").read_bytes() != (sample_archive / "interview.mp4").read_bytes()
    with opened(sample_archive / "phone.mov") as container:
        assert container.metadata["com.apple.quicktime.make"] == "Apple"
        assert container.metadata["creation_time"].startswith("2025-06-01")
        frame = next(container.decode(video=0))
        assert abs(frame.rotation) == 90 and (frame.width, frame.height) == (320, 240)
    with opened(sample_archive / "silent.mp4") as container:
        assert not container.streams.audio
    with opened(sample_archive / "open-gop.mp4") as container:
        assert container.streams.video[0].codec_context.name == "hevc"
    with opened(sample_archive / "film.mp4") as container:
        assert container.duration / av.time_base == pytest.approx(60, abs=0.2)
    assert sizes_and_frames(sample_archive / "animation.gif") == (120, 90, 12)
    for suffix in ("flac", "mp3", "m4a"):
        with opened(sample_archive / f"speech.{suffix}") as container:
            assert not container.streams.video and container.streams.audio
    names = os.listdir(os.fsencode(sample_archive / "names"))
    assert any(b"\n" in name for name in names) and any(name.startswith(b"-") for name in names)
    contents = [(sample_archive / "names" / os.fsdecode(name)).read_bytes() for name in names]
    assert len(set(contents)) == len(contents) >= 6


def test_the_open_gop_is_one(sample_archive: Path) -> None:
    """Pictures shown before a key frame that come after it in the file: decoding from that key frame loses them."""
    with opened(sample_archive / "open-gop.mp4") as container:
        packets = [packet for packet in container.demux(video=0) if packet.pts is not None]
    keys = [number for number, packet in enumerate(packets) if packet.is_keyframe]
    assert len(keys) > 2
    assert any(packet.pts < packets[keys[1]].pts for packet in packets[keys[1] + 1 :])


def test_declared_sources(sample_archive: Path) -> None:
    def read(name: str) -> tuple[str | None, str]:
        with c2pa.Reader(str(sample_archive / "declared" / name)) as reader:
            return reader.get_validation_state(), reader.json()

    state, manifest = read("signed-ai.mp4")
    assert state != "Invalid" and "trainedAlgorithmicMedia" in manifest
    state, manifest = read("signed-camera.mp4")
    assert state != "Invalid" and "digitalCapture" in manifest
    state, manifest = read("signed-then-changed.mp4")
    assert state == "Invalid" and "assertion.bmffHash.mismatch" in manifest
    assert sizes_and_frames(sample_archive / "declared/signed-then-changed.mp4")[2] == 75
    with opened(sample_archive / "declared/tagged-ai.mp4") as container:
        assert "aigc_info" in container.metadata and container.metadata["software"] == "Sora"


def test_damaged_files_are_damaged(sample_archive: Path) -> None:
    folder = sample_archive / "damaged"
    for name in ("no-index.mp4", "header-only.mp4", "empty.mp4"):
        with pytest.raises(av.error.FFmpegError):
            opened(folder / name)
    with opened(folder / "cut-short.mp4") as container:
        stream = container.streams.video[0]
        assert stream.frames == 150
        assert sum(packet.size > 0 for packet in container.demux(stream)) < 150
    assert (folder / "bits-flipped.mp4").stat().st_size == (sample_archive / "interview.mp4").stat().st_size


def test_hostile_files_are_small_and_call_themselves_media(sample_archive: Path) -> None:
    folder = sample_archive / "hostile"
    assert all(path.stat().st_size < 200_000 for path in folder.iterdir())
    for name in ("playlist.mp4", "session.mp4"):
        with pytest.raises(av.error.FFmpegError):
            opened(folder / name)
    with opened(folder / "giant.mp4") as container:
        context = container.streams.video[0].codec_context
        assert (context.width, context.height) == (archive.GIANT_SIDE, archive.GIANT_SIDE)
    with zipfile.ZipFile(folder / "swells.zip") as zipped:
        [member] = zipped.infolist()
        assert member.file_size > 500 * member.compress_size
        with zipped.open(member) as stream:
            assert stream.read(12)[4:] == b"ftypisom"


def test_shards_hold_playable_members(sample_archive: Path) -> None:
    with zipfile.ZipFile(sample_archive / "shards/uploads.zip") as archive:
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
        with av.open(io.BytesIO(archive.read("uploads/portrait.mp4"))) as container:
            assert sum(1 for _ in container.decode(video=0)) == 50


def test_a_sample_that_is_there_is_left_alone(sample_archive: Path) -> None:
    before = sample_archive.stat().st_mtime_ns, len(list(sample_archive.rglob("*")))
    archive.make_sample(sample_archive)
    assert (sample_archive.stat().st_mtime_ns, len(list(sample_archive.rglob("*")))) == before
    assert [path.name for path in sample_archive.parent.iterdir()] == ["archive"]


def test_other_peoples_folders_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "holiday.txt").write_text("mine")
    with pytest.raises(UsageError, match="something else"):
        archive.make_sample(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.txt"]


def test_a_sample_is_made_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(root: Path) -> None:
        assert root.is_dir() and root.parent == tmp_path
        raise KeyboardInterrupt

    monkeypatch.setattr(archive, "_make_plain", stop)
    with pytest.raises(KeyboardInterrupt):
        archive.make_sample(tmp_path / "archive")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("rotate", [0, 90, 180, 270])
def test_barcodes_can_be_read_as_displayed(tmp_path: Path, rotate: int) -> None:
    path = make_video(tmp_path / "a.mp4", seconds=2, fps=15, pattern="barcode", rotate=rotate, gop=7)
    assert [read_barcode(frame) for frame in ffmpeg_frames(path, (192, 144))] == list(range(30))


def test_equal_arguments_give_equal_bytes(tmp_path: Path) -> None:
    first, second = (make_face_video(tmp_path / f"{name}.mp4", seconds=1, fps=10, size=(160, 120)) for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    assert make_audio(tmp_path / "a.mp3", 1).read_bytes() == make_audio(tmp_path / "b.mp3", 1).read_bytes()


def test_names_are_never_taken_for_options_or_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_video(Path("-y %03d:a.mp4"), seconds=0.5)
    assert [path.name for path in tmp_path.iterdir()] == ["-y %03d:a.mp4"]


def test_the_mouth_is_dark_when_the_voice_is_loud() -> None:
    frames = np.stack(list(face_frames(100, 25, (160, 120), speech=True))).astype(float)
    still = np.stack(list(face_frames(100, 25, (160, 120), speech=False))).astype(float)
    darkness = (still - frames).clip(0).sum(axis=(1, 2, 3))
    assert np.corrcoef(darkness, speech_envelope(np.arange(100) / 25))[0, 1] > 0.9
    loudness = np.abs(make_sound(4)).reshape(100, -1).mean(axis=1)
    assert np.corrcoef(darkness, loudness)[0, 1] > 0.8


def test_the_fake_detector_obeys() -> None:
    detector = FakeDetector(logit=3.0, raise_on_marked=True)
    assert [answer.logit for answer in detector.score([make_item(), make_item(seed=1)])] == [3.0, 3.0]
    with pytest.raises(ValueError, match="marked"):
        detector.score([make_item(), make_item(marked=True)])
    assert detector.batches == [2, 2]
    for unit in ("media", "clip", "face_track", "audio_window"):
        assert is_marked(make_item(unit, marked=True)) and not is_marked(make_item(unit))
    tracks = make_clip(tracks=2).tracks
    assert tracks is not None and [track.track_id for track in tracks] == [0, 1]
