"""Turns items into rows and outputs into logits, as a model's settings say. Shared by the users' own models."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..base import AudioItem, ClipItem, DetectorSpec, Judgement, TrackItem
from ..batches import BatchedDetector, film_frames, out_of_memory, spread, spread_faces
from ..signals.preprocess import crop_box, images_at
from ..signals.speech import unheard
from ..weights.files import Weights, WeightsError
from .settings import AudioSettings, ImageSettings, Settings

LEAST_FACE_PIXELS = 12
"""Least shorter side of a face's box; a smaller face cannot be judged."""


class SettingsDetector(BatchedDetector):
    """A model whose input and output a settings file describes."""

    def __init__(self, spec: DetectorSpec, weights: Weights, settings: Settings) -> None:
        super().__init__(spec, weights)
        self.settings = settings
        self.rows = settings.rows

    @abstractmethod
    def build_network(self) -> Rows:
        """The model, on `self.device`."""

    def load(self, device: str) -> None:
        """Does what `BatchedDetector.load` does, then gives the model a blank row, so that a mismatch shows before an
        audit begins and not on each of its items."""
        super().load(device)
        row = torch.zeros((1, *self.settings.row_shape), dtype=self.dtype, device=self.device)
        try:
            with torch.inference_mode():
                self.forward(row)
        except Exception as error:  # a model may raise anything
            if out_of_memory(error):
                raise
            message = " ".join(str(error).split())
            raise WeightsError(f"the model cannot be used with these settings: {message[:300]}") from error

    def prepare(self, item: Any) -> Tensor | Judgement:
        if self.settings.audio is not None:
            return sound_row(item, self.settings.audio, self.device)
        assert self.settings.image is not None  # `read_settings` gives one of the two
        assert self.spec.clip is not None
        return picture_rows(item, self.settings.image, self.spec.clip.frame_rate, self.device)

    def forward(self, batch: Tensor) -> Tensor:
        return to_logits(self.network(batch), self.settings)


def picture_rows(
    item: ClipItem | TrackItem, image: ImageSettings, frame_rate: float, device: torch.device
) -> Tensor | Judgement:
    """(k, …) rows of a clip or of a face's crops: some of its frames, or one film. Crops differ in size, so each one is
    resized separately."""
    film = image.video_frames
    chosen = film_of(item, film, frame_rate) if film else seen_frames(item, image.frames)
    if isinstance(chosen, Judgement):
        return chosen
    if isinstance(item, ClipItem):
        return _stacked(image.preprocessing(images_at(item.frames, chosen, device)), image)
    frames, scale = images_at(item.clip.frames, item.frame_positions[chosen], device), image.face_scale
    crops = [
        image.preprocessing(crop_box(frame, box, scale, scale, square=image.face_square)[None])
        for frame, box in zip(frames, item.boxes[chosen], strict=True)
    ]
    return _stacked(torch.cat(crops), image)


def seen_frames(item: ClipItem | TrackItem, most: int) -> np.ndarray | Judgement:
    """int64 [k <= most]: positions in a clip or a track that can be judged, evenly spread."""
    if isinstance(item, TrackItem):
        return spread_faces(item, item.boxes, _shorter_side, LEAST_FACE_PIXELS, most)
    return np.asarray(spread(len(item.frames), most)) if len(item.frames) else Judgement(abstained="too_short")


def film_of(item: ClipItem | TrackItem, count: int, frame_rate: float) -> np.ndarray | Judgement:
    """int64 [count]: the positions of one film; see `film_frames`."""
    if isinstance(item, ClipItem):
        return film_frames(item.pts_seconds, count, frame_rate)
    seen = seen_frames(item, len(item.boxes))
    if isinstance(seen, Judgement):
        return seen
    film = film_frames(item.clip.pts_seconds[item.frame_positions[seen]], count, frame_rate)
    return film if isinstance(film, Judgement) else seen[film]


