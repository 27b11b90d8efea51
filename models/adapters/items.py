"""Items → rows → logits, as the settings beside a model say: shared by all models of the user's own."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..base import AudioItem, ClipItem, DetectorSpec, Judgement, TrackItem
from ..batches import BatchedDetector, spread
from ..preprocess import crop_box, to_images
from ..weights import Weights, WeightsError
from .settings import AudioSettings, ImageSettings, Settings

LEAST_FACE_PIXELS = 12
"""Side of a face's box: below it there is nothing to judge."""


class SettingsDetector(BatchedDetector):
    """A model whose input and output a settings file describes."""

    def __init__(self, spec: DetectorSpec, weights: Weights, settings: Settings) -> None:
        super().__init__(spec, weights)
        self.settings = settings
        self.rows = settings.rows

    @abstractmethod
    def build_network(self) -> Rows:
        """The model, on `self.device`."""

    def prepare(self, item: Any) -> Tensor | Judgement:
        if self.settings.audio is not None:
            return sound_row(item, self.settings.audio, self.device)
        assert self.settings.image is not None  # one of both is there: `read_settings`
        if isinstance(item, TrackItem):
            return face_rows(item, self.settings.image, self.device)
        return clip_rows(item, self.settings.image, self.device)

    def forward(self, batch: Tensor) -> Tensor:
        return to_logits(self.network(batch), self.settings)


def clip_rows(item: ClipItem, image: ImageSettings, device: torch.device) -> Tensor | Judgement:
    """(k, …) rows of a clip: frames spread over it, or one film."""
    count = image.video_frames or image.frames
    if len(item.frames) < max(1, image.video_frames):
        return Judgement(abstained="too_short", detail=f"{len(item.frames)} frames of {max(1, image.video_frames)}")
    return _stacked(image.preprocessing(to_images(item.frames[spread(len(item.frames), count)], device)), image)


def face_rows(item: TrackItem, image: ImageSettings, device: torch.device) -> Tensor | Judgement:
    """(k, …) rows of a face's crops, spread over its track; crops differ in size, so each is resized by itself."""
    boxes, large = item.boxes, large_faces(item.boxes)
    if isinstance(large, Judgement):
        return large
    count = image.video_frames or image.frames
    if len(large) < max(1, image.video_frames):
        return Judgement(abstained="too_short", detail=f"{len(large)} faces of {image.video_frames}")
    chosen = large[spread(len(large), count)]
    frames = to_images(item.clip.frames[item.frame_positions[chosen]], device)
    scale = image.face_scale
    crops = [
        image.preprocessing(crop_box(frame, boxes[at], scale, scale, square=image.face_square)[None])
        for frame, at in zip(frames, chosen, strict=True)
    ]
    return _stacked(torch.cat(crops), image)


def _stacked(pictures: Tensor, image: ImageSettings) -> Tensor:
    """(N, 3, H, W) → (N, 3, H, W), (1, N, 3, H, W) or (1, 3, N, H, W)."""
    if image.bgr:
        pictures = pictures.flip(1)
    if image.layout == "BCHW":
        return pictures
    return (pictures if image.layout == "BTCHW" else pictures.transpose(0, 1))[None]


def sound_row(item: AudioItem, audio: AudioSettings, device: torch.device) -> Tensor | Judgement:
    """(1, window_samples)."""
    samples = torch.from_numpy(item.samples).to(device, torch.float32)
    if not len(samples):
        return Judgement(abstained="too_short", detail="no sound in the window")
    window = audio.window_samples
    samples = samples[:window]
    if audio.normalise:  # before padding, so that the zeros do not count
        samples = normalised(samples)
    if audio.short == "tile":
        samples = samples.repeat(-(-window // len(samples)))[:window]
    return F.pad(samples, (0, window - len(samples)))[None]


def normalised(samples: Tensor) -> Tensor:
    """(S,) → (S,) of zero mean and unit variance, as `Wav2Vec2FeatureExtractor` does it."""
    return (samples - samples.mean()) / torch.sqrt(samples.var(correction=0) + 1e-7)


def large_faces(boxes: np.ndarray) -> np.ndarray | Judgement:
    """int64 [k]: places of the boxes, float32 [N, 4], that are large enough to judge; or why there is none."""
    large = np.flatnonzero((boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf) >= LEAST_FACE_PIXELS)
    if not len(large):  # NaN compares false
        return Judgement(abstained="low_resolution" if len(boxes) else "no_face")
    return large


def to_logits(answers: Tensor, settings: Settings) -> Tensor:
    """(R, C) or (R,) numbers of the model → (R,) logits, > 0 = manipulated.

    Raises:
        RuntimeError: it answered another number of columns than the settings say.
    """
    answers = answers.float().reshape(len(answers), -1)
    columns = answers.shape[1]
    if columns < settings.classes or (settings.positive and columns != 1):
        raise RuntimeError(
            f"{settings.output!r} with these settings needs {settings.classes} numbers a row, the model answered "
            f"{columns}: see 'output', 'fake' and 'real'"
        )
    if settings.output == "logits":
        return answers[:, list(settings.fake)].logsumexp(1) - answers[:, list(settings.real)].logsumexp(1)
    if settings.output != "logit" and ((answers < -1e-4) | (answers > 1 + 1e-4)).any():
        raise RuntimeError(f"{settings.output!r}: expected numbers in [0, 1], the model answered others: logits?")
    if settings.output == "probabilities":
        fake, real = (answers[:, list(i)].sum(1).clamp(min=1e-12) for i in (settings.fake, settings.real))
        return fake.log() - real.log()
    logits = (
        torch.logit(answers[:, 0].double(), eps=1e-12).float() if settings.output == "probability" else answers[:, 0]
    )
    return logits if settings.positive == "fake" else -logits


class Rows(nn.Module):
    """A model of given batch sizes behind a batch of any: rows go through it in passes, blanks fill the last.

    It holds the graph's own precision and device, so that `.to()` has nothing to move.
    """

    def __init__(self, least: int = 1, most: int | None = None, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.least, self.most, self.dtype = least, most, dtype

    @abstractmethod
    def run(self, batch: Tensor) -> Tensor:
        """(least <= R <= most, …) at `dtype` → (R, …)."""

    def forward(self, batch: Tensor) -> Tensor:
        """(R, …) → (R, …); the passes are cut the same for every batch of one size."""
        batch = batch.to(self.dtype)
        step = max(self.least, min(len(batch), self.most or len(batch)))
        answers = []
        for at in range(0, len(batch), step):
            part = batch[at : at + step]
            missing = step - len(part)
            if missing:
                part = torch.cat([part, part.new_zeros(missing, *part.shape[1:])])
            found = self.run(part)
            if found.ndim < 1 or len(found) != step:
                raise RuntimeError(f"expected {step} rows from the model, got the shape {tuple(found.shape)}")
            answers.append(found[: step - missing])
        return torch.cat(answers)


def check_row_shape(found: tuple[int | None, ...], settings: Settings, name: str) -> tuple[int | None, ...]:
    """Holds a model's input shape, batch first, None for a free side, against the settings.

    Raises:
        WeightsError: they do not fit.
    """
    wanted = settings.row_shape
    if len(found) != len(wanted) + 1 or any(f not in (None, w) for f, w in zip(found[1:], wanted, strict=True)):
        shown = ", ".join("any" if side is None else str(side) for side in found)
        raise WeightsError(
            f"{name}: by its settings the input is (batch, {', '.join(map(str, wanted))}), "
            f"but the model takes ({shown}): change the settings or export it again"
        )
    return found
