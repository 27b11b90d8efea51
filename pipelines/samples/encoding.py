"""Writes films and sound as files. The name's suffix chooses the container, the caller gives the bit rate, and the
bytes are the same each time.

Frames go through a pipe into ffmpeg one by one, so that a film of any length takes little memory. Sound is added in a
second pass that copies the pictures, so that films which differ only in sound have identical pictures.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import wave
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import ffmpeg
import imageio_ffmpeg
import numpy as np

from ...models.base import SOUND_RATE

FILM_CODECS: Mapping[str, tuple[str, str]] = {
    ".mp4": ("libx264", "aac"),
    ".mov": ("libx264", "aac"),
    ".m4v": ("libx264", "aac"),
    ".mkv": ("libx264", "aac"),
    ".webm": ("libvpx-vp9", "libopus"),
    ".avi": ("mpeg4", "libmp3lame"),
    ".mpg": ("mpeg2video", "mp2"),
    ".mpeg": ("mpeg2video", "mp2"),
}
"""Suffix → codecs of the pictures and of the sound."""
SOUND_CODECS: Mapping[str, str] = {
    ".flac": "flac",
    ".wav": "pcm_s16le",
    ".mp3": "libmp3lame",
    ".ogg": "libvorbis",
    ".opus": "libopus",
    ".m4a": "aac",
}
MPEG_RATES = tuple(Fraction(f) for f in (24, 25, 30, 50, 60, "24000/1001", "30000/1001", "60000/1001"))
CODEC_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "libx264": {"preset": "veryfast"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=error:pools=1:frame-threads=1"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": 8},
}
# No encoder versions, dates or random numbers in the files, and one thread, so that machines of the same kind write the
# same bytes.
EXACT: Mapping[str, Any] = {
    "fflags": "+bitexact",
    "flags:v": "+bitexact",
    "flags:a": "+bitexact",
    "threads": 1,
    "loglevel": "error",
}
SOUND_BITS = 64_000
"""Bits per second of lossy codecs: enough for one channel at 16 kHz."""


class EncodingError(RuntimeError):
    """ffmpeg could not write a file. The message has ffmpeg's own words."""

    def __init__(self, path: Path, log: bytes):
        super().__init__(f"ffmpeg could not write {path.name}: {log[-500:].decode(errors='replace').strip()}")
        self.disk_full = b"No space left on device" in log


def film_suffix(name: str, frame_rate: Fraction) -> str:
    """The suffix for a film like `name`: its own, or `.mp4` if we cannot write its container (at that rate)."""
    suffix = Path(name).suffix.lower()
    if suffix not in FILM_CODECS or (suffix in (".mpg", ".mpeg") and frame_rate not in MPEG_RATES):
        return ".mp4"
    return suffix


def sound_suffix(name: str) -> str:
    """The suffix for a sound file like `name`: its own, or `.flac` if we cannot write its container."""
    suffix = Path(name).suffix.lower()
    return suffix if suffix in SOUND_CODECS else ".flac"


class FilmWriter:
    """Writes frames, uint8 [H, W, 3] RGB with even sides, into a film without sound.

    Use it as a context manager: the film is complete when the context ends.

    Raises:
        EncodingError: ffmpeg failed.
    """

    def __init__(self, path: Path, width: int, height: int, frame_rate: Fraction, bits_a_second: int):
        self.path, self.frames = path, 0
        self._shape = (height, width, 3)
        codec = FILM_CODECS[path.suffix][0]
        # Bounds the bit rate on hard scenes, so that real and forged films cannot be told apart by their size.
        rate = {"b:v": bits_a_second, "maxrate": 2 * bits_a_second, "bufsize": 4 * bits_a_second}
        options = {"c:v": codec, "pix_fmt": "yuv420p", **rate, **CODEC_OPTIONS.get(codec, {}), **EXACT}
        pictures = ffmpeg.input("pipe:", f="rawvideo", pix_fmt="rgb24", s=f"{width}x{height}", r=str(frame_rate))
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the writer)
        command = ffmpeg.output(pictures, f"file:{path}", **options).overwrite_output()
        self._process = subprocess.Popen(
            command.compile(cmd=imageio_ffmpeg.get_ffmpeg_exe()),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
        )

    def write(self, frame: np.ndarray) -> None:
        if frame.shape != self._shape or frame.dtype != np.uint8:
            raise ValueError(f"expected uint8 {self._shape}: got {frame.shape = }, {frame.dtype = }")
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(np.ascontiguousarray(frame).data)
        except BrokenPipeError:
            self._process.wait()
            raise EncodingError(self.path, self._ffmpeg_log()) from None
        self.frames += 1

    def __enter__(self) -> FilmWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        code = self._process.wait()
        log = self._ffmpeg_log()
        self._errors.close()
        if code and error is None:
            raise EncodingError(self.path, log)

    def _ffmpeg_log(self) -> bytes:
        self._errors.seek(0)
        return self._errors.read()


def join_sound(film: Path, sound: np.ndarray | None, path: Path) -> None:
    """Writes the unchanged pictures of `film` with this sound (float32 [S], 16 kHz mono) to `path`, which has the same
    suffix. None: no sound.

    Raises:
        EncodingError: ffmpeg failed.
    """
    with tempfile.TemporaryDirectory(prefix="deephotlink-sound-") as scratch:
        streams = [ffmpeg.input(f"file:{film}").video]
        options: dict[str, Any] = {"c:v": "copy", **EXACT}
        if sound is not None:
            streams.append(ffmpeg.input(f"file:{_write_wav(Path(scratch) / 'sound.wav', sound)}").audio)
            options |= {"c:a": FILM_CODECS[path.suffix][1], "b:a": SOUND_BITS}
        _run(ffmpeg.output(*streams, f"file:{path}", **options), path)


def write_sound(path: Path, sound: np.ndarray) -> None:
    """Writes float32 [S], 16 kHz mono, with the codec that the suffix of `path` names.

    Raises:
        EncodingError: ffmpeg failed.
    """
    codec = SOUND_CODECS[path.suffix]
    lossy = codec not in ("flac", "pcm_s16le")
    with tempfile.TemporaryDirectory(prefix="deephotlink-sound-") as scratch:
        sound_input = ffmpeg.input(f"file:{_write_wav(Path(scratch) / 'sound.wav', sound)}")
        options = {"c:a": codec, **({"b:a": SOUND_BITS} if lossy else {}), **EXACT}
        _run(ffmpeg.output(sound_input, f"file:{path}", **options), path)


def _write_wav(path: Path, sound: np.ndarray) -> Path:
    return write_wav(path, (np.clip(sound, -1, 1) * 32767).round(), SOUND_RATE)


def write_wav(path: Path, samples: np.ndarray, rate: int) -> Path:
    """Writes samples [S] as a WAV file with one channel at `rate` Hz. They lie in the range of int16; fractions are cut
    off."""
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(samples.astype("<i2").tobytes())
    return path


def _run(command: Any, path: Path) -> None:
    try:
        run_ffmpeg(command)
    except ffmpeg.Error as error:
        raise EncodingError(path, error.stderr or b"") from None


def run_ffmpeg(command: Any, raw: bytes | None = None) -> None:
    """Runs the command with `raw` on its standard input. Overwrites an existing file.

    Raises:
        ffmpeg.Error: ffmpeg failed.
    """
    exe = imageio_ffmpeg.get_ffmpeg_exe()
    command.overwrite_output().run(cmd=exe, input=raw, capture_stdout=True, capture_stderr=True)
