"""Decode-ahead: what the slots have decoded and the consumers have not taken yet, limited in bytes.

A slot asks for room before its worker decodes an item. A consumer that takes the item gives the room back. The stream
that a consumer is waiting for always gets room; otherwise everyone could wait for everyone. So the memory in use stays
below the limit plus one item for each waiting consumer.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

from ...failures import MediaError
from ..protocol import DecodedClip, DecodedItem, DecodedWindow, DecodeRequest, ItemFailed
from .zygote import Worker

LOOK_SECONDS = 0.5
"""How often a waiting slot looks for streams that nobody holds any more."""
SLICE_ITEMS = 64
"""Items sent to a worker at a time, so that the work for one item does not grow with the length of the file."""


class Cancelled(Exception):
    """Nobody wants this stream any more."""


class Preempted(Exception):
    """This stream gives its slot to one that a consumer is waiting for, and goes on later."""

    def __init__(self, successor: Stream):
        super().__init__()
        self.successor = successor


def item_bytes(item: DecodedItem) -> int:
    if isinstance(item, DecodedClip):
        return item.frames.nbytes + item.pts_seconds.nbytes + (0 if item.sound is None else item.sound.nbytes)
    return item.samples.nbytes if isinstance(item, DecodedWindow) else 0


class Ahead:
    """The room that all streams of a pool share, and the queue of streams that no slot serves yet."""

    def __init__(self, limit_bytes: int):
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self.peak_bytes = 0
        self.changed = threading.Condition()
        """Guards everything in this object and in the streams."""
        self.waiting: deque[Stream] = deque()
        self.dropped: deque[Stream] = deque()
        """Streams that the garbage collector found. It may run while this lock is held, so it only notes them."""
        self.closed = False

    def enqueue(self, stream: Stream) -> None:
        with self.changed:
            self.waiting.append(stream)
            self.changed.notify_all()

    def next_stream(self) -> Stream | None:
        """The stream to serve next. One that a consumer is waiting for comes first. None when the pool is closed."""
        with self.changed:
            while not self.closed:
                self._cancel_dropped()
                if self.waiting:
                    stream = self._starving() or self.waiting[0]
                    self.waiting.remove(stream)
                    return stream
                self.changed.wait(LOOK_SECONDS)
            return None

    def _starving(self) -> Stream | None:
        return next((stream for stream in self.waiting if stream.starving), None)

    def _cancel_dropped(self) -> None:
        while self.dropped:
            self.dropped.popleft().cancel()

    def acquire(self, stream: Stream, size_bytes: int) -> None:
        """Waits for room. Raises Cancelled, or Preempted if waiting could last for ever."""
        with self.changed:
            while True:
                self._cancel_dropped()
                if self.closed or stream.cancelled:
                    raise Cancelled
                fits = self.used_bytes == 0 or self.used_bytes + size_bytes <= self.limit_bytes
                if size_bytes == 0 or fits or stream.starving:
                    self.used_bytes += size_bytes
                    self.peak_bytes = max(self.peak_bytes, self.used_bytes)
                    return
                successor = self._starving()
                if successor is not None:
                    self.waiting.remove(successor)
                    raise Preempted(successor)
                self.changed.wait(LOOK_SECONDS)

    def release(self, size_bytes: int) -> None:
        with self.changed:
            self.used_bytes -= size_bytes
            self.changed.notify_all()


class Stream:
    """One file's items on their way from a slot to a consumer."""

    def __init__(self, ahead: Ahead, request: DecodeRequest):
        self.ahead = ahead
        self._request = replace(request, clips=(), windows=())
        self._clips = {clip.clip_index: clip for clip in request.clips}
        self._windows = {w.window_index: w for w in sorted(request.windows, key=lambda w: w.start_sample)}
        """With `_clips`: what has not been answered yet, in the order in which decode_file.py decodes it."""
        self.slice = self._request
        """What the current worker was told to decode and has not answered yet."""
        self.deaths = 0
        self.served = 0
        """Items that the current worker has answered."""
        self.excused = False
        self.cancelled = False
        self.failure: MediaError | None = None
        self._error: BaseException | None = None
        self._items: deque[DecodedItem] = deque()
        self._ended = False
        self._consumers = 0
        self._worker: Worker | None = None

    @property
    def starving(self) -> bool:
        """Whether a consumer is blocked on it."""
        return self._consumers > 0 and not self._items

    @property
    def unanswered(self) -> bool:
        return bool(self._clips or self._windows)

    def next_slice(self) -> DecodeRequest:
        """Slot: makes the first unanswered items (clips; windows if there are no clips left) the new `slice`."""
        clips = tuple(islice(self._clips.values(), SLICE_ITEMS))
        windows = () if clips else tuple(islice(self._windows.values(), SLICE_ITEMS))
        self.slice = replace(self._request, clips=clips, windows=windows)
        return self.slice

    def _answered(self, item: DecodedItem) -> None:
        self.slice = without_item(self.slice, item)
        match item:
            case ItemFailed(clip_index=None, window_index=None):
                self._windows.clear()
            case DecodedWindow():
                self._windows.pop(item.window_index, None)
            case DecodedClip():
                self._clips.pop(item.clip_index, None)
            case ItemFailed():
                if item.clip_index is not None:
                    self._clips.pop(item.clip_index, None)
                if item.window_index is not None:
                    self._windows.pop(item.window_index, None)

    def put(self, item: DecodedItem, reserved_bytes: int = 0) -> None:
        """Slot: delivers an item for which `reserved_bytes` of room were acquired."""
        with self.ahead.changed:
            self._answered(item)
            if self.cancelled:
                self.ahead.used_bytes -= reserved_bytes
            else:
                self.ahead.used_bytes -= reserved_bytes - item_bytes(item)
                self._items.append(item)
            self.ahead.changed.notify_all()

    def end(self, error: BaseException | None = None) -> None:
        """Slot: says that nothing more will come. `error` is raised in the consumer."""
        with self.ahead.changed:
            self._ended, self._error = True, error
            self.ahead.changed.notify_all()

    def served_by(self, worker: Worker | None) -> None:
        with self.ahead.changed:
            self._worker = worker
            if worker is not None and (self.cancelled or self.ahead.closed):
                raise Cancelled

    def cancel(self) -> None:
        """Drops the items that are there and stops the worker."""
        with self.ahead.changed:
            if self.cancelled:
                return
            self.cancelled = True
            self.ahead.used_bytes -= sum(map(item_bytes, self._items))
            self._items.clear()
            if self in self.ahead.waiting:
                self.ahead.waiting.remove(self)
            self._ended = True
            if self._worker is not None:
                self._worker.interrupt()
            self.ahead.changed.notify_all()

    def ready(self) -> bool:
        with self.ahead.changed:
            return bool(self._items) or self._ended

    def take(self) -> DecodedItem | None:
        """Consumer: waits for the next item and returns it; None at the end."""
        with self.ahead.changed:
            self._consumers += 1
            self.ahead.changed.notify_all()
            try:
                self.ahead.changed.wait_for(lambda: self._items or self._ended)
            finally:
                self._consumers -= 1
            if self._items:
                item = self._items.popleft()
                self.ahead.used_bytes -= item_bytes(item)
                self.ahead.changed.notify_all()
                return item
            if self._error is not None:
                raise self._error
            return None


