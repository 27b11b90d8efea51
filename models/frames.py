"""The frames of a clip on the device where the networks run: copied there once, and read there by all.

Following faces, cutting them out, measuring motion and most networks over pictures need the same pixels. On a CPU they
all read the array that the decoder handed over. On a GPU the whole clip is copied when the first of them needs it, and
the copy stays there as long as the clip is being judged.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .late import late

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = late("torch")

MOST_KEPT_BYTES = 2 << 30
"""Of frames on a GPU for one process: twenty clips of 60 frames of 960 × 540."""


def apart(device: torch.device) -> bool:
    """Whether the device has a memory of its own, so that work there is done for many frames at once."""
    return device.type != "cpu"


def frames_on(frames: np.ndarray, device: torch.device | str) -> Tensor:
    """uint8 [T, H, W, 3] → uint8 (T, H, W, 3) on the device; never write to it.

    On a CPU it is the same memory. On a GPU it is a copy that later calls with the same array get too, as long as the
    array lives and there is room.

    Raises:
        torch.OutOfMemoryError: the clip does not fit, although all others made room.
    """
    device = torch.device(device)
    return KEPT.get(frames, device) if apart(device) else view_of(frames)


def frames_at(frames: np.ndarray, rows: np.ndarray | Sequence[int], device: torch.device | str) -> Tensor:
    """uint8 [T, H, W, 3] and positions [k] in it → uint8 (k, H, W, 3) on the device, a copy.

    If the clip is not on the GPU, only these frames go there.
    """
    device = torch.device(device)
    kept = KEPT.find(frames, device) if apart(device) else None
    if kept is None:
        return torch.from_numpy(frames[np.asarray(rows, dtype=np.int64)]).to(device)
    return kept[torch.as_tensor(np.asarray(rows, dtype=np.int64), device=device)]


def view_of(frames: np.ndarray) -> Tensor:
    """The array as a tensor on the same memory; never write to it."""
    if frames.flags.writeable:
        return torch.from_numpy(frames)
    # Frames in shared memory are read-only. torch has no such tensors, and warns or copies.
    return torch.from_numpy(np.asarray(_SaidWriteable(frames)))


class _SaidWriteable:
    def __init__(self, array: np.ndarray) -> None:
        self.array = array  # numpy and torch keep this object alive, and with it the memory
        address, _ = array.__array_interface__["data"]
        self.__array_interface__ = {**array.__array_interface__, "data": (address, False)}


def sent(frames: np.ndarray, device: torch.device) -> Tensor:
    """A copy on the GPU. From pinned memory the transfer runs beside whatever the CPU does next."""
    array = view_of(np.ascontiguousarray(frames))
    # The system may allow no more pinned memory. The CPU then waits for the transfer.
    with contextlib.suppress(RuntimeError):
        array = array.pin_memory()
    return array.to(device, non_blocking=True)


class KeptFrames:
    """Copies of arrays on devices. The least recently used ones make room for others, and all make room for a
    network."""

    def __init__(self, most_bytes: int, send: Callable[[np.ndarray, Any], Tensor] = sent) -> None:
        self.most_bytes = most_bytes
        self._send = send
        self._copies: OrderedDict[tuple[int, str], tuple[weakref.ref[np.ndarray], Tensor]] = OrderedDict()
        self._lock = threading.RLock()  # reentrant: an array may be collected at any moment, also inside `get`

    def get(self, frames: np.ndarray, device: torch.device) -> Tensor:
        """The copy of this array, made now if there is none."""
        with self._lock:
            found = self.find(frames, device)
            if found is not None:
                return found
            self._make_room(frames.nbytes)
            try:
                found = self._send(frames, device)
            except torch.OutOfMemoryError:
                found = None
            # Outside the handler, because the exception keeps what was allocated alive.
            if found is None:
                self.release()
                found = self._send(frames, device)
            key = (id(frames), str(device))
            self._copies[key] = (weakref.ref(frames, lambda _: self._drop(key)), found)
            return found

    def find(self, frames: np.ndarray, device: torch.device) -> Tensor | None:
        """The copy of this array, if there is one."""
        key = (id(frames), str(device))
        with self._lock:
            array, found = self._copies.get(key, (None, None))
            if array is None or array() is not frames:
                return None
            self._copies.move_to_end(key)
            return found

    def release(self) -> bool:
        """Gives all memory back; returns whether there was any."""
        with self._lock:
            held = bool(self._copies)
            self._copies.clear()
        if held and torch.cuda.is_available():
            torch.cuda.empty_cache()
        return held

    @property
    def held_bytes(self) -> int:
        with self._lock:
            return sum(found.nbytes for _, found in list(self._copies.values()))

    def _make_room(self, wanted: int) -> None:
        while self._copies and self.held_bytes + wanted > self.most_bytes:
            self._copies.popitem(last=False)

    def _drop(self, key: tuple[int, str]) -> None:
        with self._lock:
            self._copies.pop(key, None)


KEPT = KeptFrames(MOST_KEPT_BYTES)
"""Of this process."""
