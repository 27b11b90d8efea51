"""Batches of one fixed shape: what one item does to a batch must not be felt by its neighbours.

A kernel may add up in another order when a batch has another size, so every forward pass has the same number of rows:
each item has its own place in it, missing rows are blank, and an item that fails is blanked while the others stay where
they are. Their logits are then the same bits as without it. Out of memory, the batch is halved for good, and logits
agree within `DetectorSpec.device_tolerance`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .base import Detector, Judgement

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
FAILED = "detector_error"


def spread(count: int, most: int) -> list[int]:
    """At most `most` positions of `count`, evenly spread, ascending.

    >>> spread(16, 4), spread(2, 4), spread(0, 4)
    ([2, 6, 10, 14], [0, 1], [])
    """
    taken = min(count, most)
    return [(2 * i + 1) * count // (2 * taken) for i in range(taken)]


class BatchedDetector(Detector):
    """A network over rows of one shape. Subclasses say how an item becomes rows and how its logits become an answer."""

    rows: int = 1
    """Rows of one item at most: frames or faces that are judged each by itself."""
    network: nn.Module
    device: torch.device
    dtype: torch.dtype

    @abstractmethod
    def build_network(self) -> nn.Module:
        """The network with its weights, on the CPU.

        Raises:
            WeightsError: the files are not what the detector expects.
        """

    @abstractmethod
    def prepare(self, item: Any) -> Tensor | Judgement:
        """(k, ...) rows of an item, 1 <= k <= rows, float32 on `self.device`; or why it cannot be judged."""

    def forward(self, batch: Tensor) -> Tensor:
        """(R, ...) rows at `self.dtype` → (R,) logits, > 0 = manipulated. Rows must not know of one another."""
        logits: Tensor = self.network(batch)
        return logits.reshape(len(batch))

    def conclude(self, item: Any, logits: Tensor) -> Judgement:
        """The answer from an item's own rows' logits, (k,) float32 on the CPU: here their mean."""
        return Judgement(logit=float(logits.mean()))

    def load(self, device: str) -> None:
        self.device = torch.device(device)
        self.dtype = DTYPES[self.spec.precision] if self.device.type == "cuda" else torch.float32
        self.network = self.build_network().to(self.device, self.dtype).eval().requires_grad_(False)
        self.batch_items = self.spec.batch_size
        """Items in one forward pass; less than `spec.batch_size` after the device ran out of memory."""

    @torch.inference_mode()
    def score(self, items: Sequence[Any]) -> list[Judgement]:
        answers: list[Judgement] = []
        while len(answers) < len(items):
            part = items[len(answers) : len(answers) + self.batch_items]
            try:
                answers += self._score_batch(part)
            except torch.OutOfMemoryError:
                if self.batch_items == 1:
                    raise
                self.batch_items //= 2
            else:
                continue
            # Outside the handler: while the exception lives, so do the tensors of its frames.
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        return answers

    def _score_batch(self, items: Sequence[Any]) -> list[Judgement]:
        prepared = [self._prepared(item) for item in items]
        places = {at: rows for at, rows in enumerate(prepared) if isinstance(rows, Tensor)}
        logits = self._logits(places)
        return [
            rows if isinstance(rows, Judgement) else self._concluded(item, logits[at])
            for at, (item, rows) in enumerate(zip(items, prepared, strict=True))
        ]

    def _prepared(self, item: Any) -> Tensor | Judgement:
        try:
            rows = self.prepare(item)
            if isinstance(rows, Tensor) and not 1 <= len(rows) <= self.rows:
                raise RuntimeError(f"{self.spec.name} made {len(rows)} rows of an item, expected 1 to {self.rows}")
            return rows
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever one item does to us is its own answer, and is counted
            return failed(error)

    def _logits(self, places: dict[int, Tensor]) -> dict[int, Tensor | Judgement]:
        """(k,) float32 on the CPU for the item at each place, or what went wrong with it."""
        if not places:
            return {}
        try:
            logits = self._forward(places)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if len(places) == 1:
                return dict.fromkeys(places, failed(error))
            # One of them did it: each alone, where it stood.
            return {at: answer for place in places.items() for at, answer in self._logits(dict([place])).items()}
        return {at: logits[at, : len(rows)] for at, rows in places.items()}

    def _forward(self, places: dict[int, Tensor]) -> Tensor:
        shape = next(iter(places.values())).shape[1:]
        batch = torch.zeros((self.batch_items, self.rows, *shape), dtype=self.dtype, device=self.device)
        for at, rows in places.items():
            batch[at, : len(rows)] = rows
        logits = self.forward(batch.flatten(0, 1))
        return logits.float().cpu().reshape(self.batch_items, self.rows)

    def _concluded(self, item: Any, logits: Tensor | Judgement) -> Judgement:
        if isinstance(logits, Judgement):
            return logits
        if not torch.isfinite(logits).all():
            return Judgement(abstained=FAILED, detail=f"{self.spec.name} answered {logits.tolist()}")
        try:
            return self.conclude(item, logits)
        except Exception as error:
            return failed(error)


def failed(error: Exception) -> Judgement:
    """What is said of an item on which a detector raised."""
    said = " ".join(f"{type(error).__name__}: {error}".split())
    return Judgement(abstained=FAILED, detail=said[:500])


def two_class_logit(logits: Tensor, fake: int, real: int) -> Tensor:
    """(R, 2) logits → (R,) fake minus real."""
    return logits[:, fake] - logits[:, real]


def logit_of_real(probability: float) -> float:
    """The logit for manipulation from a probability of being real: -log(p / (1 - p)), kept finite at 0 and 1."""
    p = min(max(probability, 1e-12), 1 - 1e-12)
    return -math.log(p / (1 - p))
