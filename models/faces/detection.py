"""Finds faces with their five landmarks: MTCNN, batched over frames, on any device.

Takes uint8 RGB frames, returns boxes, landmarks and confidences in their pixels. The weights are those in the `mtcnn`
wheel (see mtcnn_weights.py). Differences from the authors' code: frames are searched at a short side of at most 360,
crops are read from a pyramid instead of being aliased, and a whole batch goes through each stage at once.

Known blind spots: profiles beyond about 60 degrees, faces lying on their side or upside down, faces of fewer than about
24 pixels at a short side of 360, masks and heavy occlusion. It takes some hands, rocks and patterns for faces.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..devices import same_bits_each_time
from ..frames import KEPT, apart, frames_at, frames_on
from ..signals.resampling import resize
from .crops import GREY, scaled_squares
from .mtcnn import ONet, PNet, RNet, crop, suppress
from .mtcnn_weights import load_mtcnn_arrays
from .tracking import Faces

__all__ = ["FaceDetector", "Faces"]

SEARCH_SHORT_SIDE = 360
"""Pixels. Larger frames are reduced to this for the search: the cost grows with the area, and no face worth judging is
lost."""
CELL = 12
"""Pixels of the window behind one output of the proposal network."""
SCALE_STEP = 0.709
"""Ratio between levels of its pyramid (as the authors': half the area)."""
CHUNK_PIXELS = 4_000_000
"""Pixels searched at once (17 frames of 640 x 360). A single larger frame is reduced to it. Bounds the memory."""
MOST_PROPOSALS = 256
"""For each frame and level, and again for each frame. No picture, however hostile, takes more memory than this."""


class FaceDetector:
    """MTCNN on one device. Keeps no state between calls."""

    def __init__(
        self,
        device: str = "cpu",
        min_face_pixels: float = 24.0,
        thresholds: tuple[float, float, float] = (0.6, 0.7, 0.7),
    ):
        """`min_face_pixels`: the smallest face searched for, on the frame as it is searched (short side at most 360). A
        value of 20 finds hardly more faces that can be judged, but more patterns that are not faces, and takes a
        quarter longer. `thresholds`: least probability after each of the three networks.

        Raises:
            ValueError: `min_face_pixels` is below CELL.
            FaceWeightsError: the weights are missing or were changed.
        """
        if min_face_pixels < CELL:
            raise ValueError(f"faces of fewer than {CELL} pixels cannot be found: got {min_face_pixels = }")
        self.device = torch.device(device)
        same_bits_each_time(self.device)
        self.min_face_pixels = min_face_pixels
        self.thresholds = thresholds
        arrays = load_mtcnn_arrays()
        self._pnet = PNet(arrays["pnet"]).to(self.device)
        self._rnet = RNet(arrays["rnet"]).to(self.device)
        self._onet = ONet(arrays["onet"]).to(self.device)

    @torch.inference_mode()
    def detect(self, frames: np.ndarray, positions: np.ndarray | None = None) -> list[Faces]:
        """uint8 [T, H, W, 3] RGB → the faces on each frame, or on those at `positions`, most confident first.

        A frame gives the same answer alone or among others, within 0.01 px and 1e-4 of confidence.
        """
        _check(frames)
        height, width = frames.shape[1:3]
        positions = np.arange(len(frames)) if positions is None else positions
        shrink = min(
            1.0, SEARCH_SHORT_SIDE / max(1, min(height, width)), (CHUNK_PIXELS / max(1, height * width)) ** 0.5
        )
        size = (max(1, round(height * shrink)), max(1, round(width * shrink)))
        chunk = max(1, CHUNK_PIXELS // (size[0] * size[1]))
        faces: list[Faces] = []
        start = 0
        while start < len(positions):
            try:
                chosen = frames_at(frames, positions[start : start + chunk], self.device)
                faces += self._search(self._resized(chosen.permute(0, 3, 1, 2), size))
            except torch.OutOfMemoryError:
                if KEPT.release():
                    continue
                if chunk == 1:
                    raise
                chunk = max(1, min(chunk, len(positions)) // 2)
                continue
            start += chunk
        scale = np.array([width / size[1], height / size[0]], dtype=np.float32)
        return [Faces(f.boxes * np.tile(scale, 2), f.landmarks * scale, f.confidences) for f in faces]

    @torch.inference_mode()
    def refine(self, frames: np.ndarray, positions: np.ndarray, boxes: np.ndarray) -> Faces:
        """Runs only the output network on known places: [N] positions in `frames`, [N, 4] boxes → Faces [N].

        A place without a face comes back with a low confidence and a meaningless box.
        """
        _check(frames)
        count = len(positions)
        if not count:
            return _no_faces()
        squares = _squares_around(boxes, *frames.shape[1:3])
        crops = self._cut(frames, positions, squares)
        windows = torch.from_numpy(squares[:, [0, 1, 0, 1]]).float()
        windows[:, 2:] += torch.from_numpy(squares[:, 2:])
        parts = []
        for start in range(0, count, 256):
            rows = slice(start, start + 256)
            parts.append(self._output(_normal(crops[rows]), windows[rows].to(self.device)))
        boxes_out, landmarks, scores = (torch.cat(p).cpu().numpy() for p in zip(*parts, strict=True))
        return Faces(boxes_out, landmarks, scores)

    def _cut(self, frames: np.ndarray, positions: np.ndarray, squares: np.ndarray) -> Tensor:
        """[N] positions, int [N, 3] left, top and side → uint8 (N, 3, 48, 48) on the device, grey beyond the edges."""
        if apart(self.device):
            return scaled_squares(frames_on(frames, self.device), positions, squares, 48, "grey")
        crops = torch.empty((len(squares), 3, 48, 48), dtype=torch.uint8, memory_format=torch.channels_last)
        for row, (position, square) in enumerate(zip(positions, squares.tolist(), strict=True)):
            crops[row] = _window(frames[position], *square)
        return crops

    def _search(self, frames: Tensor) -> list[Faces]:
        """uint8 (B, 3, H, W) → the faces on each frame, in its pixels."""
        index, boxes = self._propose(frames)
        if not len(index):
            return [_no_faces()] * len(frames)
        pyramid = [_normal(frames).contiguous()]
        height, width = frames.shape[2:]
        while min(height, width) >= 4 * CELL:
            height, width = height // 2, width // 2
            pyramid.append(_normal(self._resized(frames, (height, width))).contiguous())
        index, boxes = self._refined(pyramid, index, boxes)
        crops = crop(pyramid, index, boxes, 48)
        boxes, landmarks, scores = self._output(crops, boxes)
        sure = (scores > self.thresholds[2]).nonzero()[:, 0]
        kept = sure[suppress(boxes[sure], scores[sure], index[sure], 0.7, True, MOST_PROPOSALS)]
        index, boxes, landmarks, scores = (t[kept] for t in (index, boxes, landmarks, scores))
        rows = index.cpu().numpy()
        all_faces = Faces(boxes.cpu().numpy(), landmarks.cpu().numpy(), scores.cpu().numpy())
        return [all_faces.take(rows == frame) for frame in range(len(frames))]

    def _propose(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """First network over a pyramid of whole frames → each proposal's frame (N,) and square box (N, 4)."""
        found = []
        for height, width in self._levels(*frames.shape[2:]):
            images = _normal(self._resized(frames, (height, width))).contiguous(memory_format=torch.channels_last)
            offsets, scores = self._pnet(images)
            index, y, x = (scores > self.thresholds[0]).nonzero(as_tuple=True)
            corner = torch.stack([x, y, x, y], dim=1).float() * 2.0
            corner[:, 2:] += CELL
            scale = corner.new_tensor([frames.shape[3] / width, frames.shape[2] / height]).repeat(2)
            cells = corner * scale
            boxes = (corner + offsets[index, :, y, x].float() * CELL) * scale
            scores = scores[index, y, x]
            kept = suppress(cells, scores, index, 0.5, False, MOST_PROPOSALS)
            found.append((index[kept], boxes[kept], scores[kept]))
        if not found:
            return frames.new_zeros(0, dtype=torch.long), frames.new_zeros((0, 4), dtype=torch.float32)
        index, boxes, scores = (torch.cat(parts) for parts in zip(*found, strict=True))
        kept = suppress(boxes, scores, index, 0.7, False, MOST_PROPOSALS)
        return index[kept], _squares(boxes[kept])

    def _refined(self, pyramid: list[Tensor], index: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Second network on the proposals → the remaining ones, square again."""
        offsets, scores = self._rnet(crop(pyramid, index, boxes, 24))
        sure = (scores > self.thresholds[1]).nonzero()[:, 0]
        boxes, index, scores = _moved(boxes, offsets)[sure], index[sure], scores[sure]
        kept = suppress(boxes, scores, index, 0.7, False, MOST_PROPOSALS)
        return index[kept], _squares(boxes[kept])

    def _output(self, crops: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        offsets, landmarks, scores = self._onet(crops)
        size = boxes[:, 2:] - boxes[:, :2]
        return _moved(boxes, offsets), boxes[:, None, :2] + landmarks * size[:, None], scores

    def _levels(self, height: int, width: int) -> Iterator[tuple[int, int]]:
        scale = CELL / self.min_face_pixels
        while min(height, width) * scale >= CELL:
            yield 2 * round(height * scale / 2), 2 * round(width * scale / 2)  # even sizes need no padding to halve
            scale *= SCALE_STEP

    def _resized(self, frames: Tensor, size: tuple[int, int]) -> Tensor:
        """uint8 (B, 3, H, W) → uint8 (B, 3, *size)."""
        if tuple(frames.shape[2:]) == size:
            return frames
        if frames.device.type == "cpu":  # only the CPU has a vectorised kernel for bytes
            return F.interpolate(frames, size=size, mode="bilinear", antialias=True)
        return resized_elsewhere(frames, size)


def resized_elsewhere(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 (B, 3, H, W) → uint8 (B, 3, *size), on any device. Equals the CPU kernel except for one level in a few
    pixels of a thousand.

    In floating point one pixel in ten differed, which moved a box of 87 pixels by 4 (on an H200).
    """
    return resize(frames, *size).to(torch.uint8)


def _check(frames: np.ndarray) -> None:
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8:
        raise ValueError(f"expected uint8 [B, H, W, 3]: got {frames.shape = }, {frames.dtype = }")


def _normal(pixels: Tensor) -> Tensor:
    return pixels.float().sub_(127.5).mul_(1 / 128)


def _moved(boxes: Tensor, offsets: Tensor) -> Tensor:
    size = boxes[:, 2:] - boxes[:, :2]
    return boxes + offsets.float() * torch.cat([size, size], dim=1)


def _squares(boxes: Tensor) -> Tensor:
    """The same centres; both sides as long as the longer one."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).amax(dim=1, keepdim=True).clamp(min=1.0) / 2
    return torch.cat([centre - half, centre + half], dim=1)


def _squares_around(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """[N, 4] → int64 [N, 3]: left, top and side of the square around each box, in whole pixels."""
    sides = np.clip(np.round((boxes[:, 2:] - boxes[:, :2]).max(axis=1)), CELL, 4 * max(height, width))
    corners = np.round((boxes[:, :2] + boxes[:, 2:] - sides[:, None]) / 2)
    squares: np.ndarray = np.concatenate([corners, sides[:, None]], axis=1).astype(np.int64)
    return squares


def _window(frame: np.ndarray, left: int, top: int, side: int) -> Tensor:
    """A square of a frame scaled to 48 × 48, uint8 (3, 48, 48).

    It is cut out before any conversion, which would cost more than the network on whole frames.
    """
    height, width = frame.shape[:2]
    patch = np.full((side, side, 3), GREY, dtype=np.uint8)
    y1, y2, x1, x2 = max(top, 0), min(top + side, height), max(left, 0), min(left + side, width)
    if y1 < y2 and x1 < x2:
        patch[y1 - top : y2 - top, x1 - left : x2 - left] = frame[y1:y2, x1:x2]
    planes = torch.from_numpy(patch).permute(2, 0, 1)[None]
    return F.interpolate(planes, size=(48, 48), mode="bilinear", antialias=True)[0]


def _no_faces() -> Faces:
    return Faces(np.zeros((0, 4), np.float32), np.zeros((0, 5, 2), np.float32), np.zeros(0, np.float32))
