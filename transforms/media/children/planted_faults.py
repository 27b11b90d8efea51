"""Deliberate faults to test the worker processes: inert unless DEEPHOTLINK_FAULTS_FOR_TESTS=1 when they start.

A file whose name holds `fault-KIND` makes its worker misbehave at its second item, `fault-probe-KIND` in the probe,
`fault-credentials-KIND` after the probe. If KIND is one of `LIES`, the worker lies about its first clip.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import signal
import time
from typing import Any

import numpy as np

ARMED = os.environ.get("DEEPHOTLINK_FAULTS_FOR_TESTS") == "1"
LIES = ("seal", "shape", "index", "count", "sound", "nan")
_kept: list[Any] = []


def strike(path: str, stage: str) -> None:
    """Does what the file's name asks for at this stage: `probe`, `credentials`, `decode`."""
    prefix = "" if stage == "decode" else stage + "-"
    found = re.search(rf"fault-{prefix}(segv|abort|hang|spin|exit|oom|raise|sigkill)", os.path.basename(path))
    if not ARMED or found is None:
        return
    match found[1]:
        case "segv":
            ctypes.string_at(0)
        case "abort":
            os.abort()
        case "hang":
            time.sleep(3600)
        case "spin":  # in C, with the interpreter's lock held
            re.match(r"(a+)+$", "a" * 64 + "b")
        case "exit":
            os._exit(3)
        case "oom":
            _kept.extend(np.empty(1 << 28, np.uint8) for _ in range(1 << 20))  # address space, never touched
        case "raise":
            raise IndexError("what a library raises on odd bytes")
        case "sigkill":
            signal.raise_signal(signal.SIGKILL)


def lie(path: str, words: dict[str, Any], fd: int) -> dict[str, Any]:
    """`words` about an item, falsified as the file's name asks for."""
    found = re.search(rf"fault-({'|'.join(LIES)})", os.path.basename(path))
    if not ARMED or found is None or "clip" not in words:
        return words
    match found[1]:
        case "seal":
            _kept.append(mmap.mmap(fd, os.fstat(fd).st_size))
        case "shape":
            count, height, width, channels = words["frames"]
            return words | {"frames": [count, width + 1, height, channels]}
        case "index":
            return words | {"clip": 4711}
        case "count":
            return words | {"frames": [1 << 30, *words["frames"][1:]]}
        case "sound":
            return words | {"sound": 1 << 40}
        case "nan":
            os.pwrite(fd, b"\xff" * 8, -(-_product(words["frames"]) // 64) * 64)
    return words


def _product(shape: list[int]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product
