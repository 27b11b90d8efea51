"""The child processes that parse hostile bytes. Run as `python -m deephotlink.transforms.media.children.worker`, not
imported.

One *zygote* for each slot loads the libraries once and stays clean: it never looks at a file. For each job it forks a
*worker* (about 5 ms), which confines itself, serves one file and exits. Whatever a file does to its process ends there.

Socket of the zygote:  {ready} →   ← {fork} + job socket + log    {pid} →   {status} →   (the worker is reaped at the
next message, so that its pid cannot be reused and the parent can never kill some other process)
(for a fed file, the fork's message also carries the socket on which the worker asks for bytes: see feeding.py)
Socket of the worker:  ← {probe}    {facts} → {credentials} →
or, for each slice:    ← {decode}    ← {go} + memory, item →, …, {end} →    until the parent hangs up
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Any

EXIT_NO_SANDBOX = 97
PARENTS_OWN = {"worker", "zygote", "pool", "decode_queue", "feeding", "sockets", "measures"}
"""Modules of this package that a worker does not need."""


def main(arguments: list[str]) -> None:
    """Serves forks until the parent hangs up.

    arguments: socket, pid of the parent, limits and sandbox layers as JSON.
    """
    control_fd, parent_pid, config = int(arguments[0]), int(arguments[1]), json.loads(arguments[2])
    # Ctrl-C and a scheduler's SIGTERM go to the whole process group, but only the parent decides how a file ends.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    from .sandbox import die_with_parent

    die_with_parent(parent_pid)
    control = socket.socket(fileno=control_fd)
    preload()
    from .sandbox import prepare

    prepare(config["layers"])
    from ..containers.fed_file import feed_from
    from ..protocol import Limits
    from .handover import MAX_ITEM_BYTES, receive_with_fds, send_message

    limits = Limits(**config["limits"])
    gc.collect()
    gc.freeze()  # keeps what is loaded shared between the workers
    send_message(control, {"ready": True})
    zygote_pid = os.getpid()
    while True:
        try:
            _, (job_fd, log_fd, *feed_fds) = receive_with_fds(control, MAX_ITEM_BYTES, 3)
        except EOFError:
            return
        pid = os.fork()
        if pid == 0:
            try:
                die_with_parent(zygote_pid)
                control.close()
                os.dup2(log_fd, 1)
                os.dup2(log_fd, 2)
                os.close(log_fd)
                for feed_fd in feed_fds:
                    feed_from(socket.socket(fileno=feed_fd))
                serve(socket.socket(fileno=job_fd), limits, config["layers"])
            except BaseException:  # whatever it was: a fork must never return into the zygote's loop
                import traceback

                traceback.print_exc()
                sys.stderr.flush()
                os._exit(1)
            os._exit(0)
        for descriptor in (job_fd, log_fd, *feed_fds):
            os.close(descriptor)
        send_message(control, {"pid": pid})
        end = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert end is not None
        killed = end.si_code in (os.CLD_KILLED, os.CLD_DUMPED)
        send_message(control, {"signal": end.si_status} if killed else {"exit": end.si_status})
        # The next fork message shows that the parent has read this status. Only then may the pid be reused.
        _await_message(control)
        os.waitpid(pid, 0)


def _await_message(sock: socket.socket) -> None:
    sock.recv(1, socket.MSG_PEEK)


def preload() -> None:
    """Loads all that a worker needs, because it cannot open most files later. Sets up nothing that does not survive a
    fork, such as a c2pa context ("Context is not valid")."""
    from ... import media

    # By itself, PyAV loads its subtitle modules only when it opens a container that may have subtitles.
    for name in ("numpy", "av", "av.subtitles.stream", "av.subtitles.codeccontext", "decord", "c2pa"):
        importlib.import_module(name)
    for module in pkgutil.walk_packages(media.__path__, f"{media.__name__}."):
        if module.name.rpartition(".")[2] not in PARENTS_OWN:
            importlib.import_module(module.name)
    with contextlib.suppress(ImportError, RuntimeError, OSError):  # no libseccomp here: the parent found that out too
        importlib.import_module("pyseccomp")


def serve(sock: socket.socket, limits: Any, layers: list[str]) -> None:
    """A worker's whole life: one request, one file."""
    from ...failures import MediaError
    from .handover import MAX_REQUEST_BYTES, receive_with_fds, send_message
    from .sandbox import confine, limit_resources

    request, _ = receive_with_fds(sock, MAX_REQUEST_BYTES, 0)
    kind = "probe" if "probe" in request else "decode"
    fields = request[kind]
    try:
        limit_resources(limits)
        with open(fields["path"], "rb"):
            pass
    except FileNotFoundError:
        send_message(sock, {"error": ["missing", "the file no longer exists"]})
        return
    except OSError as error:
        send_message(sock, {"error": ["unreadable", f"the file cannot be opened: {error.strerror}"]})
        return
    try:
        confine(fields["path"], layers)
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(EXIT_NO_SANDBOX)
    try:
        (_probe if kind == "probe" else _decode)(sock, fields, limits)
    except MediaError as error:
        send_message(sock, {"error": [error.error_class, error.message]})
    except MemoryError:
        send_message(sock, {"error": ["out_of_memory", f"it needs more than {limits.memory_bytes >> 20} MiB"]})
    except (BrokenPipeError, EOFError, ConnectionError):
        return  # the parent wants nothing more
    except Exception as error:  # hostile bytes can make libraries raise anything, so blame the file
        send_message(sock, {"error": ["decoder_error", f"{type(error).__name__}: {error}"[:2000]]})


def _probe(sock: socket.socket, fields: dict[str, Any], limits: Any) -> None:
    from ..containers.credentials import read_credentials
    from ..probe_file import probe
    from . import planted_faults
    from .handover import send_message

    planted_faults.strike(fields["path"], "probe")
    send_message(sock, {"facts": probe(fields["path"], limits)})
    if fields["credentials"]:
        planted_faults.strike(fields["path"], "credentials")
        send_message(sock, {"credentials": read_credentials(fields["path"], fields["suffix"])})


def _decode(sock: socket.socket, fields: dict[str, Any], limits: Any) -> None:
    from ..decoders.decode_file import ItemDecoder
    from ..protocol import DecodedItem, decode_request_from_json
    from . import planted_faults
    from .handover import MAX_ITEM_BYTES, MAX_REQUEST_BYTES, hand_over, receive_with_fds, send_message

    request = decode_request_from_json(fields)
    count = 0
    with ItemDecoder(request, limits) as decoder:
        while True:
            # Opening the file counts towards the first item's deadline: nothing is opened before an item is asked for.
            items: Iterator[DecodedItem] = decoder.items(request.clips, request.windows)
            while True:
                _, (fd,) = receive_with_fds(sock, MAX_ITEM_BYTES, 1)
                if count == 1:
                    planted_faults.strike(request.path, "decode")
                item = next(items, None)
                if item is None:
                    os.close(fd)
                    send_message(sock, {"end": True})
                    break
                words = planted_faults.lie(request.path, hand_over(item, fd), fd)
                del item  # before the next one is decoded: two at a time would double the peak
                os.close(fd)
                send_message(sock, words)
                count += 1
            message, _ = receive_with_fds(sock, MAX_REQUEST_BYTES, 0)
            request = decode_request_from_json(message["decode"])


if __name__ == "__main__":
    main(sys.argv[1:])
