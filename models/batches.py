"""Batches of one fixed shape, so that no item can affect the answers of its neighbours.

A kernel may sum in another order when the batch size changes. So every forward pass has the same number of rows. Each
item has its own place, missing rows are blank, and an item that fails is blanked while the others stay in place. Their
logits are then the same bits as without it. If memory runs out, the batch is halved for good, and logits agree within
`DetectorSpec.device_tolerance`.
"""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from .base import ClipItem, Detector, Judgement, Precision, TrackItem
from .devices import same_bits_each_time
from .frames import KEPT
from .late import late

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
else:
    torch = late("torch")
    nn = late("torch.nn")

T = TypeVar("T")

FAILED = "detector_error"
MIN_CONFIDENCE = 0.7
"""Least confidence of a face that is judged."""
OUT_OF_MEMORY = r"out of memory|ALLOC_FAILED|can't allocate memory|failed to allocate memory|not enough memory"


def spread(count: int, most: int) -> list[int]:
    """At most `most` positions of `count`, evenly spread, ascending.

    >>> spread(16, 4), spread(2, 4), spread(0, 4)
    ([2, 6, 10, 14], [0, 1], [])
    """
    taken = min(count, most)
    return [(2 * i + 1) * count // (2 * taken) for i in range(taken)]


def film_frames(times: np.ndarray, count: int, frame_rate: float) -> np.ndarray | Judgement:
    """int64 [count]: frame positions for a network that takes `count` frames at `frame_rate` Hz, from the first on.

    Frames are dropped by a whole step, as in decoding. So a clip that is denser or longer because another detector
    asked for that gives the same frames. In a shorter clip some frames are repeated, evenly. Abstains with `too_short`
    if there are fewer than half of them.
    """
    between = np.diff(times)
    between = between[np.isfinite(between) & (between > 0)]
    own_rate = 1 / float(np.median(between)) if len(between) else frame_rate
    step = max(1, math.ceil(own_rate / frame_rate - 0.01))
    found = np.arange(0, len(times), step)[:count]
    if 2 * len(found) < max(2, count):
        return Judgement(abstained="too_short", detail=f"{len(found)} frames of {count}")
    return found[np.linspace(0, len(found) - 1, count).round().astype(np.int64)]


def spread_frames(item: ClipItem, most: int, least_side: int) -> np.ndarray | Judgement:
    """uint8 [k, H, W, 3]: at most `most` frames of a clip, evenly spread.

    Abstains with `too_short` (no frame), `low_resolution` (the shorter side has fewer than `least_side` pixels).
    """
    if not len(item.frames):
        return Judgement(abstained="too_short")
    if (side := min(item.frames.shape[1:3])) < least_side:
        return Judgement(
            abstained="low_resolution", detail=f"a side of {side} pixels, at least {least_side} are needed"
        )
    return item.frames[spread(len(item.frames), most)]


def spread_faces(
    item: TrackItem, places: np.ndarray, pixels: Callable[[np.ndarray], np.ndarray], least: float, most: int
) -> np.ndarray | Judgement:
    """int64 [k]: at most `most` rows of a track, evenly spread over those that show a face well enough.

    `places` are the track's boxes or landmarks, whichever defines the crop. `pixels` gives the size of the faces at
    such places, [n, ...] → [n]. Abstains with `no_face`, `face_hidden` (no confident face), `low_resolution` (no face
    has `least` pixels).
    """
    finite = np.isfinite(places.reshape(len(places), -1)).all(axis=1)
    sure = np.flatnonzero(finite & (item.confidences >= MIN_CONFIDENCE))
    if not len(item.confidences):
        return Judgement(abstained="no_face")
    if not len(sure):
        return Judgement(abstained="face_hidden", detail=f"no frame with a face of confidence {MIN_CONFIDENCE} or more")
    sizes = pixels(places[sure])
    large = sure[sizes >= least]
    if not len(large):
        detail = f"a face of {float(sizes.max()):.0f} pixels, at least {least:.0f} are needed"
        return Judgement(abstained="low_resolution", detail=detail)
    return large[spread(len(large), most)]


def at_precision(network: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The network on the device, in evaluation mode. At half precision its batch norms stay float32.

    In float16 a variance above 65,504 would become infinite, and its channel would silently give the same for every
    picture. A float32 batch norm takes and returns the dtype of its inputs.
    """
    norms = [layer for layer in network.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    exact = [layer.state_dict() for layer in norms]
    network = network.to(device, dtype)
    for layer, state in zip(norms, exact, strict=True) if dtype != torch.float32 else ():
        layer.float().load_state_dict(state)
    return network.eval().requires_grad_(False)


def dtype_of(precision: Precision) -> torch.dtype:
    """The torch dtype of that name."""
    dtype: torch.dtype = getattr(torch, precision)
    return dtype


class BatchedDetector(Detector):
    """A network over rows of one shape. Subclasses define how an item becomes rows and how logits become an answer."""

    rows: int = 1
    """Most rows of one item: frames or faces that are judged one by one."""
    cpu_items: int | None = 1
    """Items in one forward pass on a CPU. A core gains nothing from more, and blank rows cost as much as others. None:
    `spec.batch_size`, as on a GPU."""
    channels_last_on_cpu: bool = False
    """Whether the network runs with channels last on a CPU; set it where that is faster."""
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
        """(k, ...) rows of an item, 1 <= k <= rows, float32 on `self.device`; or an abstention."""

    def forward(self, batch: Tensor) -> Tensor:
        """(R, ...) rows at `self.dtype` → (R,) logits, > 0 = manipulated. Rows must not influence one another.

        A detector that compares rows returns (R, D) numbers instead. It makes the logit in `conclude`, which then gets
        (k, D).
        """
        logits: Tensor = self.network(batch)
        return logits.reshape(len(batch))

    def conclude(self, item: Any, logits: Tensor) -> Judgement:
        """The answer from the logits of an item's own rows, (k,) float32 on the CPU; here their mean."""
        return Judgement(logit=float(logits.mean()))

    def load(self, device: str) -> None:
        self.device = torch.device(device)
        self.dtype = dtype_of(self.spec.precision) if self.device.type == "cuda" else torch.float32
        same_bits_each_time(self.device)
        self.network = at_precision(self.build_network(), self.device, self.dtype)
        on_cpu = self.device.type == "cpu"
        if on_cpu and self.channels_last_on_cpu:
            self.network = self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.batch_items = (self.cpu_items if on_cpu else None) or self.spec.batch_size
        """Items in one forward pass; fewer than `spec.batch_size` after the device ran out of memory."""

    def score(self, items: Sequence[Any]) -> list[Judgement]:
        """Implements `Detector.score`. An error on one item becomes that item's answer.

        Raises:
            torch.OutOfMemoryError, or another error that means the same: not even one item fits. The batch then returns
                to its former size, because that item is to blame.
        """
        with torch.inference_mode():
            return self._scored(items)

    def _scored(self, items: Sequence[Any]) -> list[Judgement]:
        answers: list[Judgement] = []
        before, frames_gave_room = self.batch_items, False
        while len(answers) < len(items):
            size = self.batch_items  # another thread of the worker may halve it at any time
            try:
                answers += self._score_batch(items[len(answers) : len(answers) + size])
                continue
            except Exception as error:
                if not out_of_memory(error):
                    raise
                if not frames_gave_room and KEPT.release():
                    frames_gave_room = True
                elif size == 1:
                    self.batch_items = before
                    raise
                else:
                    self.batch_items = min(self.batch_items, size // 2)
            # Outside the handler: as long as the exception lives, it keeps the tensors in its stack frames alive.
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        return answers

    def _score_batch(self, items: Sequence[Any]) -> list[Judgement]:
        prepared = [self._prepared(item) for item in items]
        shape = _common_shape(rows.shape[1:] for rows in prepared if isinstance(rows, torch.Tensor))
        prepared = [self._fitting(rows, shape) for rows in prepared]
        logits = self._logits({at: rows for at, rows in enumerate(prepared) if isinstance(rows, torch.Tensor)})
        return [
            rows if isinstance(rows, Judgement) else self._concluded(item, logits[at])
            for at, (item, rows) in enumerate(zip(items, prepared, strict=True))
        ]

    def _prepared(self, item: Any) -> Tensor | Judgement:
        try:
            rows = self.prepare(item)
            if isinstance(rows, torch.Tensor) and not 1 <= len(rows) <= self.rows:
                raise RuntimeError(f"{self.spec.name} made {len(rows)} rows from one item, expected 1 to {self.rows}")
            return rows
        except Exception as error:  # an item's failure is that item's own answer, and is counted
            if out_of_memory(error):
                raise
            return failed(error)

    def _fitting(self, rows: Tensor | Judgement, shape: tuple[int, ...]) -> Tensor | Judgement:
        """Refuses rows whose shape differs from the other items': they cannot share a pass, and must not run alone in
        their own."""
        if isinstance(rows, Judgement) or rows.shape[1:] == shape:
            return rows
        detail = f"{self.spec.name} made rows of shape {tuple(rows.shape[1:])}, expected {shape} as for the other items"
        return failed(RuntimeError(detail))

    def _logits(self, places: dict[int, Tensor]) -> dict[int, Tensor | Judgement]:
        """By place: (k,) float32 on the CPU for each item, or its failure."""
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
        # One of them caused it: run each alone, in its own place (and outside the handler, as above).
        return {at: answer for at, rows in places.items() for answer in self._logits({at: rows}).values()}

    def _forward(self, places: dict[int, Tensor]) -> Tensor:
        """Rows by place → (batch_items, rows[, D]) float32 on the CPU; values of blank rows are meaningless."""
        shape = next(iter(places.values())).shape[1:]
        size = max(self.batch_items, max(places) + 1)  # see `score`
        batch = torch.zeros((size, self.rows, *shape), dtype=self.dtype, device=self.device)
        for at, rows in places.items():
            batch[at, : len(rows)] = rows
        logits = self.forward(batch.flatten(0, 1))
        count = size * self.rows
        if not 1 <= logits.dim() <= 2 or len(logits) != count:
            raise RuntimeError(f"{self.spec.name} gave {tuple(logits.shape)}, expected logits of {count} rows")
        return logits.float().cpu().reshape(size, self.rows, *logits.shape[1:])

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
    """The most frequent shape, the first of equally frequent ones; () for none."""
    counted = Counter(tuple(shape) for shape in shapes)
    return max(counted, key=lambda shape: counted[shape], default=())


def out_of_memory(error: BaseException) -> bool:
    """Whether a smaller batch may succeed where this one failed.

    torch has a class for its own allocator on a GPU. cuDNN, cuBLAS, the CPU's allocator and onnxruntime only say it in
    text.
    """
    known = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return known or re.search(OUT_OF_MEMORY, str(error), re.IGNORECASE) is not None


def failed(error: Exception) -> Judgement:
    """The answer for an item on which a detector raised."""
    message = " ".join(f"{type(error).__name__}: {error}".split())
    return Judgement(abstained=FAILED, detail=message[:500])


def judged_alone(judge: Callable[[T], Judgement], item: T) -> Judgement:
    """The answer of `judge` for an item that shares no forward pass with others. If it raises, that is this item's own
    answer, and is counted. Only running out of memory is raised, because fewer items at a time may help."""
    try:
        return judge(item)
    except Exception as error:
        if out_of_memory(error):
            raise
        return failed(error)


def two_class_logit(logits: Tensor, fake: int, real: int) -> Tensor:
    """(R, 2) logits → (R,) fake minus real."""
    return logits[:, fake] - logits[:, real]
