"""Image and video classifiers of transformers for clips or faces: which frames they get, and as which tensors."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...base import ClipItem, DetectorSpec, Judgement, TrackItem
from ...batches import BatchedDetector
from ...signals.preprocess import ImagePreprocessing, crop_box, images_at
from ...weights.files import Weights
from ..items import film_of, seen_frames
from ..labels import Classes
from .network import Architecture, build
from .sidecar import Sidecar


class HfDetector(BatchedDetector):
    """A classifier of transformers. It gets rows under its main input's name; its logits are combined into one."""

    def __init__(
        self, spec: DetectorSpec, weights: Weights, architecture: Architecture, classes: Classes, sidecar: Sidecar
    ) -> None:
        super().__init__(spec, weights)
        self.architecture, self.classes, self.sidecar = architecture, classes, sidecar

    def build_network(self) -> nn.Module:
        return build(self.architecture, self.weights)

    @abstractmethod
    def blank_row(self) -> Tensor:
        """(1, ...): a row of a shape that an item may give."""

    def forward(self, batch: Tensor) -> Tensor:
        answers = self.network(**{str(self.network.main_input_name): batch}).logits
        if answers.shape != (len(batch), len(self.classes.names)):
            raise RuntimeError(
                f"expected {len(self.classes.names)} logits a row, one for each label: got {tuple(answers.shape)}"
            )
        return self.classes.logit(answers.float())

    def _fitting(self, rows: Tensor | Judgement, shape: tuple[int, ...]) -> Tensor | Judgement:
        return rows  # any shape is allowed, see `_logits`

    def _logits(self, places: dict[int, Tensor]) -> dict[int, Tensor | Judgement]:
        # Short windows, and networks that take any shape, give rows of different shapes: each shape has its own pass.
        by_shape: dict[torch.Size, dict[int, Tensor]] = {}
        for at, rows in places.items():
            by_shape.setdefault(rows.shape[1:], {})[at] = rows
        answers: dict[int, Tensor | Judgement] = {}
        for alike in by_shape.values():
            answers.update(super()._logits(alike))
        return answers


class PictureDetector(HfDetector):
    """The common part of image and video classifiers: preprocessing, and faces cropped from their frames."""

    def __init__(
        self,
        spec: DetectorSpec,
        weights: Weights,
        architecture: Architecture,
        classes: Classes,
        sidecar: Sidecar,
        preprocessing: ImagePreprocessing,
    ) -> None:
        super().__init__(spec, weights, architecture, classes, sidecar)
        self.preprocessing = preprocessing

    def blank_pictures(self, count: int) -> Tensor:
        size = self.preprocessing.size
        height, width = size if isinstance(size, tuple) else (size or 224, size or 224)
        return self.preprocessing(torch.zeros((count, 3, height, width), dtype=torch.uint8, device=self.device))

    def pictures(self, item: ClipItem | TrackItem, chosen: np.ndarray) -> Tensor:
        """(k, 3, h, w): the frames at these positions of a clip, or the face at these positions of its track."""
        if isinstance(item, ClipItem):
            return self.preprocessing(images_at(item.frames, chosen, self.device))
        frames, wider = images_at(item.clip.frames, item.frame_positions[chosen], self.device), self.sidecar.face_scale
        crops = [
            self.preprocessing(crop_box(frame, box, wider, wider)[None])
            for frame, box in zip(frames, item.boxes[chosen], strict=True)
        ]
        return torch.cat(crops)


class ImageDetector(PictureDetector):
    """Judges a few pictures of a clip or a face, each by itself. The answer is their mean logit."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.rows = self.sidecar.rows

    def blank_row(self) -> Tensor:
        return self.blank_pictures(1)

    def prepare(self, item: ClipItem | TrackItem) -> Tensor | Judgement:
        chosen = seen_frames(item, self.rows)
        return chosen if isinstance(chosen, Judgement) else self.pictures(item, chosen)


class VideoDetector(PictureDetector):
    """One row is a film of `frames` pictures, (T, 3, h, w)."""

    @property
    def frames(self) -> int:
        assert self.spec.clip is not None  # set by `describe`
        return self.spec.clip.frames

    def blank_row(self) -> Tensor:
        return self.blank_pictures(self.frames)[None]

    def prepare(self, item: ClipItem | TrackItem) -> Tensor | Judgement:
        chosen = film_of(item, self.frames, self.sidecar.frame_rate)
        return chosen if isinstance(chosen, Judgement) else self.pictures(item, chosen)[None]
