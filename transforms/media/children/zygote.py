"""The parent's side of one child: starts the zygote, has it fork a worker for a job, says how the worker ended."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ...failures import MediaError, WorldError, printable
from ..protocol import Limits, ProtocolError
from .feeding import Feeder, Source
from .handover import ERROR_CLASS, MAX_ITEM_BYTES, Countdown, create_buffer, receive_message, send_message
from .sockets import blocking_pair

START_SECONDS = 120.0
"""Time for a zygote to load its libraries, even on a busy machine with cold disks."""
FORK_SECONDS = 30.0
EXIT_SECONDS = 5.0
"""Longest wait for a worker to end after it hung up."""
LOG_BYTES = 4096
"""How much of what the libraries print about a file is kept: the beginning."""
START_LOG_BYTES = 64 << 10
"""Room for a traceback: its end matters."""
EXIT_NO_SANDBOX = 97
PROGRAM: tuple[str, ...] = (sys.executable, "-P", "-m", "deephotlink.transforms.media.children.worker")
"""What runs as the child. Tests and benchmarks replace it with one that measures."""
PASSED_ON = (
    *("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH"),
    "DEEPHOTLINK_FAULTS_FOR_TESTS",
)
"""Environment variables of the children. No keys and no tokens: a child that was taken over could print them."""


@dataclass(slots=True)
class PoolStats:
    """Counters since the pool started. Approximate while it works."""

    zygotes: int = 0
    workers: int = 0
    killed: int = 0
    """Killed by us: deadlines, lies, cancelled work."""
    crashed: int = 0
    """Ended by themselves."""
    items: int = 0
    item_bytes: int = 0
    preempted: int = 0


class WorkerLost(Exception):
    """A worker ended before its work did."""

    def __init__(self, error_class: str, message: str, from_outside: bool = False, spent: bool = False):
        super().__init__(f"{error_class}: {message}")
        self.error_class = error_class
        self.message = printable(message)
        self.from_outside = from_outside
        """Killed neither by us nor, as far as can be seen, by the file: worth one more try."""
        self.spent = spent
        """It used up its CPU time, which all its items share."""

    def media_error(self, stage: str) -> MediaError:
        return MediaError(self.error_class, self.message, stage)


class Zygote:
    """One zygote process. Only one thread at a time may use it, except for `kill_worker`. PDEATHSIG ties the child's
    life to the thread that starts it, so this thread must live as long as the pool."""

    def __init__(self, limits: Limits, layers: Sequence[str], stats: PoolStats):
        self._limits, self._layers, self._stats = limits, tuple(layers), stats
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._pid: int | None = None
        self._lock = threading.Lock()

    def fork(self, request: Mapping[str, Any], source: Source | None = None) -> Worker:
        """A worker that was sent `request` and is fed from `source`. Raises WorldError if no child can be started."""
        for attempt in (1, 2):
            try:
                return self._fork(request, source)
            except (OSError, EOFError, TimeoutError, ProtocolError) as error:
                self.close()  # it was killed from outside, or is beyond help
                if attempt == 2:
                    raise WorldError(f"no decoder process can be started: {type(error).__name__}: {error}") from error
        raise AssertionError

    def _fork(self, request: Mapping[str, Any], source: Source | None) -> Worker:
        if self._control is None:
            self._start()
        assert self._control is not None
        ours, theirs = blocking_pair()
        log_fd = create_buffer(LOG_BYTES, "deephotlink-log")
        feeder = Feeder(source) if source is not None else None
        try:
            with theirs, feeder.theirs if feeder is not None else contextlib.nullcontext() as asking:
                descriptors = [theirs.fileno(), log_fd, *([asking.fileno()] if asking is not None else [])]
                send_message(self._control, {"fork": True}, descriptors)
            pid = receive_message(self._control, MAX_ITEM_BYTES, Countdown(FORK_SECONDS))["pid"]
            with self._lock:
                self._pid = pid
            ours.settimeout(FORK_SECONDS)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # dead at once: its status will say why
                send_message(ours, request)
        except BaseException:
            ours.close()
            os.close(log_fd)
            if feeder is not None:
                feeder.close()
            raise
        self._stats.workers += 1
        return Worker(self, ours, log_fd, self._stats, feeder)

    def _start(self) -> None:
        ours, theirs = blocking_pair()
        log_fd = create_buffer(START_LOG_BYTES, "deephotlink-log")
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        # One thread in the zygote, so that it can fork safely. Few arenas, because each takes address space.
        environment |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
        config = json.dumps({"limits": asdict(self._limits), "layers": self._layers})
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [*PROGRAM, str(theirs.fileno()), str(os.getpid()), config],
                    stdin=subprocess.DEVNULL,
                    stdout=log_fd,
                    stderr=log_fd,
                    pass_fds=[theirs.fileno()],
                    env=environment,
                    cwd="/",  # with -P: never import a module from the current folder, which may be an archive
                )
            self._control = ours
            self._stats.zygotes += 1
            receive_message(ours, MAX_ITEM_BYTES, Countdown(START_SECONDS))
        except (OSError, EOFError, TimeoutError, ProtocolError) as error:
            log = read_log(log_fd, from_end=True)
            self.close()
            raise WorldError(f"the decoder process does not start: {log or type(error).__name__}") from error
        finally:
            os.close(log_fd)

    def kill_worker(self) -> None:
        """Kills the current worker, from any thread. Its pid cannot have been reused: see worker.py."""
        with self._lock:
            # If the zygote is gone, so is its worker, and nothing keeps the pid from being reused.
            if self._pid is not None and self._process is not None and self._process.poll() is None:
                os.kill(self._pid, signal.SIGKILL)

    def status(self, seconds: float) -> dict[str, Any]:
        """How the worker ended: {"signal": n} or {"exit": n}. Raises TimeoutError while it lives, EOFError if the
        zygote is gone."""
        assert self._control is not None
        status = receive_message(self._control, MAX_ITEM_BYTES, Countdown(seconds))
        with self._lock:
            self._pid = None
        return status

    def close(self) -> None:
        """Ends the worker and the zygote. A later `fork` starts a new zygote."""
        with self._lock:
            if self._pid is not None and self._process is not None and self._process.poll() is None:
                os.kill(self._pid, signal.SIGKILL)
            self._pid = None
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Worker:
    """One job's process, as the parent sees it. Always `close` it."""

    def __init__(
        self, zygote: Zygote, sock: socket.socket, log_fd: int, stats: PoolStats, feeder: Feeder | None = None
    ):
        self._zygote, self._sock, self._log_fd, self._stats, self._feeder = zygote, sock, log_fd, stats, feeder
        self._ended = False

    def send(self, message: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        """Sends a message. If the worker is dead, the next `answer` finds out."""
        try:
            send_message(self._sock, message, fds)
        except (BrokenPipeError, ConnectionResetError):
            pass
        except TimeoutError:
            self.kill()

    def answer(self, max_bytes: int, countdown: Countdown, patience: float, stage: str) -> dict[str, Any]:
        """The worker's next message.

        Raises:
            MediaError: what the worker says about the file, or the bytes of its file did not come.
            WorkerLost: it ended, was too slow or sent nonsense; it is killed in the last two cases.
            WorldError: it could not be confined, or the bytes of its file did not come.
        """
        if self._feeder is not None:
            feeder = self._feeder
            countdown.held = lambda: feeder.fetching
        try:
            message = receive_message(self._sock, max_bytes, countdown)
            match message.get("error"):
                case None:
                    return message
                case [str(error_class), str(text)] if ERROR_CLASS.fullmatch(error_class):
                    raise MediaError(error_class, text, stage)
            raise ProtocolError("an error without class and message")
        except TimeoutError:
            self.kill()
            raise WorkerLost("deadline", f"no answer within {patience:g} s; the decoder process was killed") from None
        except ProtocolError as error:
            raise self.disbelieve(error) from None
        except (EOFError, ConnectionError):
            raise self._post_mortem() from None

    def disbelieve(self, error: ProtocolError) -> WorkerLost:
        """Kills a worker that lied and returns the error to raise."""
        self.kill()
        return WorkerLost("protocol_error", f"the decoder process was taken over or is broken: {error}")

    def interrupt(self) -> None:
        """Kills it from another thread. The thread that waits for its answer then learns that it ended."""
        self._zygote.kill_worker()

    def kill(self) -> None:
        """Kills it and waits for its end."""
        if not self._ended:
            self._stats.killed += 1
            self._zygote.kill_worker()
            self._await_end()

    def _await_end(self) -> dict[str, Any] | None:
        self._ended = True
        try:
            return self._zygote.status(EXIT_SECONDS)
        except TimeoutError:  # it hung up but is still alive
            self._zygote.kill_worker()
        except (EOFError, OSError, ProtocolError):
            self._zygote.close()
            return None
        try:
            return self._zygote.status(EXIT_SECONDS)
        except (TimeoutError, EOFError, OSError, ProtocolError):
            self._zygote.close()
            return None

    def _post_mortem(self) -> Exception:
        status = self._await_end()
        if self._feeder is not None and self._feeder.error is not None:
            return self._feeder.error
        self._stats.crashed += 1
        log = read_log(self._log_fd)
        tail = f"; it said: {log}" if log else ""
        if status is None:
            return WorkerLost("worker_killed", "the decoder process was killed with its zygote", from_outside=True)
        if "exit" in status:
            if status["exit"] == EXIT_NO_SANDBOX:
                return WorldError(f"the sandbox cannot be set up: {log}; --sandbox=off decodes without one")
            return WorkerLost("worker_exited", f"the decoder process exited with status {status['exit']}{tail}")
        number = int(status["signal"])
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        if number == signal.SIGXCPU:
            return WorkerLost("deadline", "the decoder process used up its CPU time", spent=True)
        if number == signal.SIGABRT and ("bad_alloc" in log or "memory allocation" in log):
            return WorkerLost("out_of_memory", f"the decoder process ran out of memory{tail}")
        # SIGKILL comes from outside: an operator, or the kernel when memory runs out.
        return WorkerLost("worker_killed", f"the decoder process was killed by {name}{tail}", number == signal.SIGKILL)

    def close(self) -> None:
        """Hangs up. A worker that is done ends by itself; any other is killed."""
        self._sock.close()
        if self._feeder is not None:
            self._feeder.close()
        if not self._ended:
            self._await_end()
        os.close(self._log_fd)


def read_log(fd: int, from_end: bool = False) -> str:
    """What was printed, made fit to be shown: at most 300 characters."""
    text = os.pread(fd, START_LOG_BYTES, 0).rstrip(b"\0").decode("utf-8", "replace")
    return printable(text[-300:] if from_end else text, 300)
