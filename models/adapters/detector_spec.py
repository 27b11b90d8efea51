"""Makes a detector's spec from a model file and the settings file beside it. Shared by `onnx:` and `torch:`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..base import AudioGeometry, DetectorSpec, Need, WeightsFile
from ..weights.checkpoints import LARGEST_JSON
from ..weights.files import Weights, WeightsError
from .settings import Settings, read_settings
from .settings_reader import EXAMPLE

NEEDS: Mapping[str, frozenset[Need]] = {
    "clip": frozenset({"frames"}),
    "face_track": frozenset({"frames", "faces"}),
    "audio_window": frozenset({"sound"}),
}
"""What a detector needs, by its unit."""
LARGEST_FILE = 4 << 30
"""Most bytes of a model in one file."""


def files_beside(reference: str, kind: str, endings: Sequence[str], made_by: str) -> dict[str, str]:
    """The model file and the settings file beside it: `model.onnx.json`, or `model.json` if that does not exist.

    Raises:
        WeightsError: one of them is missing or too large. The message says what to do.
    """
    path = Path(reference).expanduser()
    if not reference or path.suffix.lower() not in endings:
        raise WeightsError(f"expected {kind}:FILE{endings[0]}, got {kind}:{reference}: {made_by} makes such a file")
    if not path.is_file():
        raise WeightsError(f"expected a file at {path}: no such file (your own models are read from this machine)")
    beside = (path.with_name(path.name + ".json"), path.with_suffix(".json"))
    for settings in beside:
        if settings.is_file():
            # Before anything reads or hashes the files: a link may point to anything, and sparse files cost nothing.
            for file, most in ((path, LARGEST_FILE), (settings, LARGEST_JSON)):
                if file.stat().st_size > most:
                    raise WeightsError(f"expected at most {most} bytes in {file}: it has {file.stat().st_size}")
            return {"weights": str(path.absolute()), "settings": str(settings.absolute())}
    raise WeightsError(
        f"expected the settings of {path} in {beside[0].name} or {beside[1].name} beside it; for example:\n{EXAMPLE}"
    )


def describe_settings(name: str, weights: Weights, architecture: str) -> tuple[DetectorSpec, Settings]:
    """The spec that the settings describe, under the name that the user gave, and the settings.

    Raises:
        WeightsError: the settings are not valid.
    """
    settings = read_settings(weights.read("settings"), Path(weights.files["settings"].path).name)
    audio = settings.audio
    spec = DetectorSpec(
        name=name,
        family=settings.family,
        unit=settings.unit,
        needs=NEEDS[settings.unit],
        summary=settings.summary,
        blind_to=settings.blind_to,
        method=settings.method,
        architecture=architecture,
        input=_input(settings),
        output=_output(settings),
        licence=settings.licence,
        commercial_use=settings.commercial_use,
        origin="yours",
        weights=tuple(
            WeightsFile(Path(file.path).name, url=file.address, role=role, sha256=file.sha256)
            for role, file in sorted(weights.files.items())
        ),
        weights_sha256=weights.sha256,
        version=settings.version,
        clip=settings.clip,
        audio=AudioGeometry(audio.window_samples, audio.hop_samples, audio.max_windows) if audio else None,
        batch_size=settings.batch_size,
        precision=settings.precision,
        device_tolerance=1e-3 if settings.precision == "float32" else 5e-2,
    )
    return spec, settings


def _input(settings: Settings) -> str:
    if settings.audio is not None:
        short = "tiled" if settings.audio.short == "tile" else "padded with zeros"
        normal = ", zero mean and unit variance" if settings.audio.normalise else ""
        return f"{settings.audio.window_samples} samples at 16 kHz, shorter sound {short}{normal}; {settings.precision}"
    image = settings.image
    assert image is not None
    steps = image.preprocessing
    what = f"{image.video_frames} frames ({image.layout})" if image.video_frames else f"{image.frames} frames, each"
    if settings.unit == "face_track":
        what += f" cropped to the face's {'square ' if image.face_square else ''}box x {image.face_scale:g}"
    crop = f", centre crop {steps.crop[0]}x{steps.crop[1]}" if steps.crop else ""
    colours = "BGR" if image.bgr else "RGB"
    return (
        f"{what}, {steps.resample} to {steps.size}{crop}, {colours} x {steps.scale:.6g}, "
        f"mean {steps.mean}, std {steps.std}; {settings.precision}"
    )


def _output(settings: Settings) -> str:
    if settings.positive:
        return f"one {settings.output}, high = {settings.positive}" + (
            "" if settings.positive == "fake" else "; with its sign reversed"
        )
    made = "fake minus real" if settings.output == "logits" else "log of fake over real"
    return f"{settings.output} of {settings.classes} classes, fake {[*settings.fake]}, real {[*settings.real]}: {made}"
