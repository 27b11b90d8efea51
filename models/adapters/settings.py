"""The small JSON file beside a user's own model: what input the model takes, and what its outputs mean.

Takes the bytes of the file, yields `Settings`. Nothing is guessed: polarity and licence must be stated, an unknown key
is an error, and every message names the key, what was expected and what came.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..base import AudioGeometry, ClipGeometry, Family, Precision, Unit
from ..signals.preprocess import ImagePreprocessing, Resample
from .licences import forbids_commercial_use
from .settings_reader import Reader, is_whole, read_json

Output = Literal["logit", "logits", "probability", "probabilities"]
Layout = Literal["BCHW", "BTCHW", "BCTHW"]


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """How frames or faces become the rows of a batch."""

    preprocessing: ImagePreprocessing
    height: int
    """Pixels, after all steps."""
    width: int
    frames: int
    """Frames of a clip, or faces of a track, that are each judged by themselves; 1 if the model takes a film."""
    video_frames: int
    """T of a model that takes a film; 0 if it takes pictures."""
    layout: Layout
    face_scale: float
    """Factor by which the face's box is enlarged about its centre."""
    face_square: bool
    """Whether the box is first made square, with its longer side."""
    bgr: bool

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row: (3, H, W), (T, 3, H, W) or (3, T, H, W)."""
        if self.layout == "BCHW":
            return 3, self.height, self.width
        if self.layout == "BTCHW":
            return self.video_frames, 3, self.height, self.width
        return 3, self.video_frames, self.height, self.width


@dataclass(frozen=True, slots=True)
class AudioSettings:
    """How a window of sound becomes a row, float32 (window_samples,)."""

    window_samples: int
    hop_samples: int
    max_windows: int
    short: Literal["tile", "pad"]
    """What happens to sound shorter than a window: it is repeated from its start, or zeros are appended."""
    normalise: bool
    """Whether to scale to zero mean and unit variance, as wav2vec2's feature extractor does."""


@dataclass(frozen=True, slots=True)
class Settings:
    family: Family
    unit: Unit
    output: Output
    positive: Literal["fake", "real"] | None
    """What a high output means, if there is one output; None if there is one for each class."""
    fake: tuple[int, ...]
    """Numbers of the classes that mean fake, from 0; `real` likewise."""
    real: tuple[int, ...]
    licence: str
    commercial_use: bool
    summary: str
    blind_to: str
    method: str
    version: str
    image: ImageSettings | None
    audio: AudioSettings | None
    clip: ClipGeometry | None
    batch_size: int
    precision: Precision

    @property
    def rows(self) -> int:
        return self.image.frames if self.image else 1

    @property
    def row_shape(self) -> tuple[int, ...]:
        if self.image is not None:
            return self.image.row_shape
        assert self.audio is not None  # `read_settings` gives one of the two
        return (self.audio.window_samples,)

    @property
    def classes(self) -> int:
        """Least count of numbers in a row of the output."""
        return 1 if self.positive else max(*self.fake, *self.real) + 1


