"""What the command says to the template and the workers. It goes through `multiprocessing.connection.Connection`s over
sockets that nobody else can reach."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from multiprocessing.connection import Connection

from ..options import AuditConfig
from ..waves import Wave
from .cost import Cost


@dataclass(frozen=True, slots=True)
class Load:
    """To the template: load the detectors of an audit. The answer is None or the error."""

    config: AuditConfig


@dataclass(frozen=True, slots=True)
class Fork:
    """To the template: start a worker. The answer is its process id; its end of a socket follows by `send_socket`."""

    threads: int
    """That its libraries compute with."""
    device: str
    on_device: int
    """Workers that share that device."""


@dataclass(frozen=True, slots=True)
class Reap:
    """To the template: how did this worker end? The answer is its exit code, or the number of its signal, negative;
    None if it lives on after so many seconds."""

    pid: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Work:
    """To a worker: score this. The answer is Done. It ends when it gets None instead."""

    wave: Wave
    counters: str
    """The folder of the counters that progress is shown from; empty for none."""
    metered: bool = False
    """Whether the answer shall say what it cost."""


@dataclass(frozen=True, slots=True)
class Done:
    error: Exception | None = None
    cost: Cost | None = None


def send_socket(connection: Connection, end: socket.socket) -> None:
    with _socket_of(connection) as through:
        socket.send_fds(through, [b"s"], [end.fileno()])


def take_socket(connection: Connection) -> Connection:
    """The other side of `send_socket`. Raises EOFError."""
    with _socket_of(connection) as through:
        _, descriptors, _, _ = socket.recv_fds(through, 1, 1)
    if not descriptors:
        raise EOFError
    return Connection(descriptors[0])


def _socket_of(connection: Connection) -> socket.socket:
    # Not multiprocessing's send_handle: where a default timeout is set (sockets.py) it leaves the socket non-blocking.
    through = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=os.dup(connection.fileno()))
    through.settimeout(None)
    return through
