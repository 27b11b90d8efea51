"""`hf:DIR` and `hf:OWNER/REPO`: image, video and audio classifiers that transformers' `save_pretrained` wrote.

A folder holds config.json, the weights as safetensors and preprocessor_config.json. If the labels do not say which of
them means manipulated, deephotlink.json does (sidecar.py). Nothing is downloaded, unpickled or run here.
`deephotlink weights pull hf:OWNER/REPO` downloads; code or pickles in a folder are never opened.

Every image, video and audio classifier of transformers works if its preprocessing is in models/signals/preprocess.py
or is that of wav2vec2; network.py lists the exceptions. Images: the mean logit of a few frames spread over the clip (or
over a face's track). Video: frames at 7.5 Hz. Audio: consecutive windows of 4 s.

Licence: that of the model card, or "not stated". Blind spots: everything that the model was not trained on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...base import SOUND_RATE, AudioGeometry, ClipGeometry, Detector, DetectorSpec, Family, Unit
from ...signals.preprocess import ImagePreprocessing, from_processor
from ...weights.checkpoints import read_object
from ...weights.files import Weights, WeightsError, WeightsFile
from ..detector_spec import NEEDS
from ..labels import Classes, label_names, tell_classes
from .audio import AudioDetector, read_extractor
from .images import HfDetector, ImageDetector, VideoDetector
from .network import INDEX, ONE_FILE, Architecture, build, read_architecture, shards_of
from .sidecar import NAME, Sidecar, licence_of, read_sidecar

CONFIG, CARD = "config.json", "README.md"
PROCESSORS = ("preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json")
"""Files that may hold the preprocessing; the first one found is used. The last one holds it one level down."""
REPOSITORY = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(?:@(?P<revision>[\w][\w./-]*))?")
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "flax_model.msgpack")
LARGEST_TEXT = 16 << 20
"""Most bytes of a model card or a JSON file, checked before it is read."""
LARGEST_WEIGHTS = 8 << 30
"""Most bytes of all shards together: they are in memory twice while a network is built."""
MOST_FRAMES = 128
BATCH = {"image": 8, "video": 2, "audio": 8}
FAMILY: dict[str, Family] = {"clip": "synthetic", "face_track": "facial", "audio_window": "audio"}


def files_of(reference: str, cache: Path) -> dict[str, Path]:
    """The files of a model by role, which is the file's name; `reference` is the part after `hf:`.

    Raises:
        WeightsError: there is no such folder, or it lacks a file that is needed. The message says what to do.
    """
    folder = folder_of(reference, cache)
    if not (folder / CONFIG).is_file():
        raise WeightsError(
            f"expected {CONFIG} in {folder}: it is not there; was the folder written by save_pretrained?"
        )
    names = [CONFIG, *_weights_in(folder)]
    processor = next((name for name in PROCESSORS if (folder / name).is_file()), None)
    if processor is None:
        raise WeightsError(
            f"expected {PROCESSORS[0]} in {folder}: it is not there; save the model's processor beside it "
            "(AutoImageProcessor or AutoFeatureExtractor .save_pretrained)"
        )
    names += [processor, *(name for name in (NAME, CARD) if (folder / name).is_file())]
    _check_sizes([folder / name for name in names])
    return {name: folder / name for name in names}


def _check_sizes(paths: list[Path]) -> None:
    """Checks sizes before anything reads or hashes the files: a link may point to anything, sparse files cost nothing.

    Raises:
        WeightsError: the files are larger than a model can be.
    """
    sizes = {path: path.stat().st_size for path in paths}
    weights = {path: size for path, size in sizes.items() if path.suffix == ".safetensors"}
    if sum(weights.values()) > LARGEST_WEIGHTS:
        raise WeightsError(f"expected at most {LARGEST_WEIGHTS} bytes in {', '.join(map(str, weights))}"[:500])
    for path in sizes.keys() - weights.keys():
        if sizes[path] > LARGEST_TEXT:
            raise WeightsError(f"expected at most {LARGEST_TEXT} bytes in {path}: it has {sizes[path]}")


def folder_of(reference: str, cache: Path) -> Path:
    """The folder of the model.

    Raises:
        WeightsError: the model is not on this machine.
    """
    folder = Path(reference).expanduser()
    if folder.is_dir():
        return folder
    named = REPOSITORY.fullmatch(reference)
    if named is None:
        raise WeightsError(f"expected a folder or OWNER/REPO after hf:, but there is no folder {reference}")
    pulled = cache / "hf" / named["repo"]
    if not pulled.is_dir():
        raise WeightsError(
            f"expected the model in {folder} or {pulled}: neither is there; run "
            f"`deephotlink weights pull hf:{reference}`"
        )
    return pulled


def describe(name: str, weights: Weights) -> DetectorSpec:
    """The model's spec, read from its files. To be sure, the network is built once and given a blank row.

    Raises:
        WeightsError: the model cannot work here, or its labels are unreadable. The message says what to do.
    """
    model = _Model.read(weights)
    spec = model.spec(name, weights)
    detector = model.detector(spec, weights)
    detector.device = torch.device("cpu")
    detector.network = build(model.architecture, weights)
    try:
        with torch.inference_mode():
            detector.forward(detector.blank_row())
    except Exception as error:  # a strange config may make a forward pass raise anything
        message = " ".join(f"{type(error).__name__}: {error}".split())[:400]
        raise WeightsError(
            f"{model.architecture.name} does not accept the output of its preprocessing ({spec.input}): {message}"
        ) from error
    return spec


def make(spec: DetectorSpec, weights: Weights) -> Detector:
    """The detector, not loaded yet."""
    return _Model.read(weights).detector(spec, weights)


@dataclass(frozen=True, slots=True)
class _Model:
    """The contents of a model's small files."""

    architecture: Architecture
    classes: Classes
    sidecar: Sidecar
    processor: dict[str, Any]
    unit: Unit
    preprocessing: ImagePreprocessing | None
    """None for sound."""

    @classmethod
    def read(cls, weights: Weights) -> _Model:
        architecture = read_architecture(weights.read(CONFIG))
        sidecar = read_sidecar(weights.read(NAME)) if NAME in weights.files else Sidecar()
        names = label_names(architecture.config.id2label)
        classes = tell_classes(names, sidecar.fake, sidecar.real, sidecar.positive)
        processor = _processor(weights)
        sound = architecture.task == "audio"
        unit: Any = sidecar.unit or ("audio_window" if sound else "clip")
        if (unit == "audio_window") != sound:
            raise WeightsError(f'{architecture.name} judges {architecture.task}: "unit" in {NAME} cannot be {unit!r}')
        if sound:
            read_extractor(processor)
            return cls(architecture, classes, sidecar, processor, unit, None)
        try:
            preprocessing = from_processor(processor)
        except WeightsError:
            raise
        except Exception as error:  # a hostile config chooses what its reader raises
            raise WeightsError(f"the preprocessing of the model cannot be done here: {error}"[:500]) from error
        return cls(architecture, classes, sidecar, processor, unit, preprocessing)

    def spec(self, name: str, weights: Weights) -> DetectorSpec:
        task, sidecar = self.architecture.task, self.sidecar
        card = weights.read(CARD) if CARD in weights.files else None
        licence, commercial_use = licence_of(sidecar, card)
        family: Any = sidecar.family or FAMILY[self.unit]
        return DetectorSpec(
            name=name,
            family=family,
            unit=self.unit,
            needs=NEEDS[self.unit],
            summary=sidecar.summary or f"your own {self.architecture.name} of transformers",
            blind_to=sidecar.blind_to or "not stated: everything that its training data lacked",
            method="not stated",
            architecture=self.architecture.name,
            input=self._input(),
            output=str(self.classes),
            licence=licence,
            commercial_use=commercial_use,
            origin="yours",
            weights=tuple(
                WeightsFile(role, "", role, sha256=file.sha256, size_bytes=Path(file.path).stat().st_size)
                for role, file in sorted(weights.files.items())
            ),
            weights_sha256=weights.sha256,
            clip=None if task == "audio" else self._clip(),
            audio=self._audio() if task == "audio" else None,
            batch_size=BATCH[task],
            device_tolerance=1e-2,
        )

    def detector(self, spec: DetectorSpec, weights: Weights) -> HfDetector:
        if self.preprocessing is None:
            normalised = read_extractor(self.processor)
            return AudioDetector(spec, weights, self.architecture, self.classes, self.sidecar, normalised)
        kind = VideoDetector if self.architecture.task == "video" else ImageDetector
        return kind(spec, weights, self.architecture, self.classes, self.sidecar, self.preprocessing)

    def _input(self) -> str:
        if self.preprocessing is None:
            how = "zero mean and unit variance" if read_extractor(self.processor) else "as it is"
            return f"{self.sidecar.window_seconds:g} s of sound at 16 kHz, {how}; shorter sound at its own length"
        p = self.preprocessing
        steps = f"resize {p.size}, {p.resample}, crop {p.crop}, mean {_short(p.mean)}, std {_short(p.std)}"
        if self.architecture.task == "video":
            return f"{self._frames()} frames at {self.sidecar.frame_rate:g} Hz; {steps}"
        return f"{self.sidecar.rows} frames of a {self.unit.replace('_', ' ')}, each judged on its own; {steps}"

    def _clip(self) -> ClipGeometry:
        assert self.preprocessing is not None  # pictures
        size = self.preprocessing.size
        wanted = size if isinstance(size, int) else min(size) if size else 0
        short_side = max(ClipGeometry().short_side, min(wanted, 1080))
        if self.architecture.task == "video":
            rate = self.sidecar.frame_rate
            return ClipGeometry(self._frames(), rate, least_frame_rate=rate / 2, short_side=short_side)
        return ClipGeometry(short_side=short_side)

    def _frames(self) -> int:
        config = self.architecture.config
        frames = getattr(config, "num_frames", None) or getattr(config, "frames_per_clip", None)
        if type(frames) is not int or not 1 <= frames <= MOST_FRAMES:
            raise WeightsError(f"expected num_frames of 1 to {MOST_FRAMES} in {CONFIG}: got {str(frames)[:20]}")
        return frames

    def _audio(self) -> AudioGeometry:
        samples = round(self.sidecar.window_seconds * SOUND_RATE)
        return AudioGeometry(window_samples=samples, hop_samples=samples)


