"""Makes media by code, with ffmpeg, for the sample archive and the tests. Equal arguments give equal bytes.

The repository holds no media. The only face is matplotlib's sample portrait of Grace Hopper (public domain).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import ffmpeg
import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from ...models.extras import lacking
from ...transforms.failures import UsageError
from .encoding import CODEC_OPTIONS, EXACT, FILM_CODECS, SOUND_CODECS, run_ffmpeg, write_wav

Pattern = Literal["testsrc2", "noise", "bars", "scene", "barcode"]
SoundKind = Literal["tone", "noise", "speechlike", "silence"]

BARCODE_BITS = 16
_SOURCES = {
    "testsrc2": "testsrc2",
    "bars": "smptebars",
    "scene": "mandelbrot",
    "noise": "color",  # a filter adds the noise
}
# The containers that `forge` writes, and others that are only needed to be read.
_VIDEO_CODECS = {
    **{suffix: video for suffix, (video, _) in FILM_CODECS.items()},
    ".wmv": "wmv2",
    ".ogv": "libtheora",
    ".flv": "flv",
    ".gif": "gif",
}
_SOUND_CODECS = {
    **{suffix: sound for suffix, (_, sound) in FILM_CODECS.items()},
    **SOUND_CODECS,
    ".ogv": "libvorbis",
    ".wmv": "wmav2",
    ".aiff": "pcm_s16be",
}


def make_sound(seconds: float, rate: int = 16_000, kind: SoundKind = "speechlike", seed: int = 0) -> np.ndarray:
    """Sound, float32 [S] in [-1, 1], mono at `rate` Hz. `speechlike` has syllables, pauses, gliding pitch, formants."""
    samples = round(seconds * rate)
    time = np.arange(samples) / rate
    rng = np.random.default_rng(seed)
    if kind == "silence":
        return np.zeros(samples, np.float32)
    if kind == "tone":
        return (0.4 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    if kind == "noise":
        return rng.uniform(-0.3, 0.3, samples).astype(np.float32)
    pitch = 120 * (1 + 0.15 * np.sin(2 * np.pi * 0.4 * time) + 0.05 * np.sin(2 * np.pi * 1.7 * time))
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    formant = 600 + 250 * np.sin(2 * np.pi * 1.1 * time) + 100 * np.sin(2 * np.pi * 2.9 * time)
    voice = np.zeros(samples)
    for harmonic in range(1, 25):
        frequency = harmonic * pitch
        gain = np.exp(-(((frequency - formant) / 200) ** 2)) + 0.4 * np.exp(-(((frequency - 1700) / 350) ** 2))
        voice += (gain + 0.05 / harmonic) * np.sin(harmonic * phase) * (frequency < 0.45 * rate)
    breath = 0.02 * rng.standard_normal(samples)
    envelope = speech_envelope(time, seed)
    voice = envelope * (voice / max(1.0, float(np.abs(voice).max(initial=0))) + breath)
    room = 0.0008 * rng.standard_normal(samples)  # a real recording is never digitally silent
    return np.clip(0.7 * voice + room, -1, 1).astype(np.float32)


def speech_envelope(time_seconds: np.ndarray, seed: int = 0) -> np.ndarray:
    """Loudness of `make_sound(kind="speechlike")` at these times, in [0, 1]: about four syllables a second."""
    rng = np.random.default_rng(seed + 1)
    envelope = np.zeros(len(time_seconds))
    start, end = 0.15, float(time_seconds.max(initial=0)) + 1
    while start < end:
        length = rng.uniform(0.12, 0.28)
        inside = (time_seconds - start) / length
        shape = np.where((inside > 0) & (inside < 1), np.sin(np.pi * np.clip(inside, 0, 1)) ** 2, 0)
        envelope = np.maximum(envelope, rng.uniform(0.5, 1) * shape)
        start += length + (rng.uniform(0.3, 0.7) if rng.random() < 0.25 else rng.uniform(0.01, 0.08))
    return envelope


def barcode_frames(count: int, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Frames, uint8 [H, W, 3], whose number `read_barcode` can read even after scaling and lossy coding."""
    width, height = size
    columns = np.arange(width) * 8 // width
    rows = np.arange(height) * 2 // height
    bits = rows[:, None] * 8 + columns[None, :]
    for number in range(count):
        grey = np.where((number >> bits) & 1, 220, 35).astype(np.uint8)
        yield np.repeat(grey[:, :, None], 3, axis=2)


