"""Films and sound written as files: the container of a given name, bits a second as asked for, same bytes each time.

Frames go through a pipe into ffmpeg one by one, so that a film of any length takes little memory; sound is joined to a
film in a second pass that copies its pictures, so that films which differ in sound alone have the very same ones.
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
"""By suffix: of pictures and of sound."""
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
# No encoder versions, dates or random numbers in the files, and one thread: the same bytes on every machine of a kind.
EXACT: Mapping[str, Any] = {
    "fflags": "+bitexact",
    "flags:v": "+bitexact",
    "flags:a": "+bitexact",
    "threads": 1,
    "loglevel": "error",
}
SOUND_BITS = 64_000
"""A second, where the codec is lossy: enough for one channel at 16 kHz."""


class EncodingError(RuntimeError):
    """ffmpeg could not write a file: says so in its own words."""

    def __init__(self, path: Path, said: bytes):
        super().__init__(f"ffmpeg could not write {path.name}: {said[-500:].decode(errors='replace').strip()}")
        self.disk_full = b"No space left on device" in said


def film_suffix(name: str, frame_rate: Fraction) -> str:
    """The suffix of a film like `name`: its own, or `.mp4` where we write no such container (at that rate)."""
    suffix = Path(name).suffix.lower()
    if suffix not in FILM_CODECS or (suffix in (".mpg", ".mpeg") and frame_rate not in MPEG_RATES):
        return ".mp4"
    return suffix


def sound_suffix(name: str) -> str:
    """The suffix of a sound file like `name`: its own, or `.flac` where we write no such one."""
    suffix = Path(name).suffix.lower()
    return suffix if suffix in SOUND_CODECS else ".flac"


class FilmWriter:
    """Writes frames, uint8 [H, W, 3] RGB with even sides, into a film without sound.

    A context: what was written is whole when it ends. Raises EncodingError.
    """

    def __init__(self, path: Path, width: int, height: int, frame_rate: Fraction, bits_a_second: int):
        self.path, self.frames = path, 0
        self._shape = (height, width, 3)
        codec = FILM_CODECS[path.suffix][0]
        # The rate may not run away on a hard scene: what is compared by bytes must not tell the one from the other.
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
            raise EncodingError(self.path, self._said()) from None
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
        said = self._said()
        self._errors.close()
        if code and error is None:
            raise EncodingError(self.path, said)

    def _said(self) -> bytes:
        self._errors.seek(0)
        return self._errors.read()


def join_sound(film: Path, sound: np.ndarray | None, path: Path) -> None:
    """The pictures of `film` as they are, with this sound (float32 [S], 16 kHz mono), as `path` of the same suffix.

    Raises:
        EncodingError
    """
    with tempfile.TemporaryDirectory(prefix="deephotlink-sound-") as scratch:
        streams = [ffmpeg.input(f"file:{film}").video]
        options: dict[str, Any] = {"c:v": "copy", **EXACT}
        if sound is not None:
            streams.append(ffmpeg.input(f"file:{_write_wav(Path(scratch) / 'sound.wav', sound)}").audio)
            options |= {"c:a": FILM_CODECS[path.suffix][1], "b:a": SOUND_BITS}
        _run(ffmpeg.output(*streams, f"file:{path}", **options), path)


def write_sound(path: Path, sound: np.ndarray) -> None:
    """float32 [S], 16 kHz mono, as a file by the codec of its suffix.

    Raises:
        EncodingError
    """
    codec = SOUND_CODECS[path.suffix]
    lossy = codec not in ("flac", "pcm_s16le")
    with tempfile.TemporaryDirectory(prefix="deephotlink-sound-") as scratch:
        heard = ffmpeg.input(f"file:{_write_wav(Path(scratch) / 'sound.wav', sound)}")
        options = {"c:a": codec, **({"b:a": SOUND_BITS} if lossy else {}), **EXACT}
        _run(ffmpeg.output(heard, f"file:{path}", **options), path)


def _write_wav(path: Path, sound: np.ndarray) -> Path:
    return write_wav(path, (np.clip(sound, -1, 1) * 32767).round(), SOUND_RATE)


def write_wav(path: Path, samples: np.ndarray, rate: int) -> Path:
    """[S] of whole numbers within 16 bits, or what is to be cut to them, one channel at `rate` Hz."""
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
    """Runs the command, `raw` on its standard input, over whatever lies there. Raises ffmpeg.Error."""
    exe = imageio_ffmpeg.get_ffmpeg_exe()
    command.overwrite_output().run(cmd=exe, input=raw, capture_stdout=True, capture_stderr=True)
