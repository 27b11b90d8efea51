"""Which streams are decoded, and that the others are named in the reasons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deephotlink.models.signals.speech import analyse_speech
from deephotlink.pipelines.samples.encoding import write_wav
from deephotlink.pipelines.samples.synthetic_media import make_sound
from deephotlink.transforms.clips import Sampling, plan_decoding
from deephotlink.transforms.decode import DecodeTally, decode_request
from deephotlink.transforms.failures import MediaError
from deephotlink.transforms.fuse import fuse_media
from deephotlink.transforms.media.decoders.decode_file import decode_items
from deephotlink.transforms.media.decoders.sound import SoundMix
from deephotlink.transforms.media.probe_file import probe
from deephotlink.transforms.media.protocol import Limits, SoundSource
from deephotlink.transforms.probe import probe_from_facts
from deephotlink.transforms.records import MediaOutcome, MediaProbe, WindowSpec
from tests.builders import FakeDetector, make_media_file
from tests.misleading_media import X264
from tests.numbered import ffmpeg, make_numbered

LIMITS = Limits()
SECONDS = 6
MXF = ("-c:v", "mpeg2video", "-q:v", "4", "-c:a", "pcm_s16le", "-ar", "48000")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sounds and a film of six seconds: speech.wav, other.wav (another speaker), silence.wav, tone.wav, film.mp4."""
    folder = tmp_path_factory.mktemp("parts")
    rate = 48_000
    sounds = {
        "speech": make_sound(SECONDS, rate, "speechlike"),
        "other": make_sound(SECONDS, rate, "speechlike", seed=9),
        "silence": make_sound(SECONDS, rate, "silence"),
        "tone": 0.5 * make_sound(SECONDS, rate, "tone"),
    }
    for name, samples in sounds.items():
        write_wav(folder / f"{name}.wav", samples * 32767, rate)
    make_numbered(folder / "film.mp4", 25 * SECONDS, 25, *X264)
    make_numbered(folder / "small.mp4", 25 * SECONDS, 25, *X264, "-vf", "scale=96:64")
    ffmpeg("-f", "lavfi", "-i", "testsrc=s=256x256", "-frames:v", "1", folder / "cover.jpg")
    return folder


def mux(path: Path, parts: Path, *sounds: str, options: tuple[str, ...] = (), video: bool = True) -> Path:
    """The film with these sounds as streams of their own, in this order."""
    inputs = ["film.mp4"] * video + [f"{name}.wav" for name in sounds]
    command: list[str | Path] = [part for name in inputs for part in ("-i", parts / name)]
    for n in range(len(inputs)):
        command += ["-map", str(n)]
    ffmpeg(*command, *options, path)
    return path


def found(path: Path) -> tuple[dict[str, Any], MediaProbe]:
    facts = probe(str(path), LIMITS)
    return facts, probe_from_facts(make_media_file(path), str(path), facts, None)


def heard(path: Path, media: MediaProbe) -> np.ndarray:
    assert media.audio is not None
    with SoundMix(str(path), LIMITS, media.audio.sources) as sound:
        return sound.read(0, SECONDS * 16_000)


def is_like(sound: np.ndarray, parts: Path, name: str) -> float:
    """How far a sound goes along with one of the parts, in [0, 1]."""
    with SoundMix(str(parts / f"{name}.wav"), LIMITS) as other:
        theirs = other.read(0, SECONDS * 16_000)
    length = min(len(sound), len(theirs)) - 4_000
    # Codecs delay: the best of a few shifts.
    ours = sound[2_000 : 2_000 + length - 2_000]
    shifts = range(0, 4_000, 1) if name != "tone" else range(1_900, 2_100)
    spectrum = np.fft.irfft(np.fft.rfft(theirs, 1 << 18) * np.conj(np.fft.rfft(ours, 1 << 18)))
    best = float(np.abs(spectrum[shifts.start : shifts.stop]).max())
    return best / (float(np.linalg.norm(ours) * np.linalg.norm(theirs[: len(ours) + 2_000])) or 1.0)


def outcome_of(path: Path, media: MediaProbe) -> MediaOutcome:
    window = (WindowSpec(0, 0, 32_000, "audio"),) if media.audio is not None else ()
    geometry = FakeDetector().spec.clip
    plan = plan_decoding(media, Sampling(), lambda _: geometry, False, lambda _: window)
    tally = DecodeTally(plan)
    for item in decode_items(decode_request(plan), LIMITS):
        tally.add(item)
    return tally.outcome()


