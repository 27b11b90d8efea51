"""How bytes pass between the parent and a worker: framed JSON on a socket, arrays in memory that the parent owns.

The parent makes the shared memory (a memfd of a fixed size), lends it for one item, and takes it back by sealing it.
Sealing fails while the worker keeps a writable mapping. Once it is sealed, nothing can change the bytes under the
parent. So a worker can neither take more memory than was lent, nor write into what it has handed over.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import math
import mmap
import os
import re
import select
import socket
import struct
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ...failures import printable
from ..protocol import (
    ClipRequest,
    DecodedClip,
    DecodedItem,
    DecodedWindow,
    DecodeRequest,
    ItemFailed,
    ProtocolError,
    WindowRequest,
)

HEADER = struct.Struct("<I")
MAX_REQUEST_BYTES = 64 << 20
MAX_PROBE_BYTES = 16 << 20
"""Longest answer of a probe. probe_file.MAX_KEY_FRAMES key frames take 1.5 MB, the tags of 64 streams at most 14 MB."""
MAX_DEPTH = 16
"""Most levels of nested objects and arrays in a message; an honest one has 6."""
MAX_NODES = 1_000_000
"""Most values in a message; an honest one has little more than probe_file.MAX_KEY_FRAMES."""
MAX_ITEM_BYTES = 64 << 10
"""Longest message that comes with an item."""
SOUND_RATE = 16_000
SOUND_SLACK = 1_600
"""Samples by which a clip's sound may be longer than end - start: rounding and priming."""
ALIGN = 64
STEP_SECONDS = 1.0
ERROR_CLASS = re.compile(r"[a-z][a-z0-9_]{0,39}")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class Countdown:
    """Wall-clock seconds left. They are counted in steps, so that time in which this process itself was stopped
    (Ctrl-Z, a closed laptop) is not held against the worker."""

    def __init__(self, seconds: float):
        self.remaining = seconds
        self.held: Callable[[], bool] = lambda: False
        """Whether the clock stands still because the worker is waiting for us."""

    def wait_readable(self, sock: socket.socket) -> None:
        """Returns when `sock` has bytes or is closed. Raises TimeoutError when the time is up."""
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        while True:
            step = max(0.0, min(STEP_SECONDS, self.remaining))
            started = time.monotonic()
            ready = poll.poll(math.ceil(step * 1000))
            if not self.held():
                self.remaining -= min(time.monotonic() - started, STEP_SECONDS)
            if ready:
                return
            if self.remaining <= 0:
                raise TimeoutError


