"""The process that workers are forked from: it has everything imported and the weights loaded, and computes nothing.

A worker costs a fork then, in a tenth of a second, and shares the pages of libraries and weights with the others. The
template itself is forked from the command while that has a single thread. A command with threads cannot be forked
safely: there, and where a template was killed, a new one starts as a program of its own.

Its parent sends one message at a time and gets one answer; at the end of the connection the template ends, and its
workers with it (PDEATHSIG).
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import time
from dataclasses import replace
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, cast

from ...transforms.detect import take_along
from ...transforms.faces import shared_detector
from ...transforms.failures import WorldError
from ...transforms.media.children.sandbox import die_with_parent
from ..interrupts import SIGNALS
from ..options import AuditConfig
from ..waves import load_detectors
from .messages import Fork, Load, Reap, take_socket
from .settings import share_gpu, spare_work, use_threads
from .worker import sendable, work

OURS = ("embedded", "published")
"""Origin of detectors that can be loaded before a fork. What others load may have threads, which a fork would lose."""
OOM_SCORE = "500"
"""Decoder children have 1000."""
_LOOK_SECONDS = 0.01


def serve(connection: Connection) -> None:
    """Answers until the parent hangs up."""
    for number in SIGNALS:  # they reach the whole group of the terminal; when to end is for the parent to say
        signal.signal(number, signal.SIG_IGN)
    spare_work()
    use_threads(1)  # a pool of threads would not survive the fork
    while True:
        try:
            asked = connection.recv()
        except (EOFError, OSError):
            break
        connection.send(_answer(connection, asked))
    with contextlib.suppress(ChildProcessError):
        while True:  # the workers have ended, and what they cost counts only once they were waited for
            os.wait()


def _answer(connection: Connection, asked: Load | Fork | Reap) -> Any:
    match asked:
        case Load(config):
            return _load(config)
        case Fork():
            return _fork(connection, asked)
        case Reap(pid, seconds):
            return _reap(pid, seconds)


def _load(config: AuditConfig) -> Exception | None:
    # On the CPU also where they will run on a GPU: the files are checked, and CUDA does not survive a fork.
    ours = tuple(spec for spec in config.detectors if spec.origin in OURS)
    others = tuple(spec for spec in config.detectors if spec.origin not in OURS)
    if (error := _load_here(replace(config, detectors=ours))) is not None:
        return error
    if any("faces" in spec.needs for spec in config.detectors):
        shared_detector("cpu")
    gc.collect()
    gc.freeze()  # a collection in a worker would write to every page that it shares
    return _try_elsewhere(replace(config, detectors=others)) if others else None


def _load_here(config: AuditConfig) -> Exception | None:
    try:
        load_detectors(config, "cpu")
    except Exception as error:
        return sendable(error)
    return None


def _try_elsewhere(config: AuditConfig) -> Exception | None:
    """Whether these detectors can be loaded, in a process that ends with that."""
    ours, theirs = Pipe(duplex=False)
    above = os.getpid()
    if (pid := os.fork()) == 0:
        try:
            die_with_parent(above)
            theirs.send(_load_here(config))
        finally:
            os._exit(0)
    theirs.close()
    with ours:
        try:
            return cast("Exception | None", ours.recv())
        except EOFError:
            return WorldError("the process that loaded the detectors was killed: is there enough memory?")
        finally:
            os.waitpid(pid, 0)


def _fork(connection: Connection, asked: Fork) -> int:
    theirs = take_socket(connection)
    above = os.getpid()
    if pid := os.fork():
        theirs.close()
        return pid
    code = 1
    try:
        die_with_parent(above)
        connection.close()
        with contextlib.suppress(OSError):  # where memory runs out, the kernel shall take a worker, not the command
            Path("/proc/self/oom_score_adj").write_text(OOM_SCORE)
        take_along()
        use_threads(asked.threads)
        share_gpu(asked.device, asked.on_device)
        code = work(theirs)
    finally:
        os._exit(code)  # whatever the parent has registered for its own end is not ours


def _reap(pid: int, seconds: float) -> int | None:
    until = time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= until:
            return None
        time.sleep(_LOOK_SECONDS)