def read_barcode(frame: np.ndarray) -> int:
    """The number of a `barcode` frame, uint8 [H, W, 3], in display orientation and at any scale."""
    height, width = frame.shape[:2]
    number = 0
    for bit in range(BARCODE_BITS):
        y, x = height * (2 * (bit // 8) + 1) // 4, width * (2 * (bit % 8) + 1) // 16
        if frame[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3].mean() > 127:
            number |= 1 << bit
    return number


def make_video(
    path: Path,
    seconds: float = 2,
    fps: float = 10,
    size: tuple[int, int] = (192, 144),
    codec: str | None = None,
    gop: int | None = None,
    audio: bool | SoundKind | np.ndarray = False,
    options: Mapping[str, Any] | None = None,
    pattern: Pattern = "testsrc2",
    rotate: int = 0,
    tags: Mapping[str, str] | None = None,
) -> Path:
    """Writes a video. The suffix of `path` chooses the container, and the codec unless one is named.

    size: (width, height) as displayed. rotate: degrees clockwise by which a player must turn the stored picture (mp4
    and mov). audio: a kind, True for `speechlike`, or float32 [S] at 16 kHz. options: ffmpeg output options; `vf` among
    them is applied to the frames (`{"vf": "setpts='…'", "fps_mode": "vfr"}` makes a variable rate). tags: container
    tags (mp4 accepts any tag with `{"movflags": "+use_metadata_tags"}`).

    Raises:
        ffmpeg.Error: ffmpeg failed; `stderr` has its own words.
    """
    if pattern == "barcode":
        frames: Iterator[np.ndarray] | str = barcode_frames(round(seconds * fps), size)
    else:
        frames = f"{_SOURCES[pattern]}=size={size[0]}x{size[1]}:rate={fps}"
        frames += ":end_pts=1000" if pattern == "scene" else f":duration={seconds}"
    extra = dict(options or {})
    if pattern == "noise":
        extra["vf"] = ",".join(filter(None, ["noise=alls=100:allf=t:all_seed=7", extra.get("vf")]))
    return encode(path, frames, seconds, fps, size, codec, gop, audio, extra, rotate, tags)


def encode(
    path: Path,
    frames: Iterator[np.ndarray] | str,
    seconds: float,
    fps: float,
    size: tuple[int, int],
    codec: str | None = None,
    gop: int | None = None,
    audio: bool | SoundKind | np.ndarray = False,
    options: Mapping[str, Any] | None = None,
    rotate: int = 0,
    tags: Mapping[str, str] | None = None,
) -> Path:
    """The same as `make_video` for given frames: uint8 [H, W, 3] RGB arrays, or the description of an ffmpeg source."""
    path, extra = Path(path), dict(options or {})
    path.parent.mkdir(parents=True, exist_ok=True)
    filters = [str(extra.pop("vf"))] if extra.get("vf") else []
    filters += {90: ["transpose=cclock"], 180: ["hflip,vflip"], 270: ["transpose=clock"]}.get(rotate, [])
    codec = codec or _VIDEO_CODECS.get(path.suffix.lower(), "libx264")
    extra = {**({"vf": ",".join(filters)} if filters else {}), **_video_options(codec), **extra}
    if gop is not None:
        extra["g"] = gop
    if isinstance(frames, str):
        source, raw = ffmpeg.input(frames, f="lavfi", t=seconds), None
    else:
        source = ffmpeg.input("pipe:", f="rawvideo", pix_fmt="rgb24", s=f"{size[0]}x{size[1]}", r=fps)
        raw = b"".join(np.ascontiguousarray(frame, np.uint8).tobytes() for frame in frames)
    with tempfile.TemporaryDirectory(prefix="deephotlink-making-") as scratch:
        streams = [source.video]
        if audio is not False:
            streams.append(ffmpeg.input(_write_wav(Path(scratch) / "sound.wav", audio, seconds)).audio)
            extra.setdefault("c:a", _SOUND_CODECS.get(path.suffix.lower(), "aac"))
        if rotate:
            plain = Path(scratch) / f"plain{path.suffix}"
            _run(streams, plain, {"c:v": codec, **extra}, {}, raw)
            # The display matrix turns counter-clockwise by the given degrees. Since ffmpeg 6 it is an input option.
            turned = ffmpeg.input(str(plain), **{"display_rotation:v:0": -rotate})
            _run(
                [turned], path, {"c": "copy", **{key: extra[key] for key in ("movflags",) if key in extra}}, tags or {}
            )
        else:
            _run(streams, path, {"c:v": codec, **extra}, tags or {}, raw)
    return path


def make_audio(
    path: Path,
    seconds: float = 3,
    rate: int = 16_000,
    kind: SoundKind = "speechlike",
    options: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Path:
    """Writes a sound file. The suffix chooses container and codec (.wav, .flac, .mp3, .m4a, .ogg, …)."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="deephotlink-making-") as scratch:
        wav = _write_wav(Path(scratch) / "sound.wav", make_sound(seconds, rate, kind, seed), seconds, rate)
        codec = {"c:a": _SOUND_CODECS.get(path.suffix.lower(), "aac"), **(options or {})}
        _run([ffmpeg.input(wav)], path, codec, tags or {})
    return path


def remux(source: Path, path: Path, options: Mapping[str, Any] | None = None) -> Path:
    """Writes the same streams into another container, with the packets unchanged."""
    _run([ffmpeg.input(f"file:{source}")], Path(path), {"c": "copy", **(options or {})}, {})
    return Path(path)


def make_gif(path: Path, seconds: float = 1.5, fps: float = 8, size: tuple[int, int] = (120, 90)) -> Path:
    """Writes an animated GIF."""
    return make_video(path, seconds, fps, size, codec="gif")


def make_face_video(
    path: Path,
    seconds: float = 3,
    fps: float = 25,
    size: tuple[int, int] = (320, 240),
    speech: bool = True,
    sound_shift_seconds: float = 0.0,
    codec: str | None = None,
    gop: int | None = None,
    options: Mapping[str, Any] | None = None,
    rotate: int = 0,
    tags: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Path:
    """Writes a portrait that moves, zooms and, with `speech`, opens its mouth in step with a speech-like sound.

    `sound_shift_seconds` > 0 plays the sound later than the mouth moves. Without `speech` there is no sound.
    """
    audio: bool | np.ndarray = False
    if speech:
        audio = np.roll(make_sound(seconds, 16_000, "speechlike", seed), round(sound_shift_seconds * 16_000))
    frames = face_frames(round(seconds * fps), fps, size, speech, seed)
    return encode(path, frames, seconds, fps, size, codec, gop, audio, options, rotate, tags)


# Centre of the mouth (x, y) and half its width, in pixels of the 512x600 portrait.
_MOUTH = (270.0, 278.0, 36.0)
_FACE = (267.0, 225.0)


def portrait() -> Image.Image:
    """matplotlib's sample picture of Grace Hopper, 512x600 RGB (by James S. Davis, US Navy: public domain)."""
    # By path: importing matplotlib takes a second and writes a font cache.
    spec = find_spec("matplotlib")
    if spec is None or spec.origin is None:
        raise UsageError(lacking("the sample face is in a file of", "samples") or "matplotlib cannot be imported")
    with Image.open(Path(spec.origin).parent / "mpl-data" / "sample_data" / "grace_hopper.jpg") as image:
        return image.convert("RGB")


def face_frames(count: int, fps: float, size: tuple[int, int], speech: bool, seed: int = 0) -> Iterator[np.ndarray]:
    """Frames, uint8 [H, W, 3], of the swaying portrait. The face is about half as high as the picture."""
    closed = portrait()
    width, height = size
    x, y, half = _MOUTH
    openness = speech_envelope(np.arange(count) / fps, seed) if speech else np.zeros(count)
    for number in range(count):
        time, image = number / fps, closed
        if openness[number] > 0.02:
            mask = Image.new("L", closed.size)
            drop = half * 0.6 * openness[number]
            ImageDraw.Draw(mask).ellipse((x - half * 0.75, y - drop * 0.4, x + half * 0.75, y + drop), fill=235)
            image = closed.copy()
            image.paste((38, 14, 16), mask=mask.filter(ImageFilter.GaussianBlur(2)))
        # Portrait pixels per frame pixel, chosen so that the edge of the portrait is never visible.
        zoom = min(348 / height, 440 / width) * (1 + 0.06 * np.sin(0.9 * time))
        left = _FACE[0] + 18 * np.sin(1.3 * time + seed) - zoom * width / 2
        top = _FACE[1] + 12 * np.sin(1.9 * time) - zoom * height / 2
        turned = image.transform(size, Image.Transform.AFFINE, (zoom, 0, left, 0, zoom, top), Image.Resampling.BILINEAR)
        yield np.asarray(turned)


def _video_options(codec: str) -> dict[str, Any]:
    return {**({} if codec == "gif" else {"pix_fmt": "yuv420p"}), **CODEC_OPTIONS.get(codec, {})}


def _write_wav(path: Path, audio: bool | SoundKind | np.ndarray, seconds: float, rate: int = 16_000) -> str:
    if isinstance(audio, (bool, str)):
        audio = make_sound(seconds, rate, "speechlike" if isinstance(audio, bool) else audio)
    return str(write_wav(path, np.clip(audio, -1, 1) * 32767, rate))


def _run(
    streams: list[Any], path: Path, options: Mapping[str, Any], tags: Mapping[str, str], raw: bytes | None = None
) -> None:
    extra = {**EXACT, **options}
    for number, (key, value) in enumerate(tags.items()):
        extra[f"metadata:g:{number}"] = f"{key}={value}"
    # With `file:`, ffmpeg does not read a name as an option (leading dash) or a protocol (colon).
    run_ffmpeg(ffmpeg.output(*streams, f"file:{path}", **extra), raw)