def read_settings(data: bytes, name: str) -> Settings:
    """The settings in a file's bytes; `name` is the file's name in messages.

    Raises:
        WeightsError: the file is not JSON, or a key is missing, unknown, of another type or out of range.
    """
    found = read_json(data, name)
    reader = Reader(found, name)
    unit: Unit = reader.choice("unit", ("clip", "face_track", "audio_window"))
    sound = unit == "audio_window"
    family: Family = reader.choice("family", ("audio",) if sound else ("facial", "synthetic"))
    output: Output = reader.choice("output", ("logit", "logits", "probability", "probabilities"))
    positive: Literal["fake", "real"] | None = None
    fake: tuple[int, ...] = ()
    real: tuple[int, ...] = ()
    if output in ("logit", "probability"):
        positive = reader.choice("positive", ("fake", "real"))
    else:
        fake, real = reader.classes("fake"), reader.classes("real")
        if set(fake) & set(real):
            reader.refuse("fake", "classes other than those in 'real'", [*fake])
    image = audio = clip = None
    if sound:
        audio = _audio(Reader(reader.take("audio", "an object: window_samples, …", lambda v: True), name, "audio."))
    else:
        section = Reader(reader.take("image", "an object: size, mean, std, …", lambda v: True), name, "image.")
        image, clip = _image(section)
    licence = reader.text("licence")
    forbidden = forbids_commercial_use(licence)
    commercial_use = reader.flag("commercial_use", not forbidden)
    if commercial_use and forbidden:
        reader.refuse("commercial_use", f"false, as the licence {licence!r} says", commercial_use)
    settings = Settings(
        family=family,
        unit=unit,
        output=output,
        positive=positive,
        fake=fake,
        real=real,
        licence=licence,
        commercial_use=commercial_use,
        summary=reader.text("summary", "a model of your own"),
        blind_to=reader.text("blind_to", "unknown: its settings do not say (`blind_to`)"),
        method=reader.text("method", ""),
        version=reader.text("version", "1"),
        image=image,
        audio=audio,
        clip=clip,
        batch_size=reader.whole("batch_size", 1, 1024, 8),
        precision=reader.choice("precision", ("float32", "float16", "bfloat16"), "float32"),
    )
    reader.done()
    return settings


def _image(reader: Reader) -> tuple[ImageSettings, ClipGeometry]:
    def sides(value: Any) -> bool:
        return isinstance(value, list) and len(value) == 2 and all(is_whole(v) and 8 <= v <= 2048 for v in value)

    def side_or_sides(value: Any) -> bool:
        return (is_whole(value) and 8 <= value <= 2048) or sides(value)

    size = reader.take("size", "[height, width], or the length of the shorter side with a 'crop'", side_or_sides)
    crop = reader.take("crop", "[height, width] or one number for both, 8 to 2048", side_or_sides, None)
    crop = [crop, crop] if is_whole(crop) else crop
    if is_whole(size) and crop is None:
        size = [size, size]
    height, width = crop or size
    resample: Resample = reader.choice("resample", ("nearest", "bilinear", "bicubic"), "bilinear")
    preprocessing = ImagePreprocessing(
        size=size if is_whole(size) else (size[0], size[1]),
        resample=resample,
        crop=(crop[0], crop[1]) if crop else None,
        scale=reader.number("scale", 1e-6, 1e6, 1 / 255),
        mean=reader.triple("mean", 0.0),
        std=reader.triple("std", 1.0, positive=True),
    )
    video_frames = reader.whole("video_frames", 1, 256, 0)
    layout: Layout = reader.choice("layout", ("BTCHW", "BCTHW")) if video_frames else "BCHW"
    frames = 1 if video_frames else reader.whole("frames", 1, 256, 4)
    image = ImageSettings(
        preprocessing=preprocessing,
        height=height,
        width=width,
        frames=frames,
        video_frames=video_frames,
        layout=layout,
        face_scale=reader.number("face_scale", 0.5, 4.0, 1.3),
        face_square=reader.flag("face_square", True),
        bgr=reader.choice("channels", ("RGB", "BGR"), "RGB") == "BGR",
    )
    usual = ClipGeometry()
    clip = ClipGeometry(
        frames=max(usual.frames, video_frames, frames),
        frame_rate=reader.number("frame_rate", 0.1, 120.0, usual.frame_rate),
        short_side=reader.whole("short_side", 64, 2160, max(usual.short_side, min(height, width))),
    )
    reader.done()
    return image, clip


def _audio(reader: Reader) -> AudioSettings:
    window = reader.whole("window_samples", 400, 16_000 * 120)
    audio = AudioSettings(
        window_samples=window,
        hop_samples=reader.whole("hop_samples", 400, 16_000 * 3600, window),
        max_windows=reader.whole("max_windows", 1, 10_000, AudioGeometry.__dataclass_fields__["max_windows"].default),
        short=reader.choice("short", ("tile", "pad")),
        normalise=reader.flag("normalise", False),
    )
    reader.done()
    return audio
