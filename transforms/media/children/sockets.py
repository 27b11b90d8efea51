"""The sockets between the parent and its children."""

from __future__ import annotations

import socket


def blocking_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets that block, whatever `socket.setdefaulttimeout` says.

    When Beam asks Google for credentials (on every Dataflow worker), it sets a default timeout of 60 s. New sockets are
    then non-blocking, and so is the end that a child inherits: the flag belongs to the open file, which both share.
    """
    ours, theirs = socket.socketpair()
    ours.settimeout(None)
    theirs.settimeout(None)
    return ours, theirs