def test_the_one_track_of_eight_in_which_somebody_speaks_is_heard(parts: Path, tmp_path: Path) -> None:
    path = mux(tmp_path / "a.mxf", parts, *["silence"] * 2, "speech", *["silence"] * 5, options=MXF)
    facts, media = found(path)
    assert media.audio is not None
    assert media.audio.sources == tuple(SoundSource(n, audible=n == 3) for n in range(1, 9))
    sound = heard(path, media)
    assert is_like(sound, parts, "speech") > 0.95 and np.abs(sound).max() > 0.3
    assert facts["notes"] == []


def test_a_track_that_is_silent_at_first_is_heard_later(parts: Path, tmp_path: Path) -> None:
    """A minute, in which somebody speaks on one track of four for a moment that nobody happens to try."""
    speech = (tmp_path / "late.wav", make_sound(1.5, 48_000, "speechlike"))
    late = np.zeros(60 * 48_000, np.float32)
    late[2_700_000 : 2_700_000 + len(speech[1])] = speech[1]
    write_wav(speech[0], late * 32767, 48_000)
    inputs = [part for _ in range(3) for part in ("-i", parts / "tone.wav")] + ["-i", speech[0]]
    maps = [part for n in range(4) for part in ("-map", str(n))]
    ffmpeg(*inputs, *maps, "-c:a", "pcm_s16le", tmp_path / "a.mov")
    _, media = found(tmp_path / "a.mov")
    assert media.audio is not None and [s.audible for s in media.audio.sources] == [True, True, True, False]
    with SoundMix(str(tmp_path / "a.mov"), LIMITS, media.audio.sources) as mix:
        assert np.abs(mix.read(900_000, 924_000)).max() > 0.1


@pytest.mark.parametrize("suffix", [".mxf", ".mov", ".mkv"])
def test_mono_tracks_of_one_recording_are_heard_together(suffix: str, parts: Path, tmp_path: Path) -> None:
    path = mux(tmp_path / f"a{suffix}", parts, "tone", "other", "silence", "speech", options=MXF)
    facts, media = found(path)
    assert media.audio is not None
    assert [(source.stream, source.audible) for source in media.audio.sources] == [
        (1, True),
        (2, True),
        (3, False),
        (4, True),
    ]
    sound = heard(path, media)
    assert min(is_like(sound, parts, name) for name in ("tone", "other", "speech")) > 0.3
    assert facts["notes"] == []


@pytest.mark.parametrize("channel", range(6))
@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "ac3"), (".mkv", "flac"), (".mov", "pcm_s16le")])
def test_speech_on_any_channel_is_heard(channel: int, suffix: str, codec: str, parts: Path, tmp_path: Path) -> None:
    """On the low-frequency one of 5.1 too: broadcasts put there what they like."""
    if codec == "ac3" and channel == 3:
        pytest.skip("AC-3 itself cuts that channel at 120 Hz")
    pan = "pan=5.1|" + "|".join(f"c{n}={'c0' if n == channel else '0*c0'}" for n in range(6))
    ffmpeg(
        *("-i", parts / "film.mp4", "-i", parts / "speech.wav", "-map", "0", "-map", "1", "-c:v", "copy"),
        *("-af", pan, "-c:a", codec, tmp_path / f"a{suffix}"),
    )
    path = tmp_path / f"a{suffix}"
    _, media = found(path)
    assert media.audio is not None and media.audio.sources == (SoundSource(1, 1),)
    sound = heard(path, media)
    assert is_like(sound, parts, "speech") > 0.9
    speech = analyse_speech(sound)
    assert speech is not None and speech.level_db > -50


def test_eight_channels_without_a_layout(parts: Path, tmp_path: Path) -> None:
    """What FFmpeg would call 7.1 and mix down without its fourth channel."""
    pan = "pan=8c|" + "|".join(f"c{n}={'c0' if n == 3 else '0*c0'}" for n in range(8))
    path = tmp_path / "a.mov"
    ffmpeg("-i", parts / "speech.wav", "-af", pan, "-c:a", "pcm_s24le", path)
    _, media = found(path)
    assert media.audio is not None and media.audio.sources == (SoundSource(0, 1),)
    assert is_like(heard(path, media), parts, "speech") > 0.95


def test_of_two_languages_one_is_heard_and_the_other_is_named(parts: Path, tmp_path: Path) -> None:
    languages = ("-metadata:s:a:0", "language=eng", "-metadata:s:a:1", "language=fra", "-metadata:s:a:1", "title=Voix")
    path = mux(tmp_path / "a.mkv", parts, "speech", "other", options=("-c:v", "copy", "-c:a", "flac", *languages))
    facts, media = found(path)
    assert media.audio is not None and media.audio.sources == (SoundSource(1),)
    assert facts["notes"] == ['not listened to: a second sound track (stream 2, fra, "Voix")']
    assert is_like(heard(path, media), parts, "speech") > 0.95