def send_message(sock: socket.socket, message: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
    body = json.dumps(message, allow_nan=False, separators=(",", ":")).encode()
    data = HEADER.pack(len(body)) + body
    sent = socket.send_fds(sock, [data], list(fds)) if fds else 0
    sock.sendall(data[sent:])


def receive_message(sock: socket.socket, max_bytes: int, countdown: Countdown) -> dict[str, Any]:
    """One message; descriptors are refused. Raises EOFError, TimeoutError, ProtocolError."""
    return parse_message(_read(sock, _length(_read(sock, HEADER.size, countdown), max_bytes), countdown))


def receive_with_fds(sock: socket.socket, max_bytes: int, max_fds: int) -> tuple[dict[str, Any], list[int]]:
    """One message and the descriptors that came with it. Waits as long as it takes. Raises EOFError, ProtocolError."""
    head, fds, _, _ = socket.recv_fds(sock, HEADER.size, max_fds)
    forever = Countdown(math.inf)
    head += _read(sock, HEADER.size - len(head), forever) if head else b""
    if not head:
        raise EOFError
    return parse_message(_read(sock, _length(head, max_bytes), forever)), fds


def parse_message(body: bytes | bytearray) -> dict[str, Any]:
    """The JSON object in `body`. Raises ProtocolError if there is none, or if it holds NaN or infinity, or exceeds
    MAX_DEPTH or MAX_NODES."""

    def refuse(constant: str) -> Any:
        raise ProtocolError(f"{constant} in an answer")

    try:
        message = json.loads(body.decode("utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"an answer that is not JSON: {type(error).__name__}") from None
    if not isinstance(message, dict):
        raise ProtocolError("an answer that is not a JSON object")
    _check_extent(message)
    return message


def _check_extent(message: dict[str, Any]) -> None:
    """Raises ProtocolError if a message is too deep or too large. Goes level by level: Python's parser accepts messages
    that are too deep for recursion."""
    level: list[Any] = [message]
    nodes = 0
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for value in level:
            inner.extend(value.values() if isinstance(value, dict) else value)
        nodes += len(inner)
        if nodes > MAX_NODES:
            raise ProtocolError(f"a message of more than {MAX_NODES} values")
        level = [value for value in inner if isinstance(value, (dict, list))]
        if not level:
            return
    raise ProtocolError(f"a message more than {MAX_DEPTH} deep")


def without_surrogates(value: Any) -> Any:
    """`value` with every string fit for UTF-8. Recursion is safe: `parse_message` has checked the depth."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {without_surrogates(key): without_surrogates(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_surrogates(item) for item in value]
    return value


def _length(head: bytes | bytearray, max_bytes: int) -> int:
    (length,) = HEADER.unpack(head)
    if length > max_bytes:
        raise ProtocolError(f"a message of {length} bytes: at most {max_bytes} are allowed")
    return int(length)


def _read(sock: socket.socket, size: int, countdown: Countdown) -> bytearray:
    data = bytearray(size)
    filled = 0
    while filled < size:
        countdown.wait_readable(sock)
        got = sock.recv_into(memoryview(data)[filled:])
        if not got:
            raise EOFError
        filled += got
    return data


def create_buffer(size_bytes: int, name: str = "deephotlink-item") -> int:
    """A descriptor of zeroed memory that can neither grow nor shrink. Pages cost nothing until they are written."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size_bytes)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    except OSError:
        os.close(fd)
        raise
    return fd


def seal_buffer(fd: int) -> None:
    """Takes the memory back. Raises ProtocolError if somebody can still write to it."""
    try:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL)
    except OSError as error:
        raise ProtocolError(f"the worker keeps the memory that it handed over: {error.strerror}") from None


def map_buffer(fd: int, size_bytes: int) -> np.ndarray:
    """uint8 [size_bytes] over the memory itself, copy-on-write. It is unmapped when the last array over it is gone.

    `mmap.mmap` would keep a descriptor open for as long as the mapping lives: a thousand clips in flight would hold a
    thousand descriptors.
    """
    address = _libc.mmap(None, size_bytes, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE, fd, 0)
    if address is None or address == ctypes.c_void_p(-1).value:
        raise MemoryError(f"no room to map {size_bytes} bytes of a clip: {os.strerror(ctypes.get_errno())}")
    memory = (ctypes.c_ubyte * size_bytes).from_address(address)
    weakref.finalize(memory, _libc.munmap, address, size_bytes).atexit = False
    return np.ctypeslib.as_array(memory)


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // ALIGN) * ALIGN


def clip_bytes(request: DecodeRequest, clip: ClipRequest) -> int:
    """The most bytes that one clip can take."""
    frames = len(clip.times_seconds)
    size = _aligned(frames * request.height * request.width * 3) + _aligned(8 * frames)
    return size + (4 * _max_sound(clip) if request.clip_sound else 0)


def window_bytes(window: WindowRequest) -> int:
    return 4 * window.samples


def _max_sound(clip: ClipRequest) -> int:
    return math.ceil((clip.end_seconds - clip.start_seconds) * SOUND_RATE) + SOUND_SLACK


def hand_over(item: DecodedItem, fd: int) -> dict[str, Any]:
    """Worker: writes the item's arrays into the lent memory and returns the message that goes with them."""
    if isinstance(item, ItemFailed):
        message = printable(item.message)
        return {"failed": [item.error_class, message], "clip": item.clip_index, "window": item.window_index}
    if isinstance(item, DecodedWindow):
        _write(fd, np.ascontiguousarray(item.samples, np.float32), 0)
        return {"window": item.window_index, "samples": len(item.samples)}
    frames = np.ascontiguousarray(item.frames, np.uint8)
    pts_at = _aligned(frames.nbytes)
    sound_at = pts_at + _aligned(8 * len(frames))
    _write(fd, frames, 0)
    _write(fd, np.ascontiguousarray(item.pts_seconds, np.float64), pts_at)
    if item.sound is not None:
        _write(fd, np.ascontiguousarray(item.sound, np.float32), sound_at)
    return {
        "clip": item.clip_index,
        "frames": list(frames.shape),
        "sound": None if item.sound is None else len(item.sound),
        "decoded": int(item.frames_decoded),
        "damage": None if item.damage is None else printable(item.damage),
        "decoder": item.decoder,
    }


def _write(fd: int, array: np.ndarray, offset: int) -> None:
    # pwrite instead of a mapping: half the page faults, and nothing to unmap before the parent can seal.
    data = array.reshape(-1).view(np.uint8).data
    while data:
        written = os.pwrite(fd, data, offset)
        data, offset = data[written:], offset + written


def take_over(words: Mapping[str, Any], fd: int, request: DecodeRequest) -> DecodedItem:
    """Parent: the item in the message `words` and the memory behind `fd`, if `request` still wants it.

    Raises ProtocolError for anything that an honest worker would not say.
    """
    clip_index, window_index = words.get("clip"), words.get("window")
    clip = next((c for c in request.clips if c.clip_index == clip_index), None) if _whole(clip_index) else None
    window = (
        next((w for w in request.windows if w.window_index == window_index), None) if _whole(window_index) else None
    )
    if "failed" in words:
        return _failed(words, clip, window)
    if clip is not None and window_index is None:
        return _take_clip(words, fd, request, clip)
    if window is not None and clip_index is None:
        count = _count(words, "samples", window.samples)
        seal_buffer(fd)
        samples = np.frombuffer(os.pread(fd, 4 * count, 0), np.float32)
        return DecodedWindow(window.window_index, _sane_sound(samples), window.detector)
    raise ProtocolError("an item that was not requested, or twice")


def _failed(words: Mapping[str, Any], clip: ClipRequest | None, window: WindowRequest | None) -> ItemFailed:
    match words["failed"]:
        case [str(error_class), str(message)] if ERROR_CLASS.fullmatch(error_class):
            if (clip is None) != (words.get("clip") is None) or (window is None) != (words.get("window") is None):
                raise ProtocolError("the failure of an item that was not requested, or twice")
            clip_index = None if clip is None else clip.clip_index
            return ItemFailed(
                error_class, printable(message), clip_index, None if window is None else window.window_index
            )
    raise ProtocolError("a failure without class and message")


def _take_clip(words: Mapping[str, Any], fd: int, request: DecodeRequest, clip: ClipRequest) -> DecodedClip:
    shape, asked = words.get("frames"), len(clip.times_seconds)
    match shape:
        case [int(count), request.height, request.width, 3] if _whole(count) and 1 <= count <= asked:
            pass
        case _:
            raise ProtocolError(
                f"frames {printable(str(shape), 80)}, asked [{asked}, {request.height}, {request.width}, 3]"
            )
    decoded = _count(words, "decoded", 1 << 40)
    sound_samples = None
    if words.get("sound") is not None:
        if not request.clip_sound:
            raise ProtocolError("sound that was not requested")
        sound_samples = _count(words, "sound", _max_sound(clip))
    damage = words.get("damage")
    if damage is not None and not isinstance(damage, str):
        raise ProtocolError("damage that is not text")
    decoder = words.get("decoder")
    if decoder not in ("decord", "pyav"):
        raise ProtocolError(f"a clip by {printable(str(decoder), 40)}")
    seal_buffer(fd)
    frame_bytes = count * request.height * request.width * 3
    pts_at = _aligned(frame_bytes)
    pts_seconds = np.frombuffer(os.pread(fd, 8 * count, pts_at), np.float64).copy()
    if not np.isfinite(pts_seconds).all():
        raise ProtocolError("a time stamp that is not a number")
    sound = None
    if sound_samples is not None:
        # Copied: it is small, and a detector that keeps the sound should not keep the frames in memory.
        sound_at = pts_at + _aligned(8 * count)
        sound = _sane_sound(np.frombuffer(os.pread(fd, 4 * sound_samples, sound_at), np.float32))
    frames = map_buffer(fd, frame_bytes).reshape(count, request.height, request.width, 3)
    return DecodedClip(
        clip.clip_index, frames, pts_seconds, decoded, sound, None if damage is None else printable(damage), decoder
    )


def _sane_sound(samples: np.ndarray) -> np.ndarray:
    """float32 [S] in [-1, 1], a copy. Float PCM in a file may hold anything, even NaN."""
    return np.clip(np.nan_to_num(samples, nan=0.0, posinf=1.0, neginf=-1.0), -1.0, 1.0)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _count(words: Mapping[str, Any], key: str, most: int) -> int:
    value = words.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise ProtocolError(f"{key} {printable(str(value), 40)}, expected 0 to {most}")
    return value
