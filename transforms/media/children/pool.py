"""The pool of decoder processes: probes and decodes files in children, ahead of the consumer, whatever they contain."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from ...failures import MediaError, UsageError, WorldError
from ..protocol import DecodedItem, DecodeRequest, ItemFailed, Limits, ProbeRequest, ProtocolError, to_json
from .decode_queue import Ahead, Cancelled, DecodeStream, Preempted, Stream, item_bytes
from .feeding import source_of
from .handover import (
    MAX_ITEM_BYTES,
    MAX_PROBE_BYTES,
    Countdown,
    clip_bytes,
    create_buffer,
    take_over,
    window_bytes,
    without_surrogates,
)
from .sandbox import SandboxMode, available
from .zygote import PoolStats, Worker, WorkerLost, Zygote

MAX_DEATHS = 3
"""How many workers one file may take down before the rest of it is given up."""
ONLY_THIS_ITEM = ("decoder_error", "out_of_memory")
"""Errors that a worker reports about itself, not about the file: later items still get their chance."""


class WorkerPool:
    """`decoders` processes that decode and one that probes, started when first needed.

    `ahead_bytes` limits what is decoded and not yet taken. `sandbox`: `auto` uses what the host has, `require` raises
    UsageError if Landlock or seccomp is missing, `off` uses neither. Safe to use from several threads.
    """

    def __init__(self, decoders: int, ahead_bytes: int, limits: Limits, sandbox: SandboxMode = "auto"):
        if not sys.platform.startswith("linux"):
            raise UsageError(f"decoder processes need Linux (memfd, PDEATHSIG): this is {sys.platform}")
        layers = () if sandbox == "off" else available()
        missing = " and ".join(layer for layer in ("landlock", "seccomp") if layer not in layers)
        if sandbox == "require" and missing:
            raise UsageError(f"--sandbox=require: this host has no {missing}; use --sandbox=auto to continue with less")
        self.sandbox_in_force = "+".join(layers) or "off"
        """`landlock+seccomp`, `landlock`, `seccomp` or `off`."""
        self.warning: str | None = None
        """What is missing, if `auto` found less than the whole sandbox; else None."""
        if sandbox == "auto" and missing:
            confined = f"confined by {layers[0]} alone" if layers else "not confined at all"
            self.warning = f"this host has no {missing}: decoder processes are {confined} (--sandbox=require refuses)"
        self._core = _Core(ahead_bytes, limits, layers)
        for number in range(decoders):
            self._core.start(self._core.run_decodes, f"deephotlink-decode-{number}")
        self._core.start(self._core.run_probes, "deephotlink-probe")
        # Unlike __del__, this also runs when the interpreter exits, while the threads can still be joined.
        self._finalizer = weakref.finalize(self, _Core.close, self._core)

    @property
    def stats(self) -> PoolStats:
        return replace(self._core.stats)

    def probe(self, request: ProbeRequest) -> Future[dict[str, Any]]:
        """`{"facts": …, "credentials": …}` of a file (containers/facts.py, containers/credentials.py). If reading the
        credentials failed or took the worker down, `credentials` is None and `credentials_error` says how.

        The future raises MediaError for what the file did (this includes `worker_killed` and `deadline`), and
        WorldError if no worker can be started. Only the form of the child's answer has been checked.
        """
        future: Future[dict[str, Any]] = Future()
        absolute = replace(request, path=os.path.abspath(request.path))
        with self._core.ahead.changed:
            self._core.raise_if_closed()
            self._core.probes.append((absolute, future))
            self._core.ahead.changed.notify_all()
        return future

    def decode(self, request: DecodeRequest) -> DecodeStream:
        """The items of a file, in the child's order. Each requested item is answered once, by itself or an ItemFailed.

        If a worker dies or exceeds an item's deadline, that item is lost, and another worker decodes the rest. The
        third loss ends the stream with an ItemFailed without index, which stands for all that was not answered.
        """
        core = self._core
        stream = Stream(core.ahead, replace(request, path=os.path.abspath(request.path)))
        for clip in request.clips:
            if clip_bytes(request, clip) > core.limits.item_bytes:
                message = f"a clip of {clip_bytes(request, clip)} bytes: at most {core.limits.item_bytes} are allowed"
                stream.put(ItemFailed("too_large", message, clip_index=clip.clip_index))
        with core.ahead.changed:
            core.raise_if_closed()
            core.ahead.enqueue(stream)
        return DecodeStream(stream)

    def close(self) -> None:
        """Kills every child and ends every stream and probe with WorldError. May be called twice."""
        self._finalizer()


class _Core:
    """What the threads of a pool share. Separate from WorkerPool, so that the threads do not keep the pool alive."""

    def __init__(self, ahead_bytes: int, limits: Limits, layers: tuple[str, ...]):
        self.limits, self.layers = limits, layers
        self.ahead = Ahead(ahead_bytes)
        self.probes: deque[tuple[ProbeRequest, Future[dict[str, Any]]]] = deque()
        self.stats = PoolStats()
        self._pid = os.getpid()
        self._threads: list[threading.Thread] = []
        self._zygotes: list[Zygote] = []
        self._active: set[Stream] = set()

    def start(self, run: Callable[[Zygote], None], name: str) -> None:
        # The thread outlives every job: if it ended, the kernel would kill its children (PDEATHSIG).
        zygote = Zygote(self.limits, self.layers, self.stats)
        thread = threading.Thread(target=self._slot, args=(run, zygote), name=name, daemon=True)
        self._zygotes.append(zygote)
        self._threads.append(thread)
        thread.start()

    def _slot(self, run: Callable[[Zygote], None], zygote: Zygote) -> None:
        try:
            run(zygote)
        finally:
            zygote.close()

    def raise_if_closed(self) -> None:
        if self.ahead.closed:
            raise WorldError("the decoder pool was closed")

    def close(self) -> None:
        if os.getpid() != self._pid:
            return  # this is a fork of the process that owns the children
        with self.ahead.changed:
            if self.ahead.closed:
                return
            self.ahead.closed = True
            error = WorldError("the decoder pool was closed")
            for stream in (*self._active, *self.ahead.waiting):
                stream.end(error)
            self.ahead.waiting.clear()
            for _, future in self.probes:
                if future.set_running_or_notify_cancel():
                    future.set_exception(error)
            self.probes.clear()
            self.ahead.changed.notify_all()
        for zygote in self._zygotes:
            zygote.kill_worker()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout=10)

    def run_probes(self, zygote: Zygote) -> None:
        while True:
            with self.ahead.changed:
                self.ahead.changed.wait_for(lambda: self.ahead.closed or self.probes)
                if self.ahead.closed:
                    return
                request, future = self.probes.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(self._probe(zygote, request))
            except BaseException as error:
                closed = self.ahead.closed and not isinstance(error, WorldError)
                future.set_exception(WorldError("the decoder pool was closed") if closed else error)

    def _probe(self, zygote: Zygote, request: ProbeRequest) -> dict[str, Any]:
        for attempt in (1, 2):
            try:
                return self._probe_once(zygote, request)
            except WorkerLost as lost:
                if attempt == 2 or not lost.from_outside or self.ahead.closed:
                    raise lost.media_error("probe") from None
        raise AssertionError

    def _probe_once(self, zygote: Zygote, request: ProbeRequest) -> dict[str, Any]:
        patience = self.limits.probe_deadline_seconds
        worker = zygote.fork({"probe": to_json(request)}, source_of(request.path))
        try:
            if self.ahead.closed:  # closed during the fork: `close` did not see this worker
                worker.kill()
                self.raise_if_closed()
            countdown = Countdown(patience)
            facts = worker.answer(MAX_PROBE_BYTES, countdown, patience, "probe").get("facts")
            if not isinstance(facts, dict):
                raise worker.disbelieve(ProtocolError("facts that are not an object"))
            result = {"facts": without_surrogates(facts), "credentials": None}
            if request.credentials:
                try:
                    words = worker.answer(MAX_PROBE_BYTES, countdown, patience, "probe")
                except (WorkerLost, MediaError) as error:
                    # The container was read. Unreadable credentials are a finding, not the end of the file.
                    return result | {"credentials_error": f"{error.error_class}: {error.message}"}
                credentials = words.get("credentials")
                if credentials is not None and not isinstance(credentials, dict):
                    raise worker.disbelieve(ProtocolError("credentials that are not an object"))
                result["credentials"] = without_surrogates(credentials)
            return result
        finally:
            worker.close()

    def run_decodes(self, zygote: Zygote) -> None:
        successor: Stream | None = None
        while (stream := successor or self.ahead.next_stream()) is not None:
            successor = None
            with self.ahead.changed:
                self._active.add(stream)
            try:
                self._decode(zygote, stream)
                stream.end()
            except Preempted as preempted:
                self.stats.preempted += 1
                successor = preempted.successor
            except Cancelled:
                stream.end(WorldError("the decoder pool was closed") if self.ahead.closed else None)
            except BaseException as error:
                stream.end(error)
            with self.ahead.changed:
                self._active.discard(stream)
                # Another slot may take the stream only now that this one has let go of it.
                if successor is not None and self.ahead.closed:
                    stream.end(WorldError("the decoder pool was closed"))
                    successor.end(WorldError("the decoder pool was closed"))
                elif successor is not None:
                    self.ahead.waiting.appendleft(stream)
                    self.ahead.changed.notify_all()

    def _decode(self, zygote: Zygote, stream: Stream) -> None:
        while stream.unanswered:
            try:
                self._decode_once(zygote, stream)
                return
            except WorkerLost as lost:
                if stream.cancelled or self.ahead.closed:
                    raise Cancelled from None
                if lost.spent and stream.served:
                    continue  # the time went into delivered items, not into the current one
                stream.failure = lost.media_error("decode")
                if lost.from_outside and not stream.excused:
                    stream.excused = True
                    continue
            except MediaError as error:
                stream.failure = error
                if error.error_class not in ONLY_THIS_ITEM:
                    stream.put(ItemFailed(error.error_class, error.message))
                    return
            if not stream.unanswered:
                return  # it died while cleaning up: everything was delivered
            stream.deaths += 1
            if stream.slice.clips or stream.slice.windows:  # else it died between two slices
                stream.put(_first_item(stream.slice, stream.failure))
            if stream.deaths >= MAX_DEATHS and stream.unanswered:
                stream.put(ItemFailed(stream.failure.error_class, f"given up after {stream.deaths} lost workers"))
                return

    def _decode_once(self, zygote: Zygote, stream: Stream) -> None:
        """Has one worker decode all that is left, slice by slice."""
        stream.served = 0
        worker = zygote.fork({"decode": to_json(stream.next_slice())}, source_of(stream.slice.path))
        try:
            stream.served_by(worker)
            while True:
                while self._decode_item(worker, stream):
                    pass
                self._note_left_out(stream)
                if not stream.unanswered:
                    return
                worker.send({"decode": to_json(stream.next_slice())})
        except MediaError:
            raise  # the worker reported it itself and ends
        except BaseException:
            worker.kill()
            raise
        finally:
            stream.served_by(None)
            worker.close()

    def _note_left_out(self, stream: Stream) -> None:
        for clip in stream.slice.clips:
            stream.put(ItemFailed("decode_failed", "the decoder skipped this clip", clip_index=clip.clip_index))
        for window in stream.slice.windows:
            message = "the decoder skipped this window"
            stream.put(ItemFailed("decode_failed", message, window_index=window.window_index))

    def _decode_item(self, worker: Worker, stream: Stream) -> bool:
        """Has the worker decode one item and delivers it; False at the end of the slice."""
        wanted, patience = stream.slice, self.limits.item_deadline_seconds
        # The child chooses the order, so reserve room for the largest item. Memory that is not written costs nothing.
        sizes = [*(clip_bytes(wanted, clip) for clip in wanted.clips), *map(window_bytes, wanted.windows), 0]
        reserved = max(sizes)
        self.ahead.acquire(stream, reserved)
        fd = -1
        try:
            fd = create_buffer(reserved)
            worker.send({"go": True}, [fd])
            words = worker.answer(MAX_ITEM_BYTES, Countdown(patience), patience, "decode")
            if "end" in words:
                return False
            try:
                item = take_over(words, fd, wanted)
            except ProtocolError as error:
                raise worker.disbelieve(error) from None
            stream.put(item, reserved)
            reserved = 0
            stream.served += 1
            self.stats.items += 1
            self.stats.item_bytes += item_bytes(item)
            return True
        finally:
            if reserved:
                self.ahead.release(reserved)
            if fd >= 0:
                os.close(fd)


def _first_item(wanted: DecodeRequest, failure: MediaError) -> DecodedItem:
    """The failure of the item that a lost worker was working on: a worker goes through its slice in order."""
    clip_index = wanted.clips[0].clip_index if wanted.clips else None
    window_index = wanted.windows[0].window_index if wanted.windows and not wanted.clips else None
    return ItemFailed(failure.error_class, failure.message, clip_index, window_index)