@pytest.mark.parametrize("first", ["silence", "tone"])
def test_where_somebody_speaks_is_listened_to(first: str, parts: Path, tmp_path: Path) -> None:
    path = mux(tmp_path / "a.mkv", parts, first, "speech", options=("-c:v", "copy", "-c:a", "aac", "-ac", "2"))
    facts, media = found(path)
    assert media.audio is not None and media.audio.sources == (SoundSource(2),)
    assert is_like(heard(path, media), parts, "speech") > 0.9
    kind = "a sound track that seems silent" if first == "silence" else "a second sound track"
    assert facts["notes"] == [f"not listened to: {kind} (stream 1)"]


def test_a_second_stream_of_pictures_is_named(parts: Path, tmp_path: Path) -> None:
    two = ("-i", parts / "film.mp4", "-i", parts / "small.mp4", "-map", "0", "-map", "1", "-c", "copy")
    for suffix in (".mp4", ".mkv", ".ts"):
        path = tmp_path / f"a{suffix}"
        ffmpeg(*two, path)
        facts, media = found(path)
        assert facts["notes"] == ["not looked at: a second video stream (stream 1, 96x64)"], suffix
        assert media.video is not None and (media.video.index, media.video.width) == (0, 192)


COVERS = {
    "mp3, flagged": ("a.mp3", ("-c:a", "libmp3lame", "-c:v", "copy", "-disposition:v", "attached_pic")),
    "m4a, flagged": ("a.m4a", ("-c:a", "aac", "-c:v", "copy", "-disposition:v", "attached_pic")),
    "mp4, not flagged": ("a.mp4", ("-c:a", "aac", "-c:v", "copy", "-f", "mp4")),
    "mov, not flagged": ("a.mov", ("-c:a", "aac", "-c:v", "copy")),
    "mp4, H.264": ("a.mp4", ("-c:a", "aac", *X264, "-pix_fmt", "yuv420p")),
    "mkv, not flagged": ("a.mkv", ("-c:a", "aac", "-c:v", "copy")),
    "ts, H.264": ("a.ts", ("-c:a", "aac", *X264, "-pix_fmt", "yuv420p")),
    "flac, flagged": ("a.flac", ("-c:a", "flac", "-c:v", "copy", "-disposition:v", "attached_pic")),
}


@pytest.mark.parametrize("case", COVERS)
def test_cover_art_makes_no_film(case: str, parts: Path, tmp_path: Path) -> None:
    name, options = COVERS[case]
    path = tmp_path / name
    ffmpeg("-i", parts / "speech.wav", "-i", parts / "cover.jpg", "-map", "0", "-map", "1", *options, path)
    facts, media = found(path)
    assert media.media_type == "audio" and media.video is None and media.audio is not None
    assert facts["duration_seconds"] == pytest.approx(SECONDS, abs=0.2)
    (note,) = facts["notes"]
    assert note.startswith("not looked at: ") and "cover art" in note
    outcome = outcome_of(path, media)
    assert (outcome.status, outcome.has_video, outcome.clips_planned) == ("read", False, 0)
    assert outcome.assessed_seconds == pytest.approx(2)


