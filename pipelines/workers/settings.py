"""What a process asks of the libraries that it computes with: how many threads, and how memory is given back."""

from __future__ import annotations

import contextlib
import ctypes
import os

import pyarrow as pa
import torch
from threadpoolctl import threadpool_limits

from ...models.frames import KEPT

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8
"""Names of options of mallopt(3), from malloc.h."""
MALLOC = {_MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 256 << 20, _TOP_PAD: 64 << 20, _ARENA_MAX: 1}
"""glibc's defaults give the tensors of a forward pass back to the kernel and take them again for the next one: 1.3
million page faults in an audit of 12 clips, a third of the CPU time of `audio`. With these there were 0.3 million, the
system time fell from 4.8 s to 1.6, and the peak of memory stayed where it was. 32 MiB is the most that is allowed."""


CONTEXT_BYTES = 600 << 20
"""Of a GPU, that a process takes besides torch's own allocations: CUDA's context and its kernels (an estimate)."""
FRAMES_SHARE = 4
"""A quarter of what torch may allocate is the most that frames of clips may take of it."""


def spare_work() -> None:
    """Has glibc keep what was freed for the next allocation (other C libraries are left as they are), and Python look
    for no translations: Beam parses its options forty times a wave, which asked the disk each time for those of
    argparse, a quarter of what a wave costs by itself."""
    os.environ.setdefault("LANGUAGE", "C")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in MALLOC.items():
            mallopt(option, value)


def use_threads(count: int) -> None:
    """Has torch, BLAS and Arrow compute with at most so many threads each, in all threads of this process."""
    torch.set_num_threads(count)
    threadpool_limits(count, user_api="blas")
    pa.set_cpu_count(count)


def share_gpu(device: str, processes: int) -> None:
    """Bounds what torch takes of a GPU's memory where several processes share it. A process that needs more then runs
    out of memory by itself and halves its batch. Without the bound it would take the room of the others."""
    if processes < 2 or not device.startswith("cuda"):
        return
    number = torch.device(device).index or 0
    # A GPU that cannot be used is told of when the first network goes there: that error reaches the user.
    with contextlib.suppress(RuntimeError):
        total = torch.cuda.get_device_properties(number).total_memory
        room = room_on_gpu(total, processes)
        torch.cuda.set_per_process_memory_fraction(room / total, number)
        KEPT.most_bytes = min(KEPT.most_bytes, room // FRAMES_SHARE)


def room_on_gpu(total: int, processes: int) -> int:
    """Bytes that torch may allocate in each process: an equal part, without its context but at least half of it.

    >>> [room_on_gpu(gib << 30, 4) >> 20 for gib in (16, 4)]
    [3496, 512]
    """
    return max(total // processes - CONTEXT_BYTES, total // (2 * processes))
