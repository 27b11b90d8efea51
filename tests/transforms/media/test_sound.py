"""Sound at 16 kHz: bit-exact if the source has that rate, and at the right sample wherever reading starts."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from deephotlink.models.base import SOUND_RATE as MODELS_RATE
from deephotlink.transforms.failures import MediaError
from deephotlink.transforms.media.decoders.sound import SOUND_RATE, SoundReader, iter_windows
from deephotlink.transforms.media.protocol import WindowRequest
from tests.numbered import FFMPEG, ffmpeg, make_numbered

SECONDS = 24


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SECONDS of stereo noise at 44.1 kHz, no second like another."""
    path = tmp_path_factory.mktemp("noise") / "noise.wav"
    rng = np.random.default_rng(0)
    samples = np.repeat(rng.normal(0, 3000, (SECONDS * 4410, 2)), 10, axis=0).astype("<i2")
    raw = ("-f", "s16le", "-ar", "44100", "-ac", "2", "-i", "-")
    subprocess.run([FFMPEG, "-v", "error", "-y", *raw, str(path)], input=samples.tobytes(), check=True)
    return path


def read_slice(path: str, start_seconds: float, end_seconds: float) -> np.ndarray:
    with SoundReader(path) as reader:
        return reader.read(round(start_seconds * SOUND_RATE), round(end_seconds * SOUND_RATE))


def by_ffmpeg(path: Path) -> np.ndarray:
    command = [FFMPEG, "-v", "error", "-i", str(path), "-f", "f32le", "-ac", "1", "-ar", "16000", "-"]
    return np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, np.float32)


def test_the_rate_is_the_models() -> None:
    assert SOUND_RATE == MODELS_RATE


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_mono_at_16_khz_passes_unchanged(name: str, tmp_path: Path) -> None:
    samples = np.random.default_rng(1).integers(-32768, 32768, 16_000 * SECONDS).astype("<i2")
    (tmp_path / "a.raw").write_bytes(samples.tobytes())
    ffmpeg("-f", "s16le", "-ar", "16000", "-ac", "1", "-i", tmp_path / "a.raw", tmp_path / name)
    expected = samples / np.float32(32768)
    np.testing.assert_array_equal(read_slice(str(tmp_path / name), 0, 100), expected)
    part = read_slice(str(tmp_path / name), 21.3, 23.7)
    np.testing.assert_array_equal(part, expected[340_800:379_200])


