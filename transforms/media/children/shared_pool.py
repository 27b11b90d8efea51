"""The one pool of this process: kept from wave to wave, for its children take a second to start."""

from __future__ import annotations

import os
import threading
from typing import Any

from ..protocol import Limits
from .pool import WorkerPool
from .sandbox import SandboxMode

_shared: tuple[tuple[Any, ...], WorkerPool] | None = None
_lock = threading.Lock()


def shared_pool(decoders: int, ahead_bytes: int, limits: Limits, sandbox: SandboxMode = "auto") -> WorkerPool:
    """This process's one pool; another configuration closes it and makes another."""
    global _shared
    config = (os.getpid(), decoders, ahead_bytes, limits, sandbox)
    with _lock:
        if _shared is not None and _shared[0] == config and not _shared[1]._core.ahead.closed:
            return _shared[1]
        if _shared is not None:
            _shared[1].close()
        _shared = (config, WorkerPool(decoders, ahead_bytes, limits, sandbox))
        return _shared[1]


def close_shared_pool() -> None:
    """Ends this process's pool and its children, where there is one."""
    global _shared
    with _lock:
        if _shared is not None:
            _shared[1].close()
        _shared = None