def _processor(weights: Weights) -> dict[str, Any]:
    """The config of the preprocessing; from `processor_config.json` only the part for pictures or sound."""
    name = next((name for name in PROCESSORS if name in weights.files), None)
    if name is None:
        raise WeightsError(f"expected one of {', '.join(PROCESSORS)} among the model's files")
    found = read_object(weights.read(name), name)
    for part in ("image_processor", "video_processor", "feature_extractor"):
        if isinstance(found.get(part), dict):
            inner: dict[str, Any] = found[part]
            return inner
    return found


def _weights_in(folder: Path) -> list[str]:
    if (folder / ONE_FILE).is_file():
        return [ONE_FILE]
    if (folder / INDEX).is_file():
        _check_sizes([folder / INDEX])
        shards = shards_of((folder / INDEX).read_bytes())
        missing = [shard for shard in shards if not (folder / shard).is_file()]
        if missing:
            raise WeightsError(f"expected the shards that {INDEX} names in {folder}: {', '.join(missing[:4])} missing")
        return [INDEX, *shards]
    pickled = [name for name in PICKLES if (folder / name).exists()]
    if pickled:
        raise WeightsError(
            f"expected {ONE_FILE} in {folder}: only {', '.join(pickled)} is there, which is never opened because "
            "such a file can run code; if you trust it, load it elsewhere and save it again with "
            "model.save_pretrained(DIR), or ask its author for safetensors"
        )
    raise WeightsError(f"expected {ONE_FILE} (or {INDEX} and its shards) in {folder}: it is not there")


def _short(values: tuple[float, ...]) -> str:
    return "/".join(f"{value:.3g}" for value in values)
