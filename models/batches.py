"""Batches of one fixed shape: what one item does to a batch must not be felt by its neighbours.

A kernel may add up in another order when a batch has another size, so every forward pass has the same number of rows:
each item has its own place in it, missing rows are blank, and an item that fails is blanked while the others stay where
they are. Their logits are then the same bits as without it. Out of memory, the batch is halved for good, and logits
agree within `DetectorSpec.device_tolerance`.
"""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .base import Detector, Judgement

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
FAILED = "detector_error"
OUT_OF_MEMORY = r"out of memory|ALLOC_FAILED|can't allocate memory|failed to allocate memory|not enough memory"


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
    cpu_items: int | None = 1
    """Items in one forward pass on a CPU: a core gains nothing from more, and blank rows cost as much as others.
    None: `spec.batch_size` there too."""
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
        """(R, ...) rows at `self.dtype` → (R,) logits, > 0 = manipulated. Rows must not know of one another.

        A detector that judges by what lies between rows answers (R, D) numbers of them instead, and makes the logit
        in `conclude`, which then gets (k, D).
        """
        logits: Tensor = self.network(batch)
        return logits.reshape(len(batch))

    def conclude(self, item: Any, logits: Tensor) -> Judgement:
        """The answer from an item's own rows' logits, (k,) float32 on the CPU: here their mean."""
        return Judgement(logit=float(logits.mean()))

    def load(self, device: str) -> None:
        self.device = torch.device(device)
        self.dtype = DTYPES[self.spec.precision] if self.device.type == "cuda" else torch.float32
        if self.device.type == "cuda":
            # TensorFloat-32 keeps 10 bits of a convolution's inputs: float32 would not be what it says. And the same
            # batch is to give the same bits twice, so no algorithm that adds up in whatever order it comes.
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cudnn.deterministic = True
        self.network = self.build_network().to(self.device, self.dtype).eval().requires_grad_(False)
        on_cpu = self.cpu_items if self.device.type == "cpu" else None
        self.batch_items = on_cpu or self.spec.batch_size
        """Items in one forward pass; less than `spec.batch_size` after the device ran out of memory."""

    @torch.inference_mode()
    def score(self, items: Sequence[Any]) -> list[Judgement]:
        """As `Detector.score`. What goes wrong with one item is that item's answer.

        Raises:
            torch.OutOfMemoryError, or what else says so: not even one item fits. The batch goes back to the size that
            it had before, for then that item is to blame.
        """
        answers: list[Judgement] = []
        before = self.batch_items
        while len(answers) < len(items):
            part = items[len(answers) : len(answers) + self.batch_items]
            try:
                answers += self._score_batch(part)
                continue
            except Exception as error:
                if not out_of_memory(error):
                    raise
                if self.batch_items == 1:
                    self.batch_items = before
                    raise
                self.batch_items //= 2
            # Outside the handler: while the exception lives, so do the tensors of its frames.
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        return answers

    def _score_batch(self, items: Sequence[Any]) -> list[Judgement]:
        prepared = [self._prepared(item) for item in items]
        shape = _common_shape(rows.shape[1:] for rows in prepared if isinstance(rows, Tensor))
        prepared = [self._fitting(rows, shape) for rows in prepared]
        logits = self._logits({at: rows for at, rows in enumerate(prepared) if isinstance(rows, Tensor)})
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
        except Exception as error:  # whatever one item does to us is its own answer, and is counted
            if out_of_memory(error):
                raise
            return failed(error)

    def _fitting(self, rows: Tensor | Judgement, shape: tuple[int, ...]) -> Tensor | Judgement:
        """Rows of another shape than the other items' cannot go with them, and shall not go alone in their own."""
        if isinstance(rows, Judgement) or rows.shape[1:] == shape:
            return rows
        told = f"{self.spec.name} made rows of shape {tuple(rows.shape[1:])}, expected {shape} as of the other items"
        return failed(RuntimeError(told))

    def _logits(self, places: dict[int, Tensor]) -> dict[int, Tensor | Judgement]:
        """(k,) float32 on the CPU for the item at each place, or what went wrong with it."""
        if not places:
            return {}
        try:
            logits = self._forward(places)
            return {at: logits[at, : len(rows)] for at, rows in places.items()}
        except Exception as error:
            if out_of_memory(error):
                raise
            if len(places) == 1:
                return dict.fromkeys(places, failed(error))
        # One of them did it: each alone, where it stood (and outside the handler, as above).
        return {at: answer for at, rows in places.items() for answer in self._logits({at: rows}).values()}

    def _forward(self, places: dict[int, Tensor]) -> Tensor:
        """Rows by place → (batch_items, rows[, D]) float32 on the CPU; what is said of blank rows means nothing."""
        shape = next(iter(places.values())).shape[1:]
        batch = torch.zeros((self.batch_items, self.rows, *shape), dtype=self.dtype, device=self.device)
        for at, rows in places.items():
            batch[at, : len(rows)] = rows
        logits = self.forward(batch.flatten(0, 1))
        count = self.batch_items * self.rows
        if not 1 <= logits.dim() <= 2 or len(logits) != count:
            raise RuntimeError(f"{self.spec.name} gave {tuple(logits.shape)}, expected logits of {count} rows")
        return logits.float().cpu().reshape(self.batch_items, self.rows, *logits.shape[1:])

    def _concluded(self, item: Any, logits: Tensor | Judgement) -> Judgement:
        if isinstance(logits, Judgement):
            return logits
        if not torch.isfinite(logits).all():
            return failed(FloatingPointError(f"{self.spec.name} answered {logits.flatten()[:8].tolist()}"))
        try:
            return self.conclude(item, logits)
        except Exception as error:
            return failed(error)


def _common_shape(shapes: Iterable[torch.Size]) -> tuple[int, ...]:
    """The shape that most have, of equally many the first; () for none."""
    counted = Counter(tuple(shape) for shape in shapes)
    return max(counted, key=lambda shape: counted[shape], default=())


def out_of_memory(error: BaseException) -> bool:
    """Whether a smaller batch may well do what this one could not.

    torch has a class for its own allocator on a GPU; cuDNN, cuBLAS, the CPU's allocator and onnxruntime use words.
    """
    known = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return known or re.search(OUT_OF_MEMORY, str(error), re.IGNORECASE) is not None


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