def _shorter_side(boxes: np.ndarray) -> np.ndarray:
    """Boxes [N, 4] x1 y1 x2 y2 → [N]."""
    sides: np.ndarray = (boxes[:, 2:] - boxes[:, :2]).min(axis=1)
    return sides


def _stacked(pictures: Tensor, image: ImageSettings) -> Tensor:
    """(N, 3, H, W) → (N, 3, H, W), (1, N, 3, H, W) or (1, 3, N, H, W)."""
    if image.bgr:
        pictures = pictures.flip(1)
    if image.layout == "BCHW":
        return pictures
    return (pictures if image.layout == "BTCHW" else pictures.transpose(0, 1))[None]


def sound_row(item: AudioItem, audio: AudioSettings, device: torch.device) -> Tensor | Judgement:
    """The sound as a row (1, window_samples)."""
    if (nothing := unheard(item.samples)) is not None:
        return nothing
    samples = torch.from_numpy(item.samples).to(device, torch.float32)
    window = audio.window_samples
    samples = samples[:window]
    if audio.normalise:  # before padding, so that the zeros do not count
        samples = normalised(samples)
    if audio.short == "tile":
        samples = samples.repeat(-(-window // len(samples)))[:window]
    return F.pad(samples, (0, window - len(samples)))[None]


def normalised(samples: Tensor) -> Tensor:
    """(S,) → (S,) with zero mean and unit variance, as `Wav2Vec2FeatureExtractor` does it."""
    return (samples - samples.mean()) / torch.sqrt(samples.var(correction=0) + 1e-7)


def to_logits(answers: Tensor, settings: Settings) -> Tensor:
    """(R, C) or (R,) outputs of the model → (R,) logits, > 0 = manipulated.

    Raises:
        RuntimeError: the outputs do not have the columns or the range that the settings say.
    """
    answers = answers.float().reshape(len(answers), -1)
    columns = answers.shape[1]
    if columns < settings.classes or (settings.positive and columns != 1):
        raise RuntimeError(
            f"{settings.output!r} with these settings needs {settings.classes} numbers per row, but the model returned "
            f"{columns}: see 'output', 'fake' and 'real'"
        )
    if settings.output == "logits":
        return answers[:, list(settings.fake)].logsumexp(1) - answers[:, list(settings.real)].logsumexp(1)
    if settings.output != "logit" and ((answers < -1e-4) | (answers > 1 + 1e-4)).any():
        raise RuntimeError(
            f"{settings.output!r}: expected numbers in [0, 1], but some are outside: does the model return logits?"
        )
    if settings.output == "probabilities":
        fake, real = (answers[:, list(i)].sum(1).clamp(min=1e-12) for i in (settings.fake, settings.real))
        return fake.log() - real.log()
    logits = (
        torch.logit(answers[:, 0].double(), eps=1e-12).float() if settings.output == "probability" else answers[:, 0]
    )
    return logits if settings.positive == "fake" else -logits


class Rows(nn.Module):
    """Runs a batch of any size on a model with fixed batch sizes: in passes, with blank rows to fill the last one.

    The graph keeps its own precision and device, so that `.to()` has nothing to move.
    """

    def __init__(self, least: int = 1, most: int | None = None, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.least, self.most, self.dtype = least, most, dtype

    @abstractmethod
    def run(self, batch: Tensor) -> Tensor:
        """(least <= R <= most, …) at `dtype` → (R, …)."""

    def forward(self, batch: Tensor) -> Tensor:
        """(R, …) → (R, …). Batches of the same size are always split into the same passes."""
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
    """Checks a model's input shape (batch first, None for a free side) against the settings, and returns it.

    Raises:
        WeightsError: the shape does not fit the settings.
    """
    wanted = settings.row_shape
    if len(found) != len(wanted) + 1 or any(f not in (None, w) for f, w in zip(found[1:], wanted, strict=True)):
        shown = ", ".join("any" if side is None else str(side) for side in found)
        raise WeightsError(
            f"{name}: its settings say that the input is (batch, {', '.join(map(str, wanted))}), "
            f"but the model takes ({shown}): change the settings or export it again"
        )
    return found
