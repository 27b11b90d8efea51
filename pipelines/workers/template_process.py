"""The command's hold on the process that workers are forked from (template.py): starts it, asks it, ends it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Connection
from typing import Any

from ...transforms.media.children.sandbox import die_with_parent
from ...transforms.media.children.sockets import blocking_pair
from .messages import send_socket
from .template import serve

PROGRAM = (sys.executable, "-P", "-m", "deephotlink.pipelines.workers")
PATIENCE_SECONDS = 20.0


class TemplateLost(Exception):
    """The process that workers are forked from was killed."""


class TemplateProcess:
    """Forked from this process, or a program of its own where this one has several threads."""

    def __init__(self) -> None:
        ours, theirs = blocking_pair()
        self._program: subprocess.Popen[bytes] | None = None
        if threading.active_count() == 1:
            self.pid = _fork(ours.fileno(), theirs.detach())
        else:
            with theirs:
                command = [*PROGRAM, str(theirs.fileno()), str(os.getpid())]
                self._program = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
            self.pid = self._program.pid
        self._connection = Connection(ours.detach())

    def ask(self, message: Any, end: socket.socket | None = None) -> Any:
        """Its answer to the message, which `end` of a socket follows. Raises TemplateLost."""
        try:
            self._connection.send(message)
            if end is not None:
                send_socket(self._connection, end)
            return self._connection.recv()
        except (EOFError, OSError):
            raise TemplateLost from None

    def close(self) -> None:
        """Waits for its end, and kills it if that does not come."""
        self._connection.close()
        if not self._ended(PATIENCE_SECONDS):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self._ended(PATIENCE_SECONDS)

    def _ended(self, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self._program is not None:
                ended = self._program.poll() is not None
            else:
                try:
                    ended = os.waitpid(self.pid, os.WNOHANG) != (0, 0)
                except ChildProcessError:
                    ended = True
            if ended:
                return True
            time.sleep(0.01)
        return False


def _fork(ours: int, theirs: int) -> int:
    above = os.getpid()
    if pid := os.fork():
        os.close(theirs)
        return pid
    try:
        die_with_parent(above)
        os.close(ours)
        serve(Connection(theirs))
    finally:
        os._exit(0)  # nothing that the command does at its end is for us to do