FORMATS = {
    "a.mp3": ["-b:a", "128k"],
    "a.m4a": ["-c:a", "aac"],
    "a.ogg": ["-c:a", "libvorbis"],
    "a.opus": ["-c:a", "libopus"],
    "a.mka": ["-c:a", "aac"],
    "a.ts": ["-c:a", "mp2"],
    "a.aac": ["-c:a", "aac"],
    "a.wav": [],
    "a.flac": [],
    "a.wma": ["-c:a", "wmav2"],
    "a.aiff": [],
    "a.ac3": [],
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_way_to_a_sample_gives_the_same(name: str, noise: Path, tmp_path: Path) -> None:
    path = tmp_path / name
    ffmpeg("-i", noise, *FORMATS[name], path)
    whole = read_slice(str(path), 0, 1000)
    reference = by_ffmpeg(path)
    # ffmpeg ends MP4 at its edit list's end, to the sample, within the last frame.
    length = min(len(whole), len(reference)) - 100
    assert abs(len(whole) - len(reference)) < 3000 and length >= 16_000 * (SECONDS - 0.5)
    if name != "a.wma":  # ffmpeg ignores the gaps that ASF's time stamps tell of
        np.testing.assert_allclose(whole[:length], reference[:length], atol=1e-6)
    starts = [0, 16_000, 20_000, 200_000, 300_000, 376_000, 900_000]
    windows = [WindowRequest(n, start, 20_000, "d") for n, start in enumerate(starts)]
    with SoundReader(str(path)) as reader:
        found = list(iter_windows(reader, reversed(windows)))
    assert [window.start_sample for window, _ in found] == starts
    slices = [(round(s * 16_000), read_slice(str(path), s, s + 2)) for s in (20.2, 0.0, 7.9, 14.4)]
    for start, samples in [(w.start_sample, s) for w, s in found] + slices:
        assert isinstance(samples, np.ndarray) and samples.dtype == np.float32
        expected = whole[start : start + len(samples)]
        if name == "a.mka" and start > 160_000:
            # Matroska rounds to milliseconds: up to 16 samples beside, where it was sought.
            if len(expected) > 19_000:
                same = [np.corrcoef(np.roll(samples, k)[20:19_000], expected[20:19_000])[0, 1] for k in range(-17, 18)]
                assert max(same) > 0.9
        else:
            assert len(samples) - len(expected) <= 1
            # AAC replaces noise by random numbers of its own, which depend on where decoding began.
            error = samples[: len(expected)] - expected
            assert not len(error) or np.sqrt(np.mean(error**2)) < 0.01 * np.sqrt(np.mean(expected**2))
    assert len(found[-1][1]) == 0 and len(found[0][1]) == 20_000  # type: ignore[arg-type]


def test_sound_that_starts_late_or_has_gaps_is_filled_with_zeros(noise: Path, tmp_path: Path) -> None:
    film = make_numbered(tmp_path / "film.mp4", 100, 25, "-c:v", "mpeg4")
    ffmpeg("-t", "2", "-i", noise, "-c:a", "aac", tmp_path / "part.m4a")
    ffmpeg("-i", film, "-itsoffset", "1.5", "-i", tmp_path / "part.m4a", "-map", "0:v", "-map", "1:a", "-c", "copy",
           tmp_path / "late.mp4")  # fmt: skip
    whole = read_slice(str(tmp_path / "late.mp4"), 0, 10)
    part = read_slice(str(tmp_path / "part.m4a"), 0, 10)
    assert not whole[:23_500].any()
    # Half a sample beside: 1.5 s less the priming of 1024 samples at 44.1 kHz is no whole sample at 16 kHz.
    assert np.corrcoef(whole[24_000:50_000], part[:26_000])[0, 1] > 0.9
    gap = "aselect='lt(t,1)+gte(t,2.5)'"
    ffmpeg("-t", "4", "-i", noise, "-af", gap, "-ar", "16000", "-ac", "1", "-c:a", "pcm_s16le", tmp_path / "gap.mka")
    gapped = read_slice(str(tmp_path / "gap.mka"), 0, 10)
    assert abs(len(gapped) - 64_000) < 800
    assert not gapped[17_500:39_000].any() and gapped[41_000:].any()


def test_no_sound_is_said_to_be_none(tmp_path: Path) -> None:
    film = make_numbered(tmp_path / "film.mp4", 10, 25, "-c:v", "mpeg4")
    with pytest.raises(MediaError, match="no_audio"):
        read_slice(str(film), 0, 1)


def test_a_reader_forgets_what_is_behind_it(noise: Path) -> None:
    with SoundReader(str(noise)) as reader:
        for start in range(0, 16_000 * (SECONDS - 1), 8_000):
            assert len(reader.read(start, start + 16_000)) == 16_000
            assert sum(len(samples) for _, samples in reader._chunks) < 40_000


def test_a_slice_from_before_the_clock_begins_keeps_its_place(noise: Path) -> None:
    whole = read_slice(str(noise), 0, 1)
    with SoundReader(str(noise)) as reader:
        samples = reader.read(-4_000, 8_000)
        assert samples.dtype == np.float32 and len(samples) == 12_000 and not samples[:4_000].any()
        np.testing.assert_array_equal(samples[4_000:], whole[:8_000])
        before = reader.read(-4_000, -1_000)
        assert len(before) == 3_000 and not before.any()
        np.testing.assert_array_equal(reader.read(8_000, 16_000), whole[8_000:])