def without_item(request: DecodeRequest, item: DecodedItem) -> DecodeRequest:
    """`request` without what `item` answers. A failure without index is that of the sound and answers every window."""
    if isinstance(item, ItemFailed) and item.clip_index is None and item.window_index is None:
        return replace(request, windows=())
    clip_index = None if isinstance(item, DecodedWindow) else item.clip_index
    window_index = None if isinstance(item, DecodedClip) else item.window_index
    return replace(
        request,
        clips=tuple(clip for clip in request.clips if clip.clip_index != clip_index),
        windows=tuple(window for window in request.windows if window.window_index != window_index),
    )


class DecodeStream(Iterator[DecodedItem]):
    """The items of one file, in the order of decoding. Closing it, or dropping the last reference, stops the work."""

    def __init__(self, stream: Stream):
        self._stream = stream

    def __next__(self) -> DecodedItem:
        """Raises WorldError if no worker could be started."""
        item = self._stream.take()
        if item is None:
            raise StopIteration
        return item

    def ready(self) -> bool:
        """Whether the next item, or the end, is there without waiting."""
        return self._stream.ready()

    @property
    def worker_failure(self) -> MediaError | None:
        """How the last worker that was lost on this file ended; None if none was lost."""
        return self._stream.failure

    def close(self) -> None:
        self._stream.cancel()

    def __del__(self) -> None:
        if hasattr(self, "_stream"):
            self._stream.ahead.dropped.append(self._stream)
