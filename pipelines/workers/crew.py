"""The command's hold on its workers: starts them, hands out waves, takes up what a killed one leaves, ends them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from ...transforms.failures import WorldError
from ...transforms.media.children.sockets import blocking_pair
from ...transforms.metrics import FOLDER_VARIABLE, page_of
from .. import machine
from ..interrupts import heed_signals
from ..options import AuditConfig
from ..waves import Wave
from .cost import Cost
from .messages import Done, Fork, Load, Reap, Work
from .queue import UnitQueue
from .shares import WORKER_BYTES, Share, share_of
from .template_process import PATIENCE_SECONDS, TemplateLost, TemplateProcess

MOST_LOSSES = 3
"""Workers that may be lost over the same units before the command gives up."""
LOOK_SECONDS = 1.0


@dataclass(slots=True)
class _Worker:
    number: int
    pid: int
    template: TemplateProcess
    """Its parent."""
    connection: Connection
    spool: Path
    share: Share
    units: list[int]
    """What it is at work on."""
    page: Path | None = None
    """Its counters, and how they stood when it was handed its units."""
    counted: bytes | None = None


class Workers:
    """The processes that score, `most` at a time. A context: at its end they have ended."""

    def __init__(self, most: int, warn: Callable[[str], None], metered: bool = False):
        """With more than one the template is forked now, while this process may have a single thread. `metered`: what
        each wave cost is kept in `costs`."""
        self.most, self._warn, self._metered = most, warn, metered
        self.costs: dict[tuple[int, ...], Cost] = {}
        """By the units of a wave, if it was asked for."""
        self._template = TemplateProcess() if most > 1 else None
        self._workers: list[_Worker] = []
        self._config: AuditConfig | None = None
        self._count = 0
        """Of workers that the machine was divided among when those of now were started."""
        self._losses: Counter[int] = Counter()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close(at_once=raised[0] is not None)

    def load(self, config: AuditConfig) -> None:
        """Has the detectors loaded once for all workers.

        Raises:
            UsageError: weights are not what their detector expects. WorldError: they cannot be read.
        """
        self._config = config
        error = self._ask(Load(config))
        if error is not None:
            raise error

    def work_off(
        self,
        queue: UnitQueue,
        make: Callable[[Sequence[int]], Wave],
        again: Callable[[Sequence[int]], bool],
        spool: Path,
        count: int,
    ) -> Iterator[Sequence[int]]:
        """Has `count` workers score and commit all units of the queue; yields those of each wave when it is done.

        make: gives the wave of some units, all but what is each worker's own. again: whether units over which a worker
        met a WorldError are to be tried once more.

        Raises:
            WorldError, UsageError: what a worker met; the units of its wave are in the queue again.
        """
        if count != self._count:
            self._dismiss()
        self._count = count
        self._losses.clear()
        while True:
            while len(self._workers) < count and len(queue):
                self._start(spool)
            for worker in self._workers:
                self._hand_out(worker, queue, make)
            busy: dict[Any, _Worker] = {worker.connection: worker for worker in self._workers if worker.units}
            if not busy and not len(queue):
                return
            for connection in wait(list(busy), LOOK_SECONDS):
                worker = busy[connection]
                units = worker.units
                try:
                    answer: Done = worker.connection.recv()
                except (EOFError, OSError):
                    count = self._lost(worker, queue, count)
                    continue
                worker.units = []
                if answer.error is not None:
                    queue.put_back(units)
                    if not (isinstance(answer.error, WorldError) and again(units)):
                        raise answer.error
                    continue
                if answer.cost is not None:
                    self.costs[tuple(units)] = answer.cost
                self._hand_out(worker, queue, make)  # before anything else: it waits
                yield units
            heed_signals()

    def _hand_out(self, worker: _Worker, queue: UnitQueue, make: Callable[[Sequence[int]], Wave]) -> None:
        if worker.units or not (units := queue.take()):
            return
        worker.units = units
        wave = make(units)
        config = replace(wave.config, reading=worker.share.of(wave.config.reading))
        wave = replace(wave, config=config, spool=str(worker.spool))
        folder = os.environ.get(FOLDER_VARIABLE, "")
        worker.page = page_of(folder, worker.pid) if folder else None
        worker.counted = worker.page.read_bytes() if worker.page is not None and worker.page.exists() else None
        with contextlib.suppress(OSError):  # it is dead: that is found out when its answer is awaited
            worker.connection.send(Work(wave, folder, self._metered))

    def _start(self, spool: Path) -> None:
        assert self._config is not None, "load() comes first"
        number = min(set(range(self._count)) - {worker.number for worker in self._workers})
        share = share_of(self._config.reading, number, self._count, spool)
        folder = spool / f"worker-{number}"
        folder.mkdir(exist_ok=True)
        ours, theirs = blocking_pair()
        with theirs:
            pid = self._ask(Fork(share.threads, share.device, share.on_device), theirs)
        assert self._template is not None
        self._workers.append(_Worker(number, pid, self._template, Connection(ours.detach()), folder, share, []))

    def _lost(self, worker: _Worker, queue: UnitQueue, count: int) -> int:
        """Takes up what a worker left that has ended; returns how many workers there shall be now.

        Raises:
            WorldError: too many ended over the same units.
        """
        worker.connection.close()
        self._workers.remove(worker)
        how = _ending(self._reap(worker))
        shutil.rmtree(worker.spool, ignore_errors=True)
        if worker.page is not None:  # what it did of its units will be done and counted again
            with contextlib.suppress(OSError):
                if worker.counted is None:
                    worker.page.unlink()
                else:
                    worker.page.write_bytes(worker.counted)
        heed_signals()  # it may have ended by the signal that we got too
        queue.put_back(worker.units)
        self._losses.update(worker.units)
        if max(self._losses[unit] for unit in worker.units) >= MOST_LOSSES:
            raise WorldError(
                f"{MOST_LOSSES} workers ended over the same files, the last one {how}: if memory is short, use fewer "
                "--workers"
            )
        free = machine.available_bytes()
        short = free is not None and free < WORKER_BYTES and count > 1
        fewer = f", {count - 1} workers go on" if short else ""
        self._warn(f"a worker was {how}; its files are scored again{fewer}")
        return count - 1 if short else count

    def _reap(self, worker: _Worker) -> int | None:
        """How it ended; None if that cannot be known, because its template was killed too."""
        for _ in range(2):
            if self._template is None or worker.template is not self._template:
                return None
            try:
                status = self._template.ask(Reap(worker.pid, PATIENCE_SECONDS))
            except TemplateLost:
                self._renew_template()
                return None
            if status is not None:
                return int(status)
            self._kill(worker, signal.SIGKILL)  # it has hung up and lives on
        return None

    def _ask(self, message: Any, end: socket.socket | None = None) -> Any:
        """Asks the template, or a new one where it was killed.

        Raises:
            WorldError: two were killed.
        """
        for attempt in (1, 2):
            try:
                if self._template is None:
                    self._template = TemplateProcess()
                return self._template.ask(message, end)
            except TemplateLost:
                if attempt == 1:
                    self._renew_template()
        raise WorldError("the process that workers are started from was killed twice: is there enough memory?")

    def _renew_template(self) -> None:
        """The workers of the old one have ended with it."""
        if self._template is not None:
            self._template.close()
        self._template = TemplateProcess()
        if self._config is not None:
            try:
                error = self._template.ask(Load(self._config))
            except TemplateLost:
                return  # the next one who asks it something finds out
            if error is not None:
                raise error

    def close(self, at_once: bool = False) -> None:
        """Ends all workers: when they are idle, or `at_once`, in the way in which Ctrl-C ends a command."""
        try:
            self._dismiss(at_once)
        finally:
            if self._template is not None:
                self._template.close()
            self._template = None

    def _dismiss(self, at_once: bool = False) -> None:
        try:
            for worker in self._workers:
                if at_once:
                    self._kill(worker, signal.SIGTERM)
                else:
                    with contextlib.suppress(OSError):
                        worker.connection.send(None)
            self._await_end()
        finally:
            for worker in self._workers:
                self._kill(worker, signal.SIGKILL)
                worker.connection.close()
            self._workers = []

    def _kill(self, worker: _Worker, number: int) -> None:
        # The id cannot be another process's while the worker's template lives, which has not asked how it ended.
        if worker.template is self._template:
            with contextlib.suppress(OSError):
                os.kill(worker.pid, number)

    def _await_end(self) -> None:
        alive, until = {worker.connection for worker in self._workers}, time.monotonic() + PATIENCE_SECONDS
        while alive and time.monotonic() < until:
            for connection in wait(list(alive), LOOK_SECONDS):
                assert isinstance(connection, Connection)
                try:
                    connection.recv()  # the last answer of one that was at work
                except (EOFError, OSError):
                    alive.remove(connection)


def _ending(status: int | None) -> str:
    """
    >>> _ending(-9), _ending(1)
    ('killed by SIGKILL (by the kernel, if memory ran out)', 'gone with exit code 1')
    """
    if status is None:
        return "killed with its template"
    if status >= 0:
        return f"gone with exit code {status}"
    name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
    return f"killed by {name}{' (by the kernel, if memory ran out)' if status == -signal.SIGKILL else ''}"