def test_one_picture_without_sound_is_a_film_of_one_picture(parts: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    ffmpeg("-i", parts / "cover.jpg", *X264, "-pix_fmt", "yuv420p", path)
    facts, media = found(path)
    assert media.media_type == "video" and facts["notes"] == []
    assert outcome_of(path, media).clips_decoded == 1


def cut_in_mid_gop(parts: Path, tmp_path: Path, gop: str, sound: bool = True) -> Path:
    """A transport stream without its first 8 kB, in which the first key frame was."""
    path = tmp_path / "a.ts"
    codecs = ("-c:v", "libx264", "-preset", "veryfast", "-bf", "0", "-g", gop, "-x264-params", "scenecut=0")
    inputs = ("-i", parts / "film.mp4", *(("-i", parts / "speech.wav") if sound else ()))
    ffmpeg(*inputs, *codecs, "-c:a", "mp2", path)
    path.write_bytes(path.read_bytes()[188 * 80 :])
    return path


def test_a_picture_that_cannot_be_opened_is_a_picture(parts: Path, tmp_path: Path) -> None:
    path = cut_in_mid_gop(parts, tmp_path, "1000")
    facts, media = found(path)
    assert media.media_type == "video" and media.video is not None and media.video.unreadable is not None
    assert facts["notes"] == [f"not looked at: the video stream (stream 0: {media.video.unreadable})"]
    outcome = outcome_of(path, media)
    assert (outcome.status, outcome.has_video, outcome.has_audio) == ("read", True, True)
    assert (outcome.clips_planned, outcome.clips_decoded, outcome.frames_kept) == (1, 0, 0)
    face, ear = FakeDetector(unit="face_track", name="face").spec, FakeDetector(unit="audio_window", name="ear").spec
    result = fuse_media([outcome], [face, ear], calibration())
    assert [(row.detector, row.abstained) for row in result.evidence if row.detector == "face"] == [
        ("face", "decode_failed")
    ]
    assert result.score is not None and facts["notes"][0] in result.score.reasons


def test_a_picture_that_begins_late_is_looked_at_from_there(parts: Path, tmp_path: Path) -> None:
    path = cut_in_mid_gop(parts, tmp_path, "100")
    facts, media = found(path)
    assert media.video is not None and media.video.unreadable is None and media.video.width == 192
    assert media.video.start_seconds > 1 and "not looked at: the first" in facts["notes"][0]
    outcome = outcome_of(path, media)
    assert outcome.clips_decoded == outcome.clips_planned == 1 and not outcome.damage


def test_without_sound_a_picture_that_cannot_be_opened_is_a_failure(parts: Path, tmp_path: Path) -> None:
    path = cut_in_mid_gop(parts, tmp_path, "1000", sound=False)
    _, media = found(path)
    outcome = outcome_of(path, media)
    assert outcome.status == "failed" and outcome.failure is not None
    assert (outcome.failure.stage, outcome.failure.error_class) == ("decode", "decode_failed")
    assert "cannot be opened" in outcome.failure.message


def test_a_codec_that_nobody_knows_is_no_missing_picture(parts: Path, tmp_path: Path) -> None:
    path = mux(tmp_path / "a.mov", parts, "speech", options=("-c:v", "copy", "-c:a", "aac"))
    data = path.read_bytes()
    path.write_bytes(data.replace(b"avc1\0\0\0\0\0\0", b"zzzz\0\0\0\0\0\0"))
    _, media = found(path)
    assert media.media_type == "video" and media.video is not None
    assert media.video.unreadable == "no decoder for the codec zzzz"
    assert outcome_of(path, media).status == "read"


def test_fonts_are_no_streams(parts: Path, tmp_path: Path) -> None:
    (tmp_path / "font.ttf").write_bytes(b"\0\1\0\0" + bytes(60))
    path = tmp_path / "a.mkv"
    fonts: list[str | Path] = []
    for n in range(70):
        fonts += ["-attach", tmp_path / "font.ttf", f"-metadata:s:t:{n}", "mimetype=application/x-truetype-font"]
    ffmpeg("-i", parts / "film.mp4", "-c", "copy", *fonts, path)
    assert len(probe(str(path), LIMITS)["streams"]) == 71
    with pytest.raises(MediaError, match="1 streams and 70 attachments: at most 0 streams are allowed"):
        probe(str(path), Limits(max_streams=0))


def test_a_film_behind_a_film_is_named(parts: Path, tmp_path: Path) -> None:
    for suffix, options in ((".mp4", ()), (".flv", ()), (".wmv", ("-c:v", "wmv2"))):
        one = tmp_path / f"one{suffix}"
        ffmpeg("-i", parts / "film.mp4", *(options or ("-c", "copy")), one)
        path = tmp_path / f"two{suffix}"
        path.write_bytes(one.read_bytes() * 2)
        (note,) = probe(str(path), LIMITS)["notes"]
        assert note.startswith("not looked at: a second recording after the first in the same file"), suffix
        assert f"from byte {one.stat().st_size})" in note, suffix
        assert probe(str(one), LIMITS)["notes"] == []


def calibration() -> Any:
    from deephotlink.models.calibration.calibration import load_calibration

    return load_calibration()


def test_a_hostile_answer_about_streams_is_not_believed() -> None:
    facts = {
        "format": "x",
        "media_type": "audio",
        "duration_seconds": 1.0,
        "primary_audio": {"codec": "aac", "sample_rate": 8000, "channels": 1, "sources": [[-1, 0, 1]]},
    }
    with pytest.raises(MediaError, match="not a plausible count"):
        probe_from_facts(make_media_file(), "x", facts, None)
    with pytest.raises(MediaError, match="clock"):
        probe_from_facts(make_media_file(), "x", {**facts, "primary_audio": None, "clock": "mine"}, None)
